"""What is refused when there is too much.

Three bounds, whichever is reached first: calls that are open on this node, their bytes, and the age
of the oldest call that is ready and has not run. A refusal says when to come again, from the rate at
which calls have been finished lately.
"""

from __future__ import annotations

RATE_WEIGHT = 0.3
RETRY_AFTER_S_MIN = 0.01
RETRY_AFTER_S_MAX = 5.0
RETRY_AFTER_S_UNKNOWN = 0.05  # nothing has been finished lately


class Admission:
    """Counts what is open and decides on what comes."""

    small_values = ("finished", "_finished_seen", "_rate", "_tick_ms")
    __slots__ = (
        "_finished_seen",
        "_rate",
        "_tick_ms",
        "bytes_max",
        "finished",
        "open_bytes",
        "open_calls",
        "open_max",
        "wait_ms_max",
    )

    def __init__(self, open_max: int, bytes_max: int, wait_ms_max: int) -> None:
        self.open_max = open_max
        self.bytes_max = bytes_max
        self.wait_ms_max = wait_ms_max
        self.open_calls = 0
        self.open_bytes = 0
        self.finished = 0
        self._finished_seen = 0
        self._rate = 0.0
        self._tick_ms = 0

    def refusal(self, size_bytes: int, oldest_wait_ms: int) -> str | None:
        """Why one more call of that size cannot be taken; None: it can."""
        if self.open_calls >= self.open_max:
            return f"this node has {self.open_calls} open calls, at most {self.open_max}"
        if self.open_bytes + size_bytes > self.bytes_max and self.open_calls:
            return f"open calls hold {self.open_bytes} bytes, at most {self.bytes_max}"
        if oldest_wait_ms > self.wait_ms_max:
            return (
                f"the oldest ready call has waited {oldest_wait_ms} ms, at most {self.wait_ms_max}"
            )
        return None

    def open(self, size_bytes: int) -> None:
        """A call was taken."""
        self.open_calls += 1
        self.open_bytes += size_bytes

    def close(self, size_bytes: int) -> None:
        """It has ended."""
        self.open_calls -= 1
        self.open_bytes -= size_bytes
        self.finished += 1

    def tick(self, now_ms: int) -> None:
        """Update the drain rate; call it now and then (some times a second)."""
        elapsed_ms = now_ms - self._tick_ms
        if elapsed_ms <= 0:
            return
        rate = (self.finished - self._finished_seen) * 1000 / elapsed_ms
        self._rate += RATE_WEIGHT * (rate - self._rate)
        self._finished_seen = self.finished
        self._tick_ms = now_ms

    def retry_after_s(self, ahead: int) -> float:
        """When `ahead` calls will have been finished, at the latest rate."""
        if self._rate <= 0:
            return RETRY_AFTER_S_UNKNOWN
        return min(RETRY_AFTER_S_MAX, max(RETRY_AFTER_S_MIN, ahead / self._rate))
