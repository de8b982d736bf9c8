"""What a store has of a replicated shard, through crashes at any point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost.cluster.ids import ShardId
from roost.errors import CorruptionError, StoreError
from roost_node.core.log import DeleteRange, Op
from roost_node.core.record import Epoch
from roost_node.core.replication.epochs import Shape
from roost_node.core.replication.follower import Kept
from roost_node.core.replication.messages import LogEntry
from roost_node.storage import layout, records
from roost_node.storage.engine import Store
from roost_node.storage.memory import MemoryStore
from roost_node.storage.replica_log import (
    PAGE_BYTES_MAX,
    PAGE_ROWS_MAX,
    ReplicaLog,
    append_ops,
    fact_op,
    trim_ops,
    wipe_ops,
)
from roost_node.storage.rocks import RocksStore, verify

SHARD = ShardId(3)
OTHER = ShardId(4)


BODY = records.encode_body({b"key": b"value"}, ())


def state_key(name: bytes) -> bytes:
    return layout.rows_range(SHARD, layout.object_id("C", "k"))[0] + name


def entry(index: int, epoch: int = 1, body: bytes = b"", previous: int = 0) -> LogEntry:
    digest = b"%d/%d" % (epoch, index)
    return LogEntry(Epoch(epoch), index, Epoch(previous or epoch), digest, 1000 + index, body)


def head_op(index: int, epoch: int, shard: int = SHARD) -> tuple[bytes, bytes]:
    digest = b"%d/%d" % (epoch, index)
    return layout.head_key(shard), records.encode_head(epoch, index, digest, 1000 + index)


def kept_of(entries: Sequence[LogEntry], seen: int = 1) -> Kept:
    shape = Shape((), 0)
    for each in entries:
        shape = shape.extended(each.epoch, each.index)
    return Kept(Epoch(seen), shape, entries[-1].hash if entries else b"")


class Copy:
    """One shard as it should be: writes to a store, and says what a start must find."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.kept = Kept()
        self.entries: dict[int, LogEntry] = {}
        self.applied = 0
        self.state: dict[bytes, bytes] = {}
        self.expected = [self.now()]  # after each batch

    def now(self) -> tuple[Kept, dict[int, LogEntry], dict[bytes, bytes]]:
        kept = self.kept
        if kept.marked:
            return Kept(kept.seen), {}, {}
        found = Kept(kept.seen, kept.shape, kept.hash, self.applied)
        return found, dict(self.entries), dict(self.state)

    def write(self, ops: list[Op]) -> None:
        assert self.store.write(ops)
        self.expected.append(self.now())

    def append(self, count: int, cut_by: int, newer: int) -> None:
        kept = self.kept
        floor = max(kept.shape.base, self.applied)
        cut = max(floor, kept.shape.end - cut_by) if cut_by else kept.shape.end
        is_cut = cut < kept.shape.end
        seen = Epoch(max(kept.seen, 1) + (1 if is_cut else newer))
        if seen > kept.seen:  # O7: refused before anything depends on it
            kept.seen = seen
            self.write([fact_op(SHARD, kept)])
        shape = kept.shape.cut(cut)
        made = []
        for _ in range(count):
            each = entry(shape.end + 1, kept.seen, BODY, shape.last_epoch)
            shape = shape.extended(each.epoch, each.index)
            made.append(each)
        self.entries = {i: e for i, e in self.entries.items() if i <= cut}
        self.entries |= {e.index: e for e in made}
        kept.shape, kept.hash = shape, made[-1].hash
        self.write(append_ops(SHARD, cut if is_cut else -1, made))

    def apply(self, count: int) -> None:
        index = min(self.kept.shape.end, self.applied + count)
        if index <= self.applied:
            return
        self.applied = index
        row = (state_key(b"%d" % index), b"state")
        op = head_op(index, self.kept.shape.epoch_at(index))
        self.state |= dict([row, (op[0], op[1])])
        self.write([row, op])

    def trim(self, count: int) -> None:
        base = min(self.applied, self.kept.shape.base + count)
        if base <= self.kept.shape.base:
            return
        ops = trim_ops(SHARD, base, self.kept)
        self.kept.shape = self.kept.shape.trimmed(base)
        self.entries = {i: e for i, e in self.entries.items() if i > base}
        self.write(ops)

    def install(self, length: int) -> None:
        kept = self.kept
        kept.seen = Epoch(kept.seen + 1)
        end = kept.shape.end + length
        kept.marked = True
        kept.shape = Shape(((kept.seen, end),), end, end)
        kept.hash = b"%d/%d" % (kept.seen, end)
        self.write(wipe_ops(SHARD, kept))
        op = head_op(end, kept.seen)
        self.write([op])
        self.write([(state_key(b"x"), b"installed")])
        kept.marked = False
        self.entries, self.applied = {}, end
        self.state = {op[0]: op[1], state_key(b"x"): b"installed"}
        self.write([fact_op(SHARD, kept)])


