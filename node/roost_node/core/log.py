"""The log of one shard, as its owner sees it: entries appended, entries committed, and what lies between.

A turn's writes become one entry. The entry counts at once for whatever runs next on this shard
(`read`, `rows`), although nothing may leave before it is committed (`output_gate.py`); a reset
activation is therefore loaded from state *plus* these younger entries (L4).

Invariants: indexes have no gap; log time never runs back (L5); an appended entry is never taken
back in this epoch (L4); `committed <= last`.
Not here: how entries reach disks (`host/committer.py`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence

import msgspec

HASH_BYTES = 16
DEDUP_WINDOW_MS = 10 * 60 * 1000
AHEAD_MS_MAX = 60 * 1000
GROUP_ROWS_MIN = 256  # below it nobody looks what could be forgotten


class DeleteRange(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Delete every key in [start, end)."""

    start: bytes
    end: bytes


Op = tuple[bytes, bytes | None] | DeleteRange
"""One write: (key, value), (key, None) to delete, or a range."""


class Head(msgspec.Struct, frozen=True):
    """Where a log stands: what is written beside every batch and read on opening."""

    epoch: int = 0
    index: int = 0
    hash: bytes = bytes(HASH_BYTES)
    log_time_ms: int = 0


class Entry(msgspec.Struct, gc=False):
    """One commit of one shard."""

    shard: int
    epoch: int
    index: int
    previous_epoch: int
    hash: bytes
    log_time_ms: int
    group: bytes  # the object that wrote it, as a key prefix
    ops: Sequence[Op]
    size_bytes: int


class LogClock:
    """The shard's log time: follows the node's clock, never runs back, and forgives an outage.

    Records of finished calls are kept for a window of log time (L5). If log time jumped over an
    outage, the window of calls made just before it would be used up while nobody could retry. So
    after opening, log time first goes on from where it stood, and joins the clock a window later.
    """

    __slots__ = ("_lag_ms", "_lag_until_ms", "_last_ms")

    def __init__(self, last_ms: int, now_ms: int, window_ms: int = DEDUP_WINDOW_MS) -> None:
        self._last_ms = last_ms
        self._lag_ms = max(0, now_ms - last_ms) if last_ms else 0
        self._lag_until_ms = now_ms + window_ms

    def read(self, now_ms: int) -> int:
        """Log time at `now_ms`; at least every value returned before."""
        log_ms = now_ms if now_ms >= self._lag_until_ms else now_ms - self._lag_ms
        if log_ms > self._last_ms:
            self._last_ms = log_ms
        return self._last_ms


class ShardLog:
    """Appended and committed entries of one shard under one epoch."""

    __slots__ = (
        "_clock",
        "_groups",
        "_hash",
        "_previous_epoch",
        "_uncommitted",
        "committed",
        "epoch",
        "last",
        "shard",
    )

    def __init__(self, shard: int, head: Head, epoch: int, now_ms: int) -> None:
        self.shard = shard
        self.epoch = epoch
        self.last = head.index
        self.committed = head.index
        self._previous_epoch = head.epoch
        self._hash = head.hash
        self._clock = LogClock(head.log_time_ms, now_ms)
        self._uncommitted: deque[Entry] = deque()
        self._groups: dict[bytes, Group] = {}

    def time_ms(self, now_ms: int) -> int:
        """The shard's log time."""
        return self._clock.read(now_ms)

    def append(self, group: bytes, ops: Sequence[Op], now_ms: int) -> Entry:
        """Make one entry of one turn's writes; `group` is the object that may read them back."""
        index = self.last + 1
        digest = hashlib.blake2b(self._hash, digest_size=HASH_BYTES)
        size = 0
        rows = self._groups.get(group)
        if rows is None:
            rows = self._groups[group] = Group()
        written = rows.rows
        for op in ops:
            if type(op) is tuple:
                key, value = op
                digest.update(key)
                if value is None:
                    size += len(key)
                else:
                    digest.update(value)
                    size += len(key) + len(value)
                written[key] = (value, index)
            else:
                assert isinstance(op, DeleteRange)
                digest.update(op.start + op.end)
                size += len(op.start) + len(op.end)
                rows.delete_range(op, index)
        self._hash = digest.digest()
        entry = Entry(
            self.shard,
            self.epoch,
            index,
            self._previous_epoch,
            self._hash,
            self._clock.read(now_ms),
            group,
            ops,
            size,
        )
        self._previous_epoch = self.epoch
        self.last = rows.last = index
        self._uncommitted.append(entry)
        return entry

    def on_durable(self, index: int) -> None:
        """Every in-sync replica has everything up to `index` (R1): it is committed."""
        assert index <= self.last, "L4: nothing is committed that was not appended"
        uncommitted = self._uncommitted
        while uncommitted and uncommitted[0].index <= index:
            entry = uncommitted.popleft()
            rows = self._groups.get(entry.group)
            if rows is None:
                continue
            if rows.last <= index:
                del self._groups[entry.group]
            elif rows.is_long:
                rows.forget(index)
        if index > self.committed:
            self.committed = index

    def group(self, group: bytes) -> Group | None:
        """What `group` wrote that may not be in the state yet."""
        return self._groups.get(group)

    def uncommitted(self) -> Iterator[Entry]:
        """Appended and not committed, oldest first."""
        return iter(self._uncommitted)


class Group:
    """Rows of one object in entries that may not be in the state yet: they go before it (L4)."""

    __slots__ = ("_long_at", "last", "ranges", "rows")

    def __init__(self) -> None:
        self.last = 0
        self.rows: dict[bytes, tuple[bytes | None, int]] = {}
        self.ranges: list[tuple[DeleteRange, int]] = []
        self._long_at = GROUP_ROWS_MIN

    def delete_range(self, deleted: DeleteRange, index: int) -> None:
        """Hide the range, also the rows written into it before."""
        for key in self.rows:
            if deleted.start <= key < deleted.end:
                self.rows[key] = (None, index)
        self.ranges.append((deleted, index))

    def get(self, key: bytes) -> tuple[bytes | None] | None:
        """(value,) or (None,) for a deleted row; None: look into the state."""
        row = self.rows.get(key)
        if row is not None:
            return (row[0],)
        if self.hides(key):
            return (None,)
        return None

    def hides(self, key: bytes) -> bool:
        """Did a range delete take the row that the state may still have?"""
        return any(deleted.start <= key < deleted.end for deleted, _ in self.ranges)

    @property
    def is_long(self) -> bool:
        """An object that always has an uncommitted entry: what is committed is to be forgotten."""
        return len(self.rows) + len(self.ranges) >= self._long_at

    def forget(self, index: int) -> None:
        """Everything up to `index` is in the state."""
        self.rows = {key: row for key, row in self.rows.items() if row[1] > index}
        self.ranges = [deleted for deleted in self.ranges if deleted[1] > index]
        # Twice what is left: so forgetting costs each row a constant, however many there are.
        self._long_at = max(GROUP_ROWS_MIN, 2 * (len(self.rows) + len(self.ranges)))
