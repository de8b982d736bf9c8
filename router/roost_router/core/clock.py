"""Server time, as a router knows it: what its nodes announce in their hello, carried on.

A router has no clock of its own that anybody trusts. It takes the time of the node that it heard
from last, and goes on from there by its monotonic clock; it never runs back. Where that node's clock is
behind the last one's, time goes on a little slower until it has been caught up with: deadlines and pauses
are measured by it, so it never stands still.
"""

from __future__ import annotations

SLOW = 7 / 8  # of the time that passes, while a clock that is behind is waited for


class ServerTime:
    """Milliseconds since 1970, after the first hello."""

    __slots__ = ("_base_ms", "_last_monotonic_ms", "_last_ms", "is_known")

    def __init__(self) -> None:
        self._base_ms = 0
        self._last_ms = 0.0
        self._last_monotonic_ms = 0
        self.is_known = False

    def on_hello(self, server_time_ms: int, monotonic_ms: int) -> None:
        """A node said what time it is."""
        self._base_ms = server_time_ms - monotonic_ms
        self.is_known = True

    def now_ms(self, monotonic_ms: int) -> int:
        """The time."""
        passed_ms = monotonic_ms - self._last_monotonic_ms
        self._last_ms = max(self._base_ms + monotonic_ms, self._last_ms + passed_ms * SLOW)
        self._last_monotonic_ms = monotonic_ms
        return int(self._last_ms)
