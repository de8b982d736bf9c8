"""The store on a disk that fails: the faults are real, made on its files and its file descriptors."""

from __future__ import annotations

import gc
import os
import random
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from roost.errors import CorruptionError, StoreError
from roost_node.core.log import DeleteRange
from roost_node.storage import layout, records, rocks
from roost_node.storage.durable import DURABLE_BYTES, DurableMark
from roost_node.storage.rocks import DAMAGED, RECOVERING, RocksStore, verify

EVERYTHING = (b"\0", b"\xff" * 9)


def killed(path: Path, count: int) -> Path:
    """A store as a kill leaves it after `count` flushed batches: a copy of its files while open."""
    store = RocksStore.open(path / "live")
    for number in range(count):
        assert store.write([(b"%06d" % number, b"v" * 100)])
        store.sync()
    shutil.copytree(path / "live", path / "copy")
    store.close()
    return path / "copy"


def log_of(path: Path) -> Path:
    return max((path / "db").glob("*.log"), key=lambda log: log.stat().st_size)


def flip(file: Path, at: float) -> None:
    raw = bytearray(file.read_bytes())
    raw[int(len(raw) * at)] ^= 0x40
    file.write_bytes(raw)


def replace_descriptor(suffix: str, below: Path) -> None:
    """Let the open file behind a path be a pipe from now on: it takes writes, and cannot be flushed."""
    _, writer = os.pipe()
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.endswith(suffix) and target.startswith(str(below)):
            os.dup2(writer, int(entry.name))
            found += 1
    os.close(writer)
    assert found


@pytest.mark.parametrize(
    "tail", [b"\x12", b"\x12\x34\x56\x78\x40\x00\x01half a record", bytes(500)]
)
def test_a_torn_tail_that_was_never_flushed_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = killed(tmp_path, 100)
    with log_of(path).open("ab") as log:
        log.write(tail)
    store = RocksStore.open(path)
    assert len(list(store.iterate(*EVERYTHING))) == 100
    assert not (path / RECOVERING).exists()
    store.close()


def test_a_batch_torn_in_the_middle_is_dropped_whole(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path / "live")
    store.write([(b"kept", b"v" * 100)])
    store.sync()
    store.write([(b"torn%d" % number, b"v" * 100) for number in range(10)])  # no flush
    shutil.copytree(tmp_path / "live", tmp_path / "copy")
    store.close()
    log = log_of(tmp_path / "copy")
    os.truncate(log, log.stat().st_size - 150)
    store = RocksStore.open(tmp_path / "copy")
    assert [key for key, _ in store.iterate(*EVERYTHING)] == [b"kept"]
    store.close()


@pytest.mark.parametrize("at", [0.0, 0.25, 0.5, 0.9])
def test_a_byte_flipped_in_the_flushed_log_refuses_the_store_and_keeps_the_log(
    tmp_path: Path, at: float
) -> None:
    path = killed(tmp_path, 1000)
    log = log_of(path)
    flip(log, at)
    damaged = log.read_bytes()
    for _ in range(2):  # the first opening has let RocksDB recover: the second must refuse as well
        with pytest.raises(
            CorruptionError, match=r"ends at \d+, but 1000 was flushed.*damaged-log"
        ):
            RocksStore.open(path)
        assert (path / DAMAGED / log.name).read_bytes() == damaged
        assert not (path / RECOVERING).exists()
    (path / "DURABLE").unlink()  # the way out that the message names
    store = RocksStore.open(path)
    assert len(list(store.iterate(*EVERYTHING))) < 1000
    assert store.write([(b"new", b"v")])
    store.sync()
    store.close()
    RocksStore.open(path).close()


def test_a_missing_log_refuses_the_store(tmp_path: Path) -> None:
    path = killed(tmp_path, 10)
    log_of(path).unlink()
    with pytest.raises(CorruptionError, match="ends at 0, but 10 was flushed"):
        RocksStore.open(path)


def test_an_opening_that_was_killed_leaves_the_log_to_the_next(tmp_path: Path) -> None:
    path = killed(tmp_path, 10)
    (path / RECOVERING).mkdir()
    (path / RECOVERING / "000001.log").write_bytes(b"kept by the one that was killed")
    flip(log_of(path), 0.5)
    with pytest.raises(CorruptionError):
        RocksStore.open(path)
    assert (path / DAMAGED / "000001.log").exists()


@pytest.mark.parametrize("raw", [b"", b"short", bytes(DURABLE_BYTES), b"\xff" * DURABLE_BYTES])
def test_a_mark_that_its_checksum_does_not_vouch_for_is_none(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "DURABLE").write_bytes(raw)
    mark = DurableMark(tmp_path / "DURABLE")
    assert mark.sequence == 0
    mark.raise_to(7)
    mark.raise_to(5)  # never back
    mark.close()
    mark.close()
    again = DurableMark(tmp_path / "DURABLE")
    assert again.sequence == 7
    again.close()