def check(store: Store, expected: tuple[Kept, dict[int, LogEntry], dict[bytes, bytes]]) -> None:
    kept, entries, state = expected
    log = ReplicaLog(store)
    for _ in range(2):  # what a start repairs, the next one finds whole
        loaded = log.load()
        assert loaded.pop(OTHER, None) is not None
        found = loaded.pop(SHARD, Kept())
        assert not loaded
        assert found == kept
        shape = kept.shape
        assert {e.index: e for e in log.entries(SHARD, shape.base + 1, shape.end, 1000)} == entries
        assert dict(row for page in log.snapshot(SHARD) for row in page) == state
        rows = len(list(store.iterate(*layout.shard_range(SHARD))))
        assert rows == len(entries) + len(state) + (
            store.get(layout.replica_key(SHARD)) is not None
        )


steps = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 4), st.integers(0, 4), st.integers(0, 1)),
    st.tuples(st.just("apply"), st.integers(1, 5)),
    st.tuples(st.just("trim"), st.integers(1, 5)),
    st.tuples(st.just("install"), st.integers(0, 3)),
    st.tuples(st.just("sync")),
)


def start(store: Store) -> None:
    store.write([fact_op(OTHER, kept_of([]))])  # a neighbour, which nothing here may touch
    store.sync()


def run(copy: Copy, script: list[tuple[object, ...]]) -> None:
    for name, *arguments in script:
        if name == "sync":
            copy.store.sync()
            copy.expected = copy.expected[-1:]
        else:
            getattr(copy, str(name))(*arguments)


@settings(deadline=None)
@given(st.lists(steps, max_size=25), st.data())
def test_a_start_finds_exactly_what_the_batches_that_survived_say(
    script: list[tuple[object, ...]], data: st.DataObject
) -> None:
    store = MemoryStore()
    start(store)
    copy = Copy(store)
    run(copy, script)
    survives = data.draw(st.integers(0, store.unflushed_count))
    assert store.unflushed_count == len(copy.expected) - 1
    check(store.crash(survives), copy.expected[survives])


def test_a_store_on_a_disk_finds_the_same(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path / "s", shards=8)
    start(store)
    copy = Copy(store)
    run(copy, [("append", 4, 0, 0), ("apply", 2), ("append", 90, 2, 0), ("apply", 80)])
    run(copy, [("trim", 75), ("append", 2, 3, 0), ("sync",)])
    for _ in range(2):
        store.close()
        store = RocksStore.open(tmp_path / "s")
        check(store, copy.expected[-1])
    store.close()
    verify(tmp_path / "s")
    store = copy.store = RocksStore.open(tmp_path / "s")
    copy.install(3)
    store.close()
    assert verify(tmp_path / "s")[0] == 2 + 2
    store = RocksStore.open(tmp_path / "s")
    check(store, copy.expected[-1])
    store.close()


def test_a_record_ahead_of_its_entries_is_cut_to_what_is_there() -> None:
    """The facts of a cut and of what follows it were written, and the entries were not."""
    store = MemoryStore()
    first, second = [entry(1), entry(2), entry(3)], [entry(3, 2, previous=1), entry(4, 2)]
    ahead = kept_of([*first[:2], *second], seen=2)
    store.write([fact_op(SHARD, ahead), *append_ops(SHARD, -1, first)])
    store.write(append_ops(SHARD, 2, second))
    assert ReplicaLog(store.crash(1)).load() == {SHARD: kept_of(first, seen=2)}
    assert ReplicaLog(store.crash(2)).load() == {SHARD: ahead}


def test_rows_after_a_gap_are_no_part_of_the_log_and_go() -> None:
    store = MemoryStore()
    store.write([fact_op(SHARD, Kept(Epoch(1)))])
    entries = [entry(1), entry(2), entry(3), entry(4)]
    store.write(append_ops(SHARD, -1, entries))
    store.write([(layout.log_key(SHARD, 2), None)])
    log = ReplicaLog(store)
    with pytest.raises(CorruptionError, match="shard 3: entry 2 of its log is not there"):
        log.entries(SHARD, 1, 4, 1000)
    assert log.load() == {SHARD: kept_of(entries[:1])}
    assert log.entries(SHARD, 1, 4, 1000) == entries[:1]


def test_entries_come_up_to_a_size_but_at_least_one() -> None:
    store = MemoryStore()
    entries = [entry(n, body=b"x" * 100) for n in range(1, 6)]
    store.write(append_ops(SHARD, -1, entries))
    log = ReplicaLog(store)
    assert log.entries(SHARD, 2, 5, 1) == entries[1:2]
    assert log.entries(SHARD, 2, 5, 299) == entries[1:3]
    assert log.entries(SHARD, 2, 5, 300) == entries[1:4]
    assert log.entries(SHARD, 4, 9, 1000) == entries[3:]
    assert log.entries(SHARD, 6, 9, 1000) == []


