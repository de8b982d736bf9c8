"""How many bytes may be copied now: a bucket that fills with time, and holds what a second brings.

A copy begins while anything is left and takes its whole size, so the bucket may run into debt: else a shard
larger than the bucket would never be copied. The debt is waited off before the next copy.
"""

from __future__ import annotations


class Allowance:
    """Bytes that copies may still use."""

    __slots__ = ("_left", "_per_s", "_since_ms")

    def __init__(self, bytes_per_s: int, now_ms: int) -> None:
        self._per_s = bytes_per_s
        self._left = bytes_per_s
        self._since_ms = now_ms

    def left(self, now_ms: int) -> int:
        """What is there; a debt is negative."""
        passed_ms = max(0, now_ms - self._since_ms)
        self._since_ms = now_ms
        self._left = min(self._per_s, self._left + self._per_s * passed_ms // 1000)
        return self._left

    def take(self, size: int) -> None:
        """A copy of this size begins."""
        self._left -= size
