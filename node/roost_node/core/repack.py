"""Small values that outlive the calls which made them, brought together.

Each call leaves a few behind (a shard's index, its hash and time, a count), wherever Python had room
just then; and where one of them lies, a whole MiB cannot be given back to the system. So now and then
all are made anew at one time. First they are gathered into one piece of memory and dropped where they
lie: made anew one by one, they would only move into each other's places.

Not here: when, and what else gives memory back (`host/memory.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Part(Protocol):
    """Something whose small values change with the calls."""

    @property
    def small_values(self) -> tuple[str, ...]:
        """Its attributes with numbers, bytes, or lists and dicts of numbers that nobody else holds."""


def repack(parts: Sequence[Part]) -> None:
    """Make the parts' small values anew, so that they lie side by side."""
    packed = msgspec.msgpack.encode(
        [getattr(part, name) for part in parts for name in part.small_values]
    )
    for part in parts:
        for name in part.small_values:
            setattr(part, name, None)
    values = iter(msgspec.msgpack.decode(packed))
    for part in parts:
        for name in part.small_values:
            setattr(part, name, next(values))