def test_a_store_that_was_alone_has_its_state_and_no_log() -> None:
    store = MemoryStore()
    store.write([head_op(7, 2), (state_key(b"x"), b"state")])
    kept = ReplicaLog(store).load()[SHARD]
    assert kept == Kept(Epoch(2), Shape(((Epoch(2), 7),), 7, 7), b"2/7", 7)


def test_entries_that_went_straight_to_the_state_end_the_log() -> None:
    store = MemoryStore()
    store.write([fact_op(SHARD, Kept(Epoch(2)))])
    entries = [entry(1), entry(2), entry(3, 2, previous=1)]
    store.write(append_ops(SHARD, -1, entries))
    store.write([head_op(9, 2)])
    expected = Kept(Epoch(2), Shape(((Epoch(1), 1), (Epoch(2), 3)), 9, 9), b"2/9", 9)
    log = ReplicaLog(store)
    assert log.load() == log.load() == {SHARD: expected}
    assert not list(store.iterate(*layout.log_after(SHARD, 0)))


def test_a_log_that_begins_after_the_state_ends_is_corrupt() -> None:
    store = MemoryStore()
    kept = kept_of([entry(1), entry(2)])
    store.write([head_op(1, 1), *trim_ops(SHARD, 2, kept)])
    with pytest.raises(CorruptionError, match="shard 3: the log begins after entry 2"):
        ReplicaLog(store).load()


def test_an_entry_in_the_row_of_another_is_corrupt() -> None:
    store = MemoryStore()
    store.write([fact_op(SHARD, Kept(Epoch(1)))])
    store.write(append_ops(SHARD, -1, [entry(1)]))
    store.write([(layout.log_key(SHARD, 1), records.encode_entry(entry(2)))])
    with pytest.raises(CorruptionError, match="holds entry 2"):
        ReplicaLog(store).load()


def test_a_start_that_cannot_write_says_so() -> None:
    store = MemoryStore()
    store.write(wipe_ops(SHARD, Kept(Epoch(1), marked=True)))
    store.stalled = True
    with pytest.raises(StoreError, match="too busy"):
        ReplicaLog(store).load()


def test_the_mark_is_set_though_the_facts_say_that_the_snapshot_has_ended() -> None:
    store = MemoryStore()
    store.write(wipe_ops(SHARD, kept_of([entry(1)], seen=4)))
    assert ReplicaLog(store).load() == {SHARD: Kept(Epoch(4))}


def test_a_log_is_trimmed_forward_only() -> None:
    kept = kept_of([entry(1), entry(2)])
    kept.shape = kept.shape.trimmed(1)
    with pytest.raises(AssertionError, match="L6"):
        trim_ops(SHARD, 1, kept)


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_snapshot_is_of_one_moment_in_bounded_pages(place: str, tmp_path: Path) -> None:
    store: Store = MemoryStore() if place == "memory" else RocksStore.open(tmp_path / "s", shards=8)
    rows: list[Op] = [
        (state_key(b"%04d" % n), b"v" * (1 if n < 600 else PAGE_BYTES_MAX // 3)) for n in range(610)
    ]
    big = (state_key(b"big"), b"v" * (PAGE_BYTES_MAX + 5))
    state = [head_op(1, 1), *rows, big]
    entries = [entry(1), entry(2)]
    store.write([*state, *append_ops(SHARD, -1, entries)])
    store.write([head_op(1, 1, OTHER), head_op(1, 1, SHARD - 1)])
    snapshot = ReplicaLog(store).snapshot(SHARD)
    store.write([(state_key(b"0000"), b"later"), (state_key(b"1"), b"later")])
    store.write([DeleteRange(*layout.state_range(SHARD))])
    pages = list(snapshot)
    assert [row for page in pages for row in page] == state
    assert all(len(page) <= PAGE_ROWS_MAX for page in pages)
    sizes = [sum(len(k) + len(v) for k, v in page) for page in pages]
    assert all(
        size <= PAGE_BYTES_MAX or len(page) == 1 for size, page in zip(sizes, pages, strict=True)
    )
    assert len(pages) < 10
    store.close()


def test_indexes_sort_like_numbers_and_lie_in_their_ranges() -> None:
    indexes = [0, 1, 255, 256, 2**40]
    keys = [layout.log_key(SHARD, index) for index in indexes]
    assert keys == sorted(keys)
    assert [layout.read_log_index(key) for key in keys] == indexes
    low, high = layout.log_after(SHARD, 0)
    assert [low <= key < high for key in keys] == [False, True, True, True, True]
    low, high = layout.shard_range(SHARD)
    assert all(low <= key < high for key in keys)
    assert not low <= layout.log_key(OTHER, 0) < high
    low, high = layout.state_range(SHARD)
    assert not any(low <= key < high for key in keys)
    with pytest.raises(ValueError, match="8 bytes of index"):
        layout.read_log_index(keys[0] + b"x")
