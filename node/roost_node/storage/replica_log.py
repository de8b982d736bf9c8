"""A node's copies of replicated shards: log entries and what is known of them, as rows.

What was written is decided by the rows of the log: a shard's record is written only when what rows
cannot say has changed (the highest epoch seen, the base, the mark). So a start takes the *end* and the
epochs of a log from its rows, and from the record the rest.

Everything but `load` is reading, or pure: it makes `Op`s, whoever owns the writing writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from roost.cluster.ids import ShardId
from roost.errors import CorruptionError, StoreError
from roost_node.core.log import DeleteRange, Head, Op
from roost_node.core.record import Epoch
from roost_node.core.replication.epochs import Shape
from roost_node.core.replication.follower import Kept
from roost_node.core.replication.messages import LogEntry
from roost_node.storage import layout, records
from roost_node.storage.engine import Store

PAGE_ROWS_MAX = 256
PAGE_BYTES_MAX = 2**20

Page = list[tuple[bytes, bytes]]


class ReplicaLog:
    """Reads and builds the rows of all replicated shards of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- a start ---------------------------------------------------------------------------

    def load(self) -> dict[ShardId, Kept]:
        """What this store has of each shard. Removes what a crash left half done.

        Raises CorruptionError where a shard's rows contradict each other, StoreError where the
        store is too busy to write.
        """
        loaded: dict[ShardId, Kept] = {}
        for number in range(self._store.shards):
            shard = ShardId(number)
            kept = self._load(shard)
            if kept is not None:
                loaded[shard] = kept
        return loaded

    def _load(self, shard: ShardId) -> Kept | None:
        raw_head = self._store.get(layout.head_key(shard))
        raw = self._store.get(layout.replica_key(shard))
        head = records.decode_head(raw_head) if raw_head is not None else Head()
        if raw is None:
            # Not replicated so far: a store that was alone and becomes a cluster's first.
            return _from_head(Kept(), head) if raw_head is not None else None
        record = records.decode_replica(raw)
        if record.installing:  # M7: what is there is a piece of a snapshot
            kept = Kept(Epoch(record.seen))
            self._write([DeleteRange(*layout.shard_range(shard)), fact_op(shard, kept)])
            return kept
        if head.index < record.base:
            raise CorruptionError(
                f"shard {shard}: the log begins after entry {record.base}, but the state reaches "
                f"only {head.index}: restore this store from a replica or backup"
            )
        return self._from_rows(shard, record, head)

    def _from_rows(self, shard: ShardId, record: records.ReplicaRecord, head: Head) -> Kept:
        base = record.base
        shape = Shape(
            tuple((Epoch(epoch), first) for epoch, first in record.starts if first <= base),
            base,
            base,
        )
        running_hash = record.hash if record.end == base else head.hash
        is_torn = False
        for key, raw in self._store.iterate(*layout.log_after(shard, base)):
            facts = _facts(shard, key, raw)
            if facts.index != shape.end + 1:
                is_torn = True
                break
            shape = shape.extended(Epoch(facts.epoch), facts.index)
            running_hash = facts.hash
        kept = Kept(Epoch(record.seen), shape, running_hash, head.index)
        if head.index > shape.end:  # entries that went straight to the state, without followers
            kept = _from_head(kept, head)
            is_torn = True
        if is_torn:
            self._write(
                [
                    DeleteRange(*layout.log_range(shard, 0, kept.shape.base)),
                    DeleteRange(*layout.log_after(shard, kept.shape.end)),
                    fact_op(shard, kept),
                ]
            )
        return kept

    def _write(self, ops: Sequence[Op]) -> None:
        # Not flushed: after a crash the next start finds the same and does the same.
        if not self._store.write(ops):
            raise StoreError("the store is too busy to write at its start: start the node again")

    # -- reading ---------------------------------------------------------------------------

    def entries(self, shard: ShardId, first: int, last: int, bytes_max: int) -> list[LogEntry]:
        """Entries first .. last, as many as `bytes_max` of bodies allow, but at least one.

        Fewer where the log ends before `last`. Raises CorruptionError where one is missing.
        """
        found: list[LogEntry] = []
        size_bytes = 0
        for _, raw in self._store.iterate(*layout.log_range(shard, first, last)):
            entry = records.decode_entry(raw)
            if entry.index != first + len(found):
                raise CorruptionError(
                    f"shard {shard}: entry {first + len(found)} of its log is not there, the next is "
                    f"{entry.index}: restore this store from a replica or backup"
                )
            size_bytes += len(entry.body)
            if found and size_bytes > bytes_max:
                break
            found.append(entry)
        return found

    def head(self, shard: ShardId) -> Head:
        """Where the shard's state stands."""
        raw = self._store.get(layout.head_key(shard))
        return records.decode_head(raw) if raw is not None else Head()

    def snapshot(self, shard: ShardId) -> Iterator[Page]:
        """All rows of a shard's state, its head among them, as of this call, page by page.

        Close it (or read it to the end): until then the store keeps what it replaces.
        """
        # Asked for here, not in the generator, which would begin with the first page.
        rows = self._store.iterate(*layout.state_range(shard))
        return _pages(rows, layout.replica_key(shard))


