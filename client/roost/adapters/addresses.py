"""What an address looks like: `host:port`.

gRPC takes nearly any text for one, looks for it in vain, and never says that it was a slip of the pen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from roost.errors import InvalidArgumentError

HOST_PORT = re.compile(r"(?:\[[^\[\]\s]+\]|[^\[\]\s:/,]+):(\d{1,5})", re.ASCII)
SCHEMES = ("dns:///", "unix:", "ipv4:", "ipv6:")
"""gRPC's own ways to say where a server is: taken as they are."""


def checked(addresses: Iterable[str]) -> tuple[str, ...]:
    """The addresses, without spaces around them. Raises InvalidArgumentError for what can never be reached."""
    return tuple(map(_checked, addresses))


def setting(name: str, addresses: Iterable[str]) -> tuple[str, ...]:
    """As `checked`, of a setting: raises ValueError, with its name."""
    try:
        return checked(addresses)
    except InvalidArgumentError as error:
        raise ValueError(f"{name}: {error}") from None


def _checked(given: str) -> str:
    address = given.strip()
    if address.startswith(SCHEMES):
        return address
    found = HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found[1]) <= 65_535:
        raise InvalidArgumentError(f"{address or repr(given)}: give host:port")
    return address
