"""The log of one shard, as its owner sees it: entries appended, entries committed, and what lies between.

A turn's writes become one entry. The entry counts at once for whatever runs next on this shard
(`read`, `rows`), although nothing may leave before it is committed (`output_gate.py`); a reset
activation is therefore loaded from state *plus* these younger entries (L4).

Invariants: indexes have no gap; log time never runs back (L5); an appended entry is never taken
back in this epoch (L4); `committed <= last`.
Not here: how entries reach disks (`host/committer.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

import msgspec

HASH_BYTES = 16
NOT_HERE: Final = bytes(bytearray(b"not here"))  # compared by identity
"""What `Group.get` says of a row about which it knows nothing: look into the state."""

DEDUP_WINDOW_MS = 10 * 60 * 1000
AHEAD_MS_MAX = 60 * 1000
GROUP_ROWS_MIN = 256  # below it nobody looks what could be forgotten


class DeleteRange(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Delete every key in [start, end)."""

    start: bytes
    end: bytes


Op = tuple[bytes, bytes | None] | DeleteRange
"""One write: (key, value), (key, None) to delete, or a range."""

Rows = Mapping[bytes, bytes | None]
"""Values by key; None: the row is deleted."""


class Head(msgspec.Struct, frozen=True):
    """Where a log stands: what is written beside every batch and read on opening."""

    epoch: int = 0
    index: int = 0
    hash: bytes = bytes(HASH_BYTES)
    log_time_ms: int = 0


class Entry(msgspec.Struct, gc=False):
    """One commit of one shard: first its ranges are deleted, then its rows written."""

    shard: int
    epoch: int
    index: int
    previous_epoch: int
    hash: bytes
    log_time_ms: int
    group: bytes  # the object that wrote it, as a key prefix
    rows: Rows
    ranges: Sequence[DeleteRange]
    size_bytes: int


