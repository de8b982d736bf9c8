"""Rows in RocksDB.

What was measured on this engine decides how it is used here:

- A lost tail is silent: one flipped byte in the write-ahead log made recovery drop half of the synced
  records without an error. `durable.py` is the answer. And recovery deletes the log that it could not
  read to the end, so its files are kept by a second name until the opening has been found good.
- `write(sync=True)` and stalled writes hold the GIL; `flush_wal(True)` and `no_slowdown` do not.
- `keys()/items()/values()` end silently at a corrupt block: rows are read by `iter()` alone, whose
  `status()` is asked at the end. It is bounded, lest it walk over deleted rows behind the range.
- The first read after a range delete costs 0.1 ms for each 1,000 range deletes in the memtable: small
  ranges are deleted row by row, so that a memtable holds few.
- Reusing log files (`recycle_log_file_num`) would make a lone flush 22 % faster, but has known losses
  in recovery; it stays off.

One thread writes; `sync` may run in another at the same time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import rocksdict
from rocksdict import DbClosedError, Options, Rdict, ReadOptions, WriteBatch, WriteOptions

from roost.cluster.ids import SHARDS_DEFAULT
from roost.errors import CorruptionError, StoreError
from roost_node.core.log import DeleteRange, Op
from roost_node.storage.directory import DATABASE, DURABLE, Directory, sync_directory
from roost_node.storage.durable import DurableMark
from roost_node.storage.engine import TableFile
from roost_node.storage.verify import check_row

MEMTABLE_BYTES = 8 * 2**20  # it fits the cache: a call's rows go in in 3.4 us, in 6.1 at 32 MiB
MEMTABLES_MAX = 8
MEMTABLE_BLOOM_RATIO = 0.02  # a get of a key that is not there: 0.4 instead of 1.9 us
CACHE_BYTES = 64 * 2**20
WAL_BYTES_MAX = 256 * 2**20
MANIFEST_BYTES_MAX = 64 * 2**20
INFO_LOG_BYTES_MAX = 8 * 2**20  # RocksDB's own diary, and how many of them
INFO_LOGS_MAX = 4
OPEN_FILES_MAX = 512
RANGE_ROWS_MIN = 64  # a range of fewer rows is deleted row by row
RANGE_SKIP_MAX = 1000  # looking at it gives up after so many rows deleted before

RECOVERING = "recovering"  # second names of the log's files while the database opens
DAMAGED = "damaged-log"  # the same, after an opening that was refused


class RocksStore:
    """A store on a disk."""

    def __init__(self, directory: Directory, database: Rdict, durable: DurableMark) -> None:
        identity = directory.identity
        self.store_id = identity.store_id
        self.cluster_id = identity.cluster_id
        self.seed = identity.seed
        self.shards = identity.shards
        self.path = directory.path
        self._directory = directory
        self._database = database
        self._durable = durable
        self._write_options = WriteOptions()
        self._write_options.no_slowdown = True
        self._closed = False

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        shards: int = SHARDS_DEFAULT,
        cluster_id: str | None = None,
        seed: bytes | None = None,
        memtable_bytes: int = MEMTABLE_BYTES,
        create: bool = True,
    ) -> RocksStore:
        """Open the store in `path`, or create it there. Raises StoreError, CorruptionError."""
        directory = Directory.open(
            path, shards=shards, cluster_id=cluster_id, seed=seed, create=create
        )
        try:
            if not directory.created:
                return cls(directory, *_reopen(path, memtable_bytes))
            shutil.rmtree(path / DATABASE, ignore_errors=True)  # of an unfinished creation
            (path / DURABLE).unlink(missing_ok=True)
            database = _open_database(path / DATABASE, memtable_bytes, create=True)
            try:
                durable = DurableMark(path / DURABLE)
                sync_directory(path / DATABASE)
                sync_directory(path)
                directory.finish()
            except BaseException:
                database.close()
                raise
            return cls(directory, database, durable)
        except BaseException:
            directory.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        """One row."""
        try:
            value: bytes | None = self._database.get(key)
        except Exception as error:
            raise self._unreadable(error, key) from error
        return value

    def iterate(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, end), as of this call."""
        if start >= end:
            return iter(())
        try:
            rows = self._rows_before(end)  # as of now, whatever is written later
        except DbClosedError as error:
            raise self._unreadable(error, start) from error
        if reverse:
            rows.seek_to_last()
            return self._backward(rows, start, end)
        rows.seek(start)
        return self._forward(rows, start, end)

    def _rows_before(self, end: bytes, skip_max: int = 0) -> rocksdict.RdictIter:
        """An iterator that stops at `end`, a bytes object that the caller must keep alive as long.

        rocksdict 0.3.29 hands RocksDB the address of these bytes and does not hold them: measured,
        an iterator whose bound was freed read on through the next 2,495 rows. (And its
        `set_iterate_lower_bound` sets the upper bound.)
        """
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        if skip_max:
            options.set_max_skippable_internal_keys(skip_max)
        return self._database.iter(options)

    def _forward(
        self, rows: rocksdict.RdictIter, start: bytes, end: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        key, _bound = start, end  # as long as this frame lives
        while rows.valid():
            key = rows.key()
            yield key, rows.value()
            rows.next()
        try:
            rows.status()
        except Exception as error:
            raise self._unreadable(error, key) from error

    def _backward(
        self, rows: rocksdict.RdictIter, start: bytes, end: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        key, _bound = end, end  # as long as this frame lives
        while rows.valid():
            key = rows.key()
            if key < start:
                return
            yield key, rows.value()
            rows.prev()
        try:
            rows.status()
        except Exception as error:
            raise self._unreadable(error, key) from error

    def write(self, ops: Sequence[Op]) -> bool:
        """One atomic batch."""
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for at, op in enumerate(ops):
            if type(op) is tuple:
                key, value = op
                if value is None:
                    delete(key)
                else:
                    put(key, value)
            else:
                assert isinstance(op, DeleteRange)
                self._delete_range(batch, op, ops[:at])
        try:
            self._database.write(batch, self._write_options)
        except Exception as error:
            # By its beginning: the text of other errors has a path in it, which may be /opt/install.
            if str(error).startswith("Result incomplete"):
                return False
            raise
        return True

    def _delete_range(self, batch: WriteBatch, doomed: DeleteRange, before: Sequence[Op]) -> None:
        """Delete what is in the range: in the database, and in the batch so far."""
        start, end = doomed.start, doomed.end
        keys = self._few_keys(start, end)
        if keys is None:
            if start < end:
                batch.delete_range(start, end)
            return
        for op in before:
            if not isinstance(op, DeleteRange) and start <= op[0] < end:
                keys.append(op[0])
        for key in keys:
            batch.delete(key)

    def _few_keys(self, start: bytes, end: bytes) -> list[bytes] | None:
        """The keys in a range; None where there are many, or where finding out is not cheap."""
        if start >= end:
            return []
        rows = self._rows_before(end, RANGE_SKIP_MAX)
        rows.seek(start)
        keys: list[bytes] = []
        while rows.valid():
            if len(keys) == RANGE_ROWS_MIN:
                return None
            keys.append(rows.key())
            rows.next()
        try:
            rows.status()
        except (
            Exception
        ):  # too many deleted rows on the way, or a corrupt block: no need to read it
            return None
        return keys

    def sync(self) -> None:
        """Flush the write-ahead log, then mark how far it reaches.

        The number is read before the flush begins: rows that another thread writes meanwhile may or
        may not be in the flush, and must not be vouched for.
        """
        reached = self._database.latest_sequence_number()
        self._database.flush_wal(True)
        if self._database.property_int_value("rocksdb.background-errors"):
            raise OSError(
                f"RocksDB could not write its tables: {self.path / DATABASE / 'LOG'} says why"
            )
        self._durable.raise_to(reached)

    def flush(self) -> None:
        """Move what is in memory into table files (releases the GIL)."""
        self._database.flush()

    def close(self) -> None:
        """Flush and let go, also where the flush fails; that is raised afterwards."""
        if self._closed:
            return
        self._closed = True
        try:
            self.sync()
        finally:
            try:
                self._database.close()
            finally:
                self._durable.close()
                self._directory.close()

    def free_bytes(self) -> int:
        """Free space of the disk."""
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize

    def total_bytes(self) -> int:
        """Size of the disk."""
        disk = os.statvfs(self.path)
        return disk.f_blocks * disk.f_frsize

    def table_files(self) -> list[TableFile]:
        """Sorted files, and which shards they reach over."""
        return [
            TableFile(
                int(one["size"]),
                int.from_bytes(one["start_key"][:2], "big"),
                int.from_bytes(one["end_key"][:2], "big"),
            )
            for one in self._database.live_files()
        ]

    def memory_bytes(self) -> int:
        """Rows that are in no file yet."""
        return self._database.property_int_value("rocksdb.cur-size-all-mem-tables") or 0

    def _unreadable(self, error: Exception, key: bytes) -> CorruptionError | StoreError:
        if isinstance(error, DbClosedError):
            return StoreError(f"{self.path} was closed: a read came after it")
        return CorruptionError(
            f"{self.path / DATABASE}: at or next to key {key.hex()}: {error}. Restore this store from a "
            f"replica or backup; `roost node --verify` reads everything"
        )


def _reopen(path: Path, memtable_bytes: int) -> tuple[Rdict, DurableMark]:
    """Open a database that was there before, and see that it reaches as far as it was flushed."""
    if not (path / DATABASE / "CURRENT").exists():
        raise CorruptionError(
            f"{path / DATABASE} has no database, though {path} was in use: restore the directory from "
            f"a replica or backup, or give an empty one"
        )
    durable = DurableMark(path / DURABLE)
    try:
        _keep_log(path)
        database = _open_database(path / DATABASE, memtable_bytes, create=False)
        found = database.latest_sequence_number()
        if found < durable.sequence:
            database.close()
            where = _set_aside(path)
            raise CorruptionError(
                f"{path / DATABASE}: the write-ahead log ends at {found}, but {durable.sequence} was "
                f"flushed: {durable.sequence - found} writes are missing, so the log is damaged"
                f"{f' (its files are in {where})' if where else ''}. Restore the directory from a "
                f"replica or backup; to go on without them, at your own risk, delete {path / DURABLE}"
            )
    except BaseException:
        durable.close()
        raise
    shutil.rmtree(path / RECOVERING, ignore_errors=True)
    return database, durable


def _keep_log(path: Path) -> None:
    """Give the log's files second names, where the file system has links."""
    kept = path / RECOVERING  # may hold some already, of an opening that was killed
    logs = [log for log in (path / DATABASE).glob("*.log") if log.stat().st_size]
    if not logs:
        return
    try:
        kept.mkdir(exist_ok=True)
        for log in logs:
            if not (kept / log.name).exists():
                (kept / log.name).hardlink_to(log)
    except OSError:
        shutil.rmtree(kept, ignore_errors=True)


def _set_aside(path: Path) -> Path | None:
    """Keep the files of a damaged log; of several refusals the first has it whole."""
    kept, damaged = path / RECOVERING, path / DAMAGED
    if damaged.exists():
        shutil.rmtree(kept, ignore_errors=True)
    elif kept.exists():
        kept.rename(damaged)
        sync_directory(path)
    return damaged if damaged.exists() else None


def _open_database(path: Path, memtable_bytes: int, *, create: bool) -> Rdict:
    options = Options(raw_mode=True)  # never pickle
    options.create_if_missing(create)
    options.set_write_buffer_size(memtable_bytes)
    options.set_max_write_buffer_number(MEMTABLES_MAX)
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO)
    options.set_memtable_whole_key_filtering(True)
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX)
    options.set_max_background_jobs(2)
    options.set_max_log_file_size(INFO_LOG_BYTES_MAX)
    options.set_keep_log_file_num(INFO_LOGS_MAX)
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_paranoid_checks(True)
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.point_in_time())
    options.set_bytes_per_sync(2**20)
    table = rocksdict.BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(rocksdict.Cache(CACHE_BYTES))
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    options.set_block_based_table_factory(table)
    try:
        database = Rdict(str(path), options)
    except Exception as error:
        text = str(error)
        if text.startswith(("IO error: While lock file", "IO error: lock hold")):
            raise StoreError(f"{path} is in use by another process: {text}") from error
        if text.startswith("IO error"):
            raise StoreError(f"{path} cannot be opened: {text}") from error
        raise CorruptionError(
            f"{path} cannot be opened: {text}. Restore it from a replica or backup"
        ) from error
    assert _is_raw(database), "the database would not keep bytes as they are"
    return database


def _is_raw(database: Rdict) -> bool:
    """Whether only bytes are stored, as they are."""
    try:
        database.get("a text")
    except KeyError:
        return True
    return False


def verify(path: Path) -> tuple[int, int]:
    """Read everything in a store; (rows, bytes). Raises what opening or reading raises."""
    store = RocksStore.open(path, create=False)
    rows = size = 0
    try:
        for key, value in store.iterate(b"\0", b"\xff" * 8):
            check_row(key, value)
            rows += 1
            size += len(key) + len(value)
    finally:
        store.close()
    return rows, size
