"""Rows in RocksDB.

Three things measured on this engine decide how it is used here:

- a lost tail is silent: one flipped byte in the write-ahead log made recovery drop half of the
  synced records without an error. So after each flush the database's sequence number is written into
  the file DURABLE, and a store that opens below it refuses to start. (The number is read before the
  flush begins and written without a flush of its own: too low is harmless.)
- `write(sync=True)` and stalled writes hold the GIL; `flush_wal(True)` and `no_slowdown` do not.
- `keys()/items()/values()` end silently at a corrupt block: rows are read by `iter()` alone, whose
  `status()` is asked at the end.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import rocksdict
from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from roost.cluster.ids import SHARDS_DEFAULT
from roost.errors import CorruptionError, StoreError
from roost_node.core.log import DeleteRange, Op
from roost_node.storage.directory import DATABASE, DURABLE, Directory, sync_directory

MEMTABLE_BYTES = 32 * 2**20
CACHE_BYTES = 64 * 2**20
WAL_BYTES_MAX = 256 * 2**20
DURABLE_BYTES = 12  # sequence number and its checksum


class RocksStore:
    """A store on a disk."""

    def __init__(self, directory: Directory, database: Rdict, durable: int) -> None:
        identity = directory.identity
        self.store_id = identity.store_id
        self.cluster_id = identity.cluster_id
        self.seed = identity.seed
        self.shards = identity.shards
        self.path = directory.path
        self._directory = directory
        self._database = database
        self._durable = durable
        self._marked = 0
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
        memtable_bytes: int = MEMTABLE_BYTES,
    ) -> RocksStore:
        """Open or create the store in `path`. Raises StoreError, CorruptionError."""
        directory = Directory.open(path, shards=shards, cluster_id=cluster_id)
        try:
            if directory.created:
                shutil.rmtree(path / DATABASE, ignore_errors=True)  # of an unfinished creation
                (path / DURABLE).unlink(missing_ok=True)
            database = _open_database(path / DATABASE, memtable_bytes)
            durable = _open_durable(path / DURABLE)
            marked = _read_mark(durable)
            found = database.latest_sequence_number()
            if found < marked:
                database.close()
                os.close(durable)
                raise CorruptionError(
                    f"{path / DATABASE}: the write-ahead log ends at {found}, but {marked} was "
                    f"flushed: {marked - found} writes are missing, so the log is damaged. Restore "
                    f"the directory from a replica or backup; to go on without them, at your own "
                    f"risk, delete {path / DURABLE}"
                )
            store = cls(directory, database, durable)
            store._marked = marked
            if directory.created:
                sync_directory(path / DATABASE)
                sync_directory(path)
                directory.finish()
        except BaseException:
            directory.close()
            raise
        return store

    def get(self, key: bytes) -> bytes | None:
        """One row."""
        try:
            value: bytes | None = self._database.get(key)
        except Exception as error:
            raise self._corrupt(error, key) from error
        return value

    def iterate(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, end), as of this call."""
        rows = self._database.iter()  # sees the database as it is now, whatever is written later
        if reverse:
            rows.seek_for_prev(end)
            if rows.valid() and rows.key() == end:
                rows.prev()
        else:
            rows.seek(start)
        return self._rows(rows, start, end, reverse)

    def _rows(
        self, rows: rocksdict.RdictIter, start: bytes, end: bytes, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        key = start
        while rows.valid():
            key = rows.key()
            if key < start or key >= end:
                return
            yield key, rows.value()
            if reverse:
                rows.prev()
            else:
                rows.next()
        try:
            rows.status()
        except Exception as error:
            raise self._corrupt(error, key) from error

    def write(self, ops: Sequence[Op]) -> bool:
        """One atomic batch."""
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for op in ops:
            if isinstance(op, DeleteRange):
                batch.delete_range(op.start, op.end)
            elif op[1] is None:
                delete(op[0])
            else:
                put(op[0], op[1])
        try:
            self._database.write(batch, self._write_options)
        except Exception as error:
            if "Incomplete" in str(error) or "stall" in str(error).lower():
                return False
            raise
        return True

    def sync(self) -> None:
        """Flush the write-ahead log, then mark how far it reaches."""
        reached = self._database.latest_sequence_number()
        self._database.flush_wal(True)
        if self._database.property_int_value("rocksdb.background-errors"):
            raise OSError("RocksDB reports a background error: see db/LOG")
        self._mark(reached)

    def _mark(self, reached: int) -> None:
        if reached > self._marked:
            raw = struct.pack(">Q", reached)
            os.pwrite(self._durable, raw + struct.pack(">I", zlib.crc32(raw)), 0)
            self._marked = reached

    def flush(self) -> None:
        """Move what is in memory into table files (releases the GIL)."""
        self._database.flush()

    def close(self) -> None:
        """Flush and let go."""
        if self._closed:
            return
        self._closed = True
        try:
            self.sync()
            self._database.close()
            os.fsync(self._durable)
        finally:
            os.close(self._durable)
            self._directory.close()

    def free_bytes(self) -> int:
        """Free space of the disk."""
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize

    def total_bytes(self) -> int:
        """Size of the disk."""
        disk = os.statvfs(self.path)
        return disk.f_blocks * disk.f_frsize

    def _corrupt(self, error: Exception, key: bytes) -> CorruptionError:
        return CorruptionError(
            f"{self.path / DATABASE}: at or after key {key.hex()}: {error}. Restore this store from a "
            f"replica or backup; `roost node --verify` reads everything"
        )


def _open_database(path: Path, memtable_bytes: int) -> Rdict:
    options = Options(raw_mode=True)  # never pickle
    options.create_if_missing(True)
    options.set_write_buffer_size(memtable_bytes)
    options.set_max_write_buffer_number(4)
    options.set_max_total_wal_size(WAL_BYTES_MAX)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(4)
    options.set_max_open_files(512)
    options.set_paranoid_checks(True)
    options.set_wal_recovery_mode(rocksdict.DBRecoveryMode.point_in_time())
    options.set_bytes_per_sync(2**20)
    table = rocksdict.BlockBasedOptions()
    table.set_bloom_filter(10, False)
    table.set_block_cache(rocksdict.Cache(CACHE_BYTES))
    table.set_cache_index_and_filter_blocks(True)
    table.set_format_version(5)
    options.set_block_based_table_factory(table)
    try:
        database = Rdict(str(path), options)
    except Exception as error:
        text = str(error)
        if "lock" in text.lower():
            raise StoreError(f"{path} is in use by another process: {text}") from error
        raise CorruptionError(
            f"{path} cannot be opened: {text}. Restore it from a replica or backup"
        ) from error
    return database


def _open_durable(path: Path) -> int:
    new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if new:
        os.pwrite(handle, bytes(DURABLE_BYTES), 0)
        os.fsync(handle)
    return handle


def _read_mark(handle: int) -> int:
    """The marked sequence number; 0 where the mark itself was torn."""
    raw = os.pread(handle, DURABLE_BYTES, 0)
    if len(raw) < DURABLE_BYTES or struct.unpack(">I", raw[8:])[0] != zlib.crc32(raw[:8]):
        return 0
    number: int = struct.unpack(">Q", raw[:8])[0]
    return number


def verify(path: Path) -> tuple[int, int]:
    """Read everything in a store; (rows, bytes). Raises what opening or reading raises."""
    store = RocksStore.open(path)
    rows = size = 0
    try:
        for key, value in store.iterate(b"", b"\xff" * 8):
            rows += 1
            size += len(key) + len(value)
    finally:
        store.close()
    return rows, size
