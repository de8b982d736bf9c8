"""Both stores against a plain dict, and against each other."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roost_node.core.log import DeleteRange, Op
from roost_node.storage.memory import MemoryStore
from roost_node.storage.rocks import RANGE_ROWS_MIN, RocksStore

keys = st.binary(min_size=1, max_size=3)
ops = st.one_of(
    st.tuples(keys, st.binary(max_size=4)),
    st.tuples(keys, st.none()),
    st.tuples(keys, keys).map(lambda pair: DeleteRange(min(pair), max(pair))),
)


@pytest.fixture(scope="module")
def rocks() -> Iterator[RocksStore]:
    path = Path(tempfile.mkdtemp())
    store = RocksStore.open(path / "s")
    yield store
    store.close()
    shutil.rmtree(path)


def apply(model: dict[bytes, bytes], batch: list[Op]) -> None:
    for op in batch:
        if isinstance(op, DeleteRange):
            for key in [k for k in model if op.start <= k < op.end]:
                del model[key]
        elif op[1] is None:
            model.pop(op[0], None)
        else:
            model[op[0]] = op[1]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(ops, max_size=6), max_size=6), keys, keys, st.booleans())
def test_a_store_is_an_ordered_dict(
    rocks: RocksStore, batches: list[list[Op]], one: bytes, two: bytes, reverse: bool
) -> None:
    rocks.write([DeleteRange(b"", b"\xff" * 8)])
    memory = MemoryStore()
    model: dict[bytes, bytes] = {}
    low, high = min(one, two), max(one, two)
    for batch in batches:
        assert rocks.write(batch)
        assert memory.write(batch)
        apply(model, batch)
    expected = sorted(((k, v) for k, v in model.items() if low <= k < high), reverse=reverse)
    for store in (rocks, memory):
        assert list(store.iterate(low, high, reverse=reverse)) == expected
        for key in {low, high, *model}:
            assert store.get(key) == model.get(key)


@pytest.mark.parametrize("count", [RANGE_ROWS_MIN - 1, RANGE_ROWS_MIN, 3 * RANGE_ROWS_MIN])
def test_a_range_is_deleted_whatever_its_size_with_what_came_before_it_in_the_batch(
    rocks: RocksStore, count: int
) -> None:
    rows: list[Op] = [(b"r%04d" % n, b"v") for n in range(count)]
    for store in (rocks, MemoryStore()):
        store.write([DeleteRange(b"", b"\xff" * 8), (b"q", b"1"), (b"s", b"1"), *rows])
        store.write([(b"r", b"2"), (b"t", b"2"), DeleteRange(b"r", b"s"), (b"r0001", b"3")])
        expected = [(b"q", b"1"), (b"r0001", b"3"), (b"s", b"1"), (b"t", b"2")]
        assert list(store.iterate(b"", b"\xff")) == expected


def test_small_ranges_leave_no_range_deletes_behind(rocks: RocksStore) -> None:
    rocks.write([DeleteRange(b"", b"\xff" * 8)])
    rocks.flush()
    before = rocks._database.property_value("rocksdb.aggregated-table-properties")
    for number in range(200):
        rocks.write([(b"d%04d" % number, b"v")])
        rocks.write([DeleteRange(b"d%04d" % number, b"d%04d" % (number + 1))])
        rocks.write([DeleteRange(b"e%04d" % number, b"e%04d" % (number + 1))])  # empty
    rocks.flush()
    after = rocks._database.property_value("rocksdb.aggregated-table-properties")
    assert range_deletes(after) <= range_deletes(before)


def range_deletes(properties: str | None) -> int:
    found = re.search(r"# range deletions=(\d+)", properties or "")
    assert found is not None
    return int(found[1])


def test_an_iterator_shows_the_store_as_it_was_when_it_was_made(rocks: RocksStore) -> None:
    for store in (rocks, MemoryStore()):
        store.write([DeleteRange(b"", b"\xff" * 8), (b"a", b"1"), (b"b", b"2")])
        rows = store.iterate(b"", b"z")
        store.write([(b"a", None), (b"c", b"3")])
        assert list(rows) == [(b"a", b"1"), (b"b", b"2")]


@given(
    st.lists(st.lists(st.tuples(keys, st.binary(max_size=3)), min_size=1, max_size=3), max_size=5),
    st.data(),
)
def test_a_crash_loses_nothing_that_was_flushed_and_no_batch_in_part(
    batches: list[list[Op]], data: st.DataObject
) -> None:
    store = MemoryStore()
    flushed = data.draw(st.integers(0, len(batches)))
    model: dict[bytes, bytes] = {}
    for number, batch in enumerate(batches):
        store.write(batch)
        if number + 1 == flushed:
            store.sync()
    survives = data.draw(st.integers(0, store.unflushed_count))
    for batch in batches[: len(batches) - store.unflushed_count + survives]:
        apply(model, batch)
    after = store.crash(survives)
    assert dict(after.iterate(b"", b"\xff" * 9)) == model