def test_the_mark_does_not_vouch_for_what_is_written_during_the_flush(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    store.write([(b"a", b"1"), (b"b", b"1")])
    flush = store._database.flush_wal

    class Database:
        def __getattr__(self, name: str) -> object:
            return getattr(database, name)

        def flush_wal(self, sync: bool) -> None:
            flush(sync)
            store.write([(b"c", b"1")])  # as another thread may, before the mark is made

    database = store._database
    store._database = Database()  # type: ignore[assignment]  # a flush that takes its time
    store.sync()
    store._database = database
    assert store._durable.sequence == 2
    store.sync()
    assert store._durable.sequence == 3
    store.close()


def test_writes_and_flushes_from_two_threads_lose_nothing(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    done = threading.Event()
    failures: list[BaseException] = []

    def flushing() -> None:
        try:
            while not done.is_set():
                store.sync()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=flushing)
    thread.start()
    for number in range(2000):
        while not store.write([(b"%06d" % number, b"v" * 50)]):
            pass
    done.set()
    thread.join()
    assert not failures
    store.sync()
    shutil.copytree(tmp_path, tmp_path.parent / "after", ignore=shutil.ignore_patterns("LOCK"))
    store.close()
    after = RocksStore.open(tmp_path.parent / "after")
    assert len(list(after.iterate(*EVERYTHING))) == 2000
    after.close()


def corrupt_table(path: Path) -> tuple[dict[bytes, bytes], RocksStore]:
    """5,000 rows in a table with one byte flipped in it, and the store open again."""
    store = RocksStore.open(path)
    rng = random.Random(7)
    rows = {b"%06d" % number: rng.randbytes(400) for number in range(5000)}
    store.write(list(rows.items()))
    store.flush()
    store.close()
    flip(max((path / "db").glob("*.sst"), key=lambda table: table.stat().st_size), 1 / 3)
    return rows, RocksStore.open(path)


def test_a_byte_flipped_in_a_table_fails_its_own_rows_and_no_others(tmp_path: Path) -> None:
    rows, store = corrupt_table(tmp_path)
    lost = []
    for key, value in rows.items():
        try:
            assert store.get(key) == value
        except CorruptionError:
            lost.append(key)
    assert 0 < len(lost) < 100
    first, last = lost[0], lost[-1]
    with pytest.raises(CorruptionError, match=rf"{first.hex()}.*\.sst"):
        store.get(first)
    before = [(k, v) for k, v in rows.items() if k < first]
    behind = [(k, v) for k, v in rows.items() if k > last]
    # Of the rows next to the block one cannot tell without reading it: they may fail as well.
    low, high = before[-1][0], behind[2][0]
    assert list(store.iterate(b"\0", low)) == before[:-1]
    assert list(store.iterate(b"\0", low, reverse=True)) == before[-2::-1]
    assert list(store.iterate(high, b"\xff")) == behind[2:]
    assert list(store.iterate(high, b"\xff", reverse=True)) == behind[:1:-1]
    for reverse in (False, True):
        with pytest.raises(CorruptionError):
            list(store.iterate(b"\0", b"\xff", reverse=reverse))
    store.close()


def test_a_corrupt_range_can_be_deleted(tmp_path: Path) -> None:
    _, store = corrupt_table(tmp_path)
    assert store.write([DeleteRange(b"\0", b"\xff"), (b"new", b"v")])
    assert store.get(b"new") == b"v"
    store.close()


def test_verify_reads_every_block(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    group = layout.object_id("Counter", "a")
    rng = random.Random(7)
    store.write(
        [(layout.rows_range(1, group)[0] + b"%d" % n, rng.randbytes(99)) for n in range(999)]
    )
    store.flush()
    store.close()
    assert verify(tmp_path)[0] == 999
    flip(max((tmp_path / "db").glob("*.sst"), key=lambda table: table.stat().st_size), 0.4)
    with pytest.raises(CorruptionError, match="checksum mismatch"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        (layout.record_key(1, layout.object_id("C", "k")), b"\x91\x01"),
        (layout.record_key(1, b"no text"), records.encode_object(1, 1, 1, 1, {})),
        (layout.dedup_key(1, 7, layout.object_id("C", "k"), b"i" * 16), b"\xc0"),
        (layout.head_key(1), records.encode_head(1, 1, b"", 1)[:-1]),
        (layout.CLOCK_KEY, b""),
        (layout.GENERATION_KEY, b"\xc1"),
        (b"\0\1\x77", b""),
    ],
)
def test_verify_decodes_what_roost_wrote(tmp_path: Path, key: bytes, raw: bytes) -> None:
    group = layout.object_id("C", "k")
    store = RocksStore.open(tmp_path)
    store.write(
        [
            (layout.record_key(2, group), records.encode_object(1, 1, 1, 1, {"a": b"\x01"})),
            (layout.field_key(2, group, "large"), b"\x01"),
            (
                layout.dedup_key(2, 7, group, b"i" * 16),
                records.encode_dedup_ok("m", b"", b"", 0, ""),
            ),
            (layout.head_key(2), records.encode_head(1, 1, b"", 1)),
            (layout.CLOCK_KEY, records.encode_clock(1)),
            (layout.GENERATION_KEY, records.encode_generation(1)),
        ]
    )
    store.close()
    assert verify(tmp_path)[0] == 6
    store = RocksStore.open(tmp_path)
    store.write([(key, raw)])
    store.close()
    with pytest.raises(CorruptionError, match=key.hex()):
        verify(tmp_path)


def test_verify_makes_no_store_where_there_is_none(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(StoreError, match="not a Roost data directory"):
            verify(path)
    assert not list(tmp_path.iterdir())


def test_a_stalled_write_says_so_and_writes_nothing(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path, memtable_bytes=64 * 1024)
    rng = random.Random(1)
    written = stalled = 0
    while not stalled and written < 10_000:
        batch = [(b"%06d" % written, rng.randbytes(40_000)), (b"last", b"%d" % written)]
        if store.write(batch):
            written += 1
            continue
        stalled += 1
        assert store.get(batch[0][0]) is None
        assert store.get(b"last") == b"%d" % (written - 1)
        store.flush()  # room again
        while not store.write(batch):
            pass
        assert store.get(b"last") == b"%d" % written
    assert stalled
    store.close()


# The path has "stall" in it, as the text of the error then does: that is no write stall.
def test_a_flush_that_fails_is_raised_and_nothing_is_written_after_it(tmp_path: Path) -> None:
    path = tmp_path / "install"
    store = RocksStore.open(path)
    store.write([(b"a", b"1")])
    store.sync()
    replace_descriptor(".log", path)
    store.write([(b"b", b"1")])
    for _ in range(2):
        with pytest.raises(Exception, match="IO error"):
            store.sync()
    assert store._durable.sequence == 1
    with pytest.raises(Exception, match="While fdatasync"):
        store.write([(b"c", b"1")])
    with pytest.raises(Exception, match="IO error"):
        store.close()
    store.close()
    RocksStore.open(path).close()  # it let go of everything


def test_a_table_that_cannot_be_written_is_raised_by_the_next_flush(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    rng = random.Random(1)
    store.write([(b"%04d" % number, rng.randbytes(1000)) for number in range(200)])
    store.sync()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # the table has more
    try:
        with pytest.raises(Exception, match="File too large"):
            store.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(OSError, match="could not write its tables"):
        store.sync()
    with pytest.raises(Exception, match="File too large"):
        store.write([(b"a", b"1")])
    with pytest.raises(Exception, match="File too large"):
        store.close()
    store = RocksStore.open(tmp_path)  # the log has it all
    assert len(list(store.iterate(*EVERYTHING))) == 200
    store.close()


@pytest.mark.parametrize("read", [lambda s: s.get(b"a"), lambda s: list(s.iterate(b"\0", b"b"))])
def test_a_read_after_closing_is_not_called_corruption(
    tmp_path: Path, read: Callable[[RocksStore], object]
) -> None:
    store = RocksStore.open(tmp_path)
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        read(store)


def test_an_iterator_outlives_everything_that_made_it(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    store.write([(b"%04d" % number, b"v") for number in range(3000)])
    iterators = [store.iterate(b"%04d" % n, b"%04d" % (n + 5)) for n in range(0, 2500, 5)]
    store.write([DeleteRange(b"\0", b"\xff")])
    store.flush()
    store.close()
    del store
    gc.collect()
    assert [len(list(rows)) for rows in iterators] == [5] * 500


def test_a_database_that_somebody_else_has_open_is_in_use(tmp_path: Path) -> None:
    RocksStore.open(tmp_path).close()
    other = Rdict(str(tmp_path / "db"), Options(raw_mode=True))
    with pytest.raises(StoreError, match="in use by another process"):
        RocksStore.open(tmp_path)
    other.close()
    RocksStore.open(tmp_path).close()


def test_a_database_that_would_pickle_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocks, "Options", lambda raw_mode: Options(raw_mode=False))
    with pytest.raises(AssertionError, match="bytes as they are"):
        RocksStore.open(tmp_path)
