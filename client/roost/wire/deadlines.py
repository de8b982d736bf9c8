"""Deadlines of calls that wait, in buckets: no timer and no heap entry for each call.

Only calls that wait or are suspended are filed; a call that runs through never comes here.
"""

from __future__ import annotations

from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")

BUCKET_MS = 8


class Deadlines(Generic[ItemT]):
    """Items by the time at which they are due, to `BUCKET_MS`; never early."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[int, dict[ItemT, None]] = {}  # in order of filing

    def add(self, item: ItemT, due_ms: int) -> int:
        """File an item; returns the bucket, to `discard` it."""
        bucket = -(-due_ms // BUCKET_MS)
        items = self._buckets.get(bucket)
        if items is None:
            items = self._buckets[bucket] = {}
        items[item] = None
        return bucket

    def discard(self, item: ItemT, bucket: int) -> None:
        """It waits no more."""
        items = self._buckets.get(bucket)
        if items is not None:
            items.pop(item, None)
            if not items:
                del self._buckets[bucket]

    def due(self, now_ms: int) -> list[ItemT]:
        """Take out everything whose time has come, earliest bucket first."""
        now = now_ms // BUCKET_MS
        reached = sorted(bucket for bucket in self._buckets if bucket <= now)
        return [item for bucket in reached for item in self._buckets.pop(bucket)]

    def next_ms(self) -> int | None:
        """When the next bucket is due."""
        return min(self._buckets) * BUCKET_MS if self._buckets else None

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))
