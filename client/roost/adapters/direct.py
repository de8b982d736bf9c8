"""Straight to the owners: a router's core in the client's own process, found by entry point."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import NamedTuple

from roost.adapters.transport import Transport
from roost.errors import RoostError


class Identity(NamedTuple):
    """A node that calls other nodes."""

    address: str  # its own: by way of itself it finds no detour
    secret: bytes  # of its cluster, by which others believe whose calls it passes on; may be empty


def direct_transport(
    addresses: Sequence[str], *, connect_timeout_s: float, who: Identity | None = None
) -> Transport:
    """A link to every owner. Raises RoostError where this installation has no router.

    `who`: the node that asks, if it is one.
    """
    for entry in entry_points(group="roost.embedded", name="direct"):
        transport: Transport = entry.load()(addresses, connect_timeout_s=connect_timeout_s, who=who)
        return transport
    raise RoostError("direct=True needs the router's package, which is not installed")
