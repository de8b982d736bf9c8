"""Server time, as a router knows it: what its nodes announce in their hello, carried on.

A router has no clock of its own that anybody trusts. It takes the time of the node that it heard
from last, and goes on from there by its monotonic clock; it never runs back.
"""

from __future__ import annotations


class ServerTime:
    """Milliseconds since 1970, after the first hello."""

    __slots__ = ("_base_ms", "_last_ms", "is_known")

    def __init__(self) -> None:
        self._base_ms = 0
        self._last_ms = 0
        self.is_known = False

    def on_hello(self, server_time_ms: int, monotonic_ms: int) -> None:
        """A node said what time it is."""
        self._base_ms = server_time_ms - monotonic_ms
        self.is_known = True

    def now_ms(self, monotonic_ms: int) -> int:
        """The time. It stands still while a node's clock that is ahead gives way to another's."""
        self._last_ms = max(self._last_ms, self._base_ms + monotonic_ms)
        return self._last_ms