class LogClock:
    """The shard's log time: follows the node's clock, never runs back, and forgives an outage.

    Records of finished calls are kept for a window of log time (L5). If log time jumped over an
    outage, the window of calls made just before it would be used up while nobody could retry. So
    after opening, log time first goes on from where it stood, and joins the clock a window later.
    """

    small_values = ("_last_ms",)
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

    small_values = ("last", "committed", "_hash")
    __slots__ = (
        "_groups",
        "_hash",
        "_previous_epoch",
        "_uncommitted",
        "clock",
        "committed",
        "epoch",
        "last",
        "shard",
        "size_bytes",
    )

    def __init__(self, shard: int, head: Head, epoch: int, now_ms: int) -> None:
        self.shard = shard
        self.epoch = epoch
        self.last = head.index
        self.committed = head.index
        self._previous_epoch = head.epoch
        self._hash = head.hash
        self.clock = LogClock(head.log_time_ms, now_ms)
        self._uncommitted: list[Entry] = []
        self.size_bytes = 0  # of these
        self._groups: dict[bytes, Group] = {}

    def time_ms(self, now_ms: int) -> int:
        """The shard's log time."""
        return self.clock.read(now_ms)

    def append(
        self, group: bytes, rows: Rows, now_ms: int, ranges: Sequence[DeleteRange] = ()
    ) -> Entry:
        """Make one entry of one turn's writes; `group` is the object that may read them back.

        `rows` belongs to the log from now on.
        """
        index = self.last + 1
        hashed = [self._hash]
        for deleted in ranges:
            hashed += (deleted.start, deleted.end)
        for key, value in rows.items():
            hashed.append(key)
            if value is not None:
                hashed.append(value)
        # One digest over the joined bytes: an update for each part took three times as long.
        joined = b"".join(hashed)
        self._hash = running = blake2b(joined, digest_size=HASH_BYTES).digest()
        entry = Entry(
            self.shard,
            self.epoch,
            index,
            self._previous_epoch,
            running,
            self.clock.read(now_ms),
            group,
            rows,
            ranges,
            len(joined) - HASH_BYTES,
        )
        self._previous_epoch = self.epoch
        self.last = index
        self._uncommitted.append(entry)
        self.size_bytes += entry.size_bytes
        younger = self._groups.get(group)
        if younger is None:
            self._groups[group] = Group(index, rows, ranges)
        else:
            younger.add(entry)
        return entry

    def adopt(self, entries: Sequence[Entry], now_ms: int) -> None:
        """Entries of earlier owners that are not in the state yet, oldest first: they count (L4)."""
        for entry in entries:
            assert entry.index == self.last + 1, "indexes have no gap"
            self.last = entry.index
            self._hash = entry.hash
            self._previous_epoch = entry.epoch
            self._uncommitted.append(entry)
            self.size_bytes += entry.size_bytes
            younger = self._groups.get(entry.group)
            if younger is None:
                self._groups[entry.group] = Group(entry.index, entry.rows, entry.ranges)
            else:
                younger.add(entry)
            self.clock = LogClock(entry.log_time_ms, now_ms)  # it never runs back (L5)

    def uncommitted(self, index: int) -> list[Entry]:
        """Entries up to `index` that are not in the state yet, oldest first."""
        return [entry for entry in self._uncommitted if entry.index <= index]

    def on_durable(self, index: int) -> None:
        """Every in-sync replica has everything up to `index` (R1): it is committed."""
        assert index <= self.last, "L4: nothing is committed that was not appended"
        if index <= self.committed:
            return
        self.committed = index
        uncommitted, groups = self._uncommitted, self._groups
        if index == self.last:
            uncommitted.clear()
            self.size_bytes = 0
            groups.clear()
            return
        count = index - uncommitted[0].index + 1  # indexes have no gap
        done = uncommitted[:count]
        del uncommitted[:count]
        self.size_bytes -= sum(entry.size_bytes for entry in done)
        for entry in done:
            younger = groups.get(entry.group)
            if younger is None:
                continue
            if younger.last <= index:
                del groups[entry.group]
            elif younger.is_long:
                younger.forget([e for e in uncommitted if e.group == entry.group])

    def group(self, group: bytes) -> Group | None:
        """What `group` wrote that may not be in the state yet."""
        return self._groups.get(group)

    def younger(self, start: bytes, end: bytes) -> dict[bytes, bytes | None]:
        """Rows of [start, end) that may not be in the state yet, whoever wrote them; no range delete."""
        groups = self._groups.values()
        return {k: v for group in groups for k, v in group.rows.items() if start <= k < end}


class Group(msgspec.Struct):
    """Rows of one object in entries that may not be in the state yet: they go before it (L4)."""

    last: int
    rows: Rows  # those of its entry, until there is a second one
    ranges: Sequence[DeleteRange]
    own: dict[bytes, bytes | None] | None = None
    long_at: int = GROUP_ROWS_MIN

    def add(self, entry: Entry) -> None:
        """One more entry."""
        own = self.own
        if own is None:
            self.rows = self.own = own = dict(self.rows)
        if entry.ranges:
            self.ranges = (*self.ranges, *entry.ranges)
            for key in own:
                if any(deleted.start <= key < deleted.end for deleted in entry.ranges):
                    own[key] = None
        own.update(entry.rows)
        self.last = entry.index

    def get(self, key: bytes) -> bytes | None:
        """Its value, None where it was deleted, or `NOT_HERE`."""
        value = self.rows.get(key, NOT_HERE)
        if value is NOT_HERE and self.ranges and self.hides(key):
            return None
        return value

    def hides(self, key: bytes) -> bool:
        """Did a range delete take the row that the state may still have?"""
        return any(deleted.start <= key < deleted.end for deleted in self.ranges)

    @property
    def is_long(self) -> bool:
        """An object that always has an uncommitted entry: what is committed is to be forgotten."""
        return len(self.rows) + len(self.ranges) >= self.long_at

    def forget(self, left: Sequence[Entry]) -> None:
        """All but these entries, at least one, are in the state."""
        self.rows, self.ranges, self.own = left[0].rows, left[0].ranges, None
        for entry in left[1:]:
            self.add(entry)
        # Twice what is left: so forgetting costs each row a constant, however many there are.
        self.long_at = max(GROUP_ROWS_MIN, 2 * (len(self.rows) + len(self.ranges)))
