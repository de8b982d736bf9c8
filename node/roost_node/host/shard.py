"""One owned shard: its log, its output gate, and the reading of what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from roost_node.core.dedup import Kept
from roost_node.core.log import NOT_HERE, Entry, Head, Rows, ShardLog
from roost_node.core.output_gate import OutputGate, always_covered
from roost_node.core.repack import Part
from roost_node.host.call import Output
from roost_node.storage import layout
from roost_node.storage.engine import Store
from roost_node.telemetry import Histogram

if TYPE_CHECKING:
    from roost.errors import RoostError


class Replica(Protocol):
    """Carries a shard's entries to other stores."""

    def on_appended(self, shard: Shard, entry: Entry) -> None:
        """An entry was made; it goes to our disk next."""

    def rows(self, shard: Shard, entries: list[Entry]) -> Rows:
        """What our disk is to hold of them until they are committed."""

    def on_durable(self, shard: Shard, index: int) -> None:
        """Our own disk has everything up to `index`."""


class Shard:
    """A shard that this node owns, under one epoch."""

    small_values = ("swept_minute",)
    __slots__ = (
        "_latency",
        "_store",
        "_time",
        "_uncounted",
        "gate",
        "given_up_ms",
        "head_key",
        "id",
        "kept",
        "log",
        "refusal",
        "replica",
        "swept_minute",
        "write_refusal",
    )

    def __init__(
        self,
        shard_id: int,
        store: Store,
        head: Head,
        epoch: int,
        now_ms: int,
        time: Callable[[], float],
        latency: Histogram,
        kept_bytes_max: int,
        is_covered: Callable[[], bool] = always_covered,
        replica: Replica | None = None,
    ) -> None:
        self._time = time
        self._latency = latency
        self.id = shard_id
        self.head_key = layout.head_key(shard_id)
        self._store = store
        self.log = ShardLog(shard_id, head, epoch, now_ms)
        self.gate: OutputGate[Output] = OutputGate(head.index, is_covered)
        self.replica = replica  # where other stores have copies of it
        self.refusal: RoostError | None = None  # why no call is taken now
        self.write_refusal: RoostError | None = None  # why none is taken that may write
        self.given_up_ms = 0  # calls first sent before it may have run, and left no record (M8)
        self.swept_minute = 0  # dedup buckets below it are gone
        self.kept = Kept(kept_bytes_max)
        # What earlier processes kept, as of now: what this one adds is counted as it is added.
        self._uncounted: Iterator[tuple[bytes, bytes]] | None = store.iterate(
            *layout.dedup_minutes(shard_id, 0, layout.MINUTE_END)
        )

    def release(self, index: int, output: Output, *, own_entry: bool) -> None:
        """Let an output go when everything it could have seen is committed (R6: the only door)."""
        if self.gate.offer(index, output, own_entry=own_entry):
            if output.since:
                self._latency.add(int((self._time() - output.since) * 1e6))
            output.leave()

    def on_durable(self, index: int) -> None:
        """Everything up to `index` is on disk here; with one store that is committed (R1)."""
        if self.replica is not None:
            self.replica.on_durable(self, index)
            return
        self.log.on_durable(index)
        self.leave(self.gate.on_committed(index))

    def leave(self, released: list[Output]) -> None:
        """The gate let these go."""
        if released:
            now = self._time()
            for output in released:
                if output.since:
                    self._latency.add(int((now - output.since) * 1e6))
                output.leave()

    def count_kept(self, rows_max: int, bytes_max: int) -> int:
        """Count records that were there on opening, some at a time; 0: all are counted."""
        rows, size = self._uncounted, 0
        self._uncounted = None  # also where a block cannot be read
        if rows is None:
            return 0
        for count, (key, record) in enumerate(rows, 1):
            size += len(key) + len(record)
            minute = layout.read_dedup_minute(key)
            if minute >= self.swept_minute:
                self.kept.add(minute, len(key) + len(record))
            if count >= rows_max or size >= bytes_max:
                self._uncounted = rows
                return count
        return 0

    def parts(self) -> tuple[Part, ...]:
        """What holds its small values."""
        return (self, self.log, self.log.clock, self.gate, self.kept)

    def close(self) -> None:
        """Let go of the store."""
        self._uncounted = None

    def get(self, group: bytes, key: bytes) -> bytes | None:
        """A row: from entries that are not in the state yet, else from the state (L4)."""
        rows = self.log.group(group)
        if rows is not None:
            found = rows.get(key)
            if found is not NOT_HERE:
                return found
        return self._store.get(key)

    def scan(
        self,
        group: bytes,
        start: bytes,
        end: bytes,
        own: dict[bytes, bytes | None],
        *,
        reverse: bool = False,
        hide_stored: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, end) as of now: `own` before appended entries before the state.

        `hide_stored`: only `own` counts, the rest was deleted in the open turn.
        """
        younger: dict[bytes, bytes | None] = {}
        rows = None if hide_stored else self.log.group(group)
        if rows is not None:
            younger = {k: v for k, v in rows.rows.items() if start <= k < end}
        younger.update((k, v) for k, v in own.items() if start <= k < end)
        if hide_stored:
            return iter(
                sorted(((k, v) for k, v in younger.items() if v is not None), reverse=reverse)
            )
        stored = self._store.iterate(start, end, reverse=reverse)
        if rows is not None and rows.ranges:
            ranges = tuple(rows.ranges)
            stored = (row for row in stored if not any(r.start <= row[0] < r.end for r in ranges))
        if not younger:
            return stored
        return _merge(stored, younger, reverse)

    def records(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Records of objects in [start, end) as of now: appended entries before the state."""
        younger = self.log.younger(start, end)
        stored = self._store.iterate(start, end)
        return _merge(stored, younger, reverse=False) if younger else stored


def _merge(
    stored: Iterator[tuple[bytes, bytes]], younger: dict[bytes, bytes | None], reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    keys = iter(sorted(younger, reverse=reverse))
    key = next(keys, None)
    row = next(stored, None)
    while key is not None or row is not None:
        if row is None or (key is not None and (key > row[0] if reverse else key < row[0])):
            assert key is not None
            value = younger[key]
            if value is not None:
                yield key, value
            key = next(keys, None)
        elif key is not None and key == row[0]:
            row = next(stored, None)  # the younger one is taken next round
        else:
            yield row
            row = next(stored, None)
