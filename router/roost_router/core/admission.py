"""What is refused when there is too much.

A router holds every call until its final answer, to send it again when a link breaks; so calls and
their bytes are bounded, and what is over the bound is refused with a hint when to come again. The
room is shared: while there is plenty anybody may take it; when little is left, a client that holds
more than its fair part is refused, so that one that asks a lot does not shut out the others.
"""

from __future__ import annotations

CROWDED = 0.75  # of the room; from there on parts are fair
RATE_WEIGHT = 0.3
RETRY_AFTER_S_MIN = 0.01
RETRY_AFTER_S_MAX = 5.0
RETRY_AFTER_S_UNKNOWN = 0.05  # nothing has been finished lately


class Share:
    """What one client holds."""

    __slots__ = ("open_bytes", "open_calls")

    def __init__(self) -> None:
        self.open_calls = 0
        self.open_bytes = 0


class Admission:
    """Counts what is open and decides on what comes."""

    __slots__ = (
        "_finished",
        "_finished_seen",
        "_holders",
        "_rate",
        "_tick_ms",
        "bytes_max",
        "calls_max",
        "open_bytes",
        "open_calls",
    )

    def __init__(self, calls_max: int, bytes_max: int) -> None:
        self.calls_max = calls_max
        self.bytes_max = bytes_max
        self.open_calls = 0
        self.open_bytes = 0
        self._holders = 0  # clients that hold something
        self._finished = 0
        self._finished_seen = 0
        self._rate = 0.0
        self._tick_ms = 0

    def refusal(self, share: Share, size_bytes: int) -> str | None:
        """Why one more call of that size cannot be taken from that client; None: it can."""
        calls, size = self.open_calls, self.open_bytes + size_bytes
        if calls >= self.calls_max:
            return f"this router has {calls} open calls, at most {self.calls_max}"
        if size > self.bytes_max and calls:
            return (
                f"open calls hold {self.open_bytes} bytes of this router, at most {self.bytes_max}"
            )
        if calls < CROWDED * self.calls_max and size < CROWDED * self.bytes_max:
            return None
        parts = self._holders + 1  # one for whoever comes next
        if share.open_calls and (
            share.open_calls >= self.calls_max / parts
            or share.open_bytes + size_bytes > self.bytes_max / parts
        ):
            return (
                f"this router is nearly full, and {share.open_calls} of its {calls} open calls are "
                f"of this client"
            )
        return None

    def open(self, share: Share, size_bytes: int) -> None:
        """A call was taken."""
        self._holders += share.open_calls == 0
        share.open_calls += 1
        share.open_bytes += size_bytes
        self.open_calls += 1
        self.open_bytes += size_bytes

    def close(self, share: Share, size_bytes: int) -> None:
        """It has ended."""
        share.open_calls -= 1
        share.open_bytes -= size_bytes
        self.open_calls -= 1
        self.open_bytes -= size_bytes
        self._holders -= share.open_calls == 0
        self._finished += 1

    def on_tick(self, now_ms: int) -> None:
        """Update the rate at which calls end; some times a second."""
        elapsed_ms = now_ms - self._tick_ms
        if elapsed_ms < 100:
            return
        rate = (self._finished - self._finished_seen) * 1000 / elapsed_ms
        self._rate += RATE_WEIGHT * (rate - self._rate)
        self._finished_seen = self._finished
        self._tick_ms = now_ms

    def retry_after_s(self) -> float:
        """When a quarter of what is open will have ended, at the latest rate."""
        if self._rate <= 0:
            return RETRY_AFTER_S_UNKNOWN
        wait_s = self.open_calls / 4 / self._rate
        return min(RETRY_AFTER_S_MAX, max(RETRY_AFTER_S_MIN, wait_s))
