"""Server time: the clock in which requests are stamped and deadlines end.

It follows the wall clock, yet never runs back, not even over a restart (its owner stores how far it
has come with every batch, as a floor for the next process): or a clock that was set back would make
requests look as if they came from the future, and refuse them. When the wall clock is behind, server
time goes on a little slower until it has been caught up with; it never stands still, because deadlines
are measured by it.
"""

from __future__ import annotations

from collections.abc import Callable

NS_PER_MS = 1_000_000


class ServerClock:
    """Milliseconds since 1970. `wall_ns` may step, `monotonic_ns` may not."""

    __slots__ = ("_last_monotonic_ns", "_last_ns", "_monotonic_ns", "_wall_ns")

    def __init__(self, wall_ns: Callable[[], int], monotonic_ns: Callable[[], int]) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._last_ns = wall_ns()
        self._last_monotonic_ns = monotonic_ns()

    def now_ms(self) -> int:
        """Now."""
        monotonic = self._monotonic_ns()
        wall = self._wall_ns()
        last = self._last_ns
        if wall < last:
            wall = last + (monotonic - self._last_monotonic_ns) * 7 // 8
        self._last_ns = wall
        self._last_monotonic_ns = monotonic
        return wall // NS_PER_MS

    def advance_to(self, floor_ms: int) -> None:
        """An earlier process had come this far."""
        self._last_ns = max(self._last_ns, floor_ms * NS_PER_MS)