# -- what is to be written -----------------------------------------------------------------


def append_ops(shard: ShardId, cut: int, entries: Sequence[LogEntry]) -> list[Op]:
    """Drop the log after `cut` (-1: nothing), then append.

    What is known of the copy need not be written again for this: a start takes it from the rows.
    """
    ops: list[Op] = []
    if cut >= 0:
        ops.append(DeleteRange(*layout.log_after(shard, cut)))
    ops += [(layout.log_key(shard, entry.index), records.encode_entry(entry)) for entry in entries]
    return ops


def trim_ops(shard: ShardId, base: int, kept: Kept) -> list[Op]:
    """Drop entries up to `base`: they are in the state (L6). `kept` is how it was before."""
    shape = kept.shape
    assert base > shape.base, "L6: a log is trimmed forward; `kept` is from before"
    # From the old base, not from 0: what was deleted before need not be walked over again.
    return [
        DeleteRange(*layout.log_range(shard, shape.base + 1, base)),
        _record(shard, kept, shape.trimmed(base), installing=kept.marked),
    ]


def wipe_ops(shard: ShardId, kept: Kept) -> list[Op]:
    """Forget all of a shard but `kept.seen`; a snapshot follows, ended by `fact_op` (M7)."""
    return [
        DeleteRange(*layout.shard_range(shard)),
        _record(shard, kept, kept.shape, installing=True),
    ]


def fact_op(shard: ShardId, kept: Kept) -> Op:
    """What is known of a copy, to be written when rows do not say it: its highest epoch, its mark."""
    return _record(shard, kept, kept.shape, installing=kept.marked)


def _record(shard: ShardId, kept: Kept, shape: Shape, *, installing: bool) -> Op:
    value = records.encode_replica(
        kept.seen, shape.starts, shape.end, shape.base, kept.hash, installing=installing
    )
    return layout.replica_key(shard), value


def _from_head(kept: Kept, head: Head) -> Kept:
    """All that there is, is the state, up to its head.

    Where the head's epoch began is not known. It need not be: that is asked only about entries
    after the base.
    """
    epoch = Epoch(head.epoch)
    starts = tuple(s for s in kept.shape.starts if s[1] <= head.index and s[0] < epoch)
    known = [s for s in kept.shape.starts if s[0] == epoch]
    start = known[0] if known else (epoch, head.index)
    shape = Shape((*starts, start), head.index, head.index)
    return Kept(max(kept.seen, epoch), shape, head.hash, head.index)


def _facts(shard: ShardId, key: bytes, raw: bytes) -> records.EntryFacts:
    facts = records.decode_entry_facts(raw)
    if layout.log_key(shard, facts.index) != key:
        raise CorruptionError(
            f"shard {shard}: the row of another entry holds entry {facts.index} of its log: restore "
            f"this store from a replica or backup"
        )
    return facts


def _pages(rows: Iterator[tuple[bytes, bytes]], left_out: bytes) -> Iterator[Page]:
    page: Page = []
    size_bytes = 0
    for key, value in rows:
        if key == left_out:
            continue
        row_bytes = len(key) + len(value)
        if page and (len(page) == PAGE_ROWS_MAX or size_bytes + row_bytes > PAGE_BYTES_MAX):
            yield page
            page, size_bytes = [], 0
        page.append((key, value))
        size_bytes += row_bytes
    if page:
        yield page
