"""A store in memory that can lose what was not flushed: for tests and simulations."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from roost_node.core.log import DeleteRange, Op
from roost_node.storage.engine import TableFile


class LostFlushError(OSError):
    """A flush failed, as it was to: what it should have made safe is lost for good."""


class MemoryStore:
    """Rows in a dict with a sorted list of keys."""

    def __init__(
        self, *, shards: int = 8, seed: bytes = b"memory", store_id: str = "memory"
    ) -> None:
        self.store_id = store_id
        self.cluster_id = "memory"
        self.seed = seed
        self.shards = shards
        self.stalled = False
        self.next_flush_fails = False
        self._rows: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self._flushed: dict[bytes, bytes] = {}
        self._flushed_keys: list[bytes] = []
        self._unflushed: list[tuple[Op, ...]] = []

    def get(self, key: bytes) -> bytes | None:
        """One row."""
        return self._rows.get(key)

    def iterate(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, end), as of this call."""
        keys = self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, end)]
        rows = [(key, self._rows[key]) for key in keys]
        return iter(rows[::-1] if reverse else rows)

    def write(self, ops: Sequence[Op]) -> bool:
        """One atomic batch."""
        if self.stalled:
            return False
        batch = tuple(ops)
        self._unflushed.append(batch)
        _apply(batch, self._rows, self._keys)
        return True

    def sync(self) -> None:
        """What was written is safe now."""
        if self.next_flush_fails:
            self.next_flush_fails = False
            self._unflushed = []  # still to be read, as from a page cache
            raise LostFlushError("this flush was to fail")
        # Batch by batch: a copy of all rows for each flush would make long runs quadratic.
        for batch in self._unflushed:
            _apply(batch, self._flushed, self._flushed_keys)
        self._unflushed = []

    def crash(self, survives: int = 0) -> MemoryStore:
        """The store as a restart finds it: what was flushed, and the first `survives` later batches."""
        after = MemoryStore(shards=self.shards, seed=self.seed)
        after.store_id, after.cluster_id = self.store_id, self.cluster_id
        after._rows, after._keys = dict(self._flushed), list(self._flushed_keys)
        for batch in self._unflushed[:survives]:
            _apply(batch, after._rows, after._keys)
        after._flushed, after._flushed_keys = dict(after._rows), list(after._keys)
        return after

    def rot(self, key: bytes) -> None:
        """A bit of a row that was flushed flips, without a word."""
        row = self._flushed[key]
        self._rows[key] = self._flushed[key] = row[:-1] + bytes([row[-1] ^ 1])

    @property
    def unflushed_count(self) -> int:
        """Batches that a crash may lose."""
        return len(self._unflushed)

    def close(self) -> None:
        """Nothing to let go of."""
        self.sync()

    def free_bytes(self) -> int:
        """Not known."""
        return 0

    def total_bytes(self) -> int:
        """Not known."""
        return 0

    def table_files(self) -> list[TableFile]:
        """There are none."""
        return []

    def memory_bytes(self) -> int:
        """All of them."""
        return sum(len(key) + len(row) for key, row in self._rows.items())


def _apply(batch: Sequence[Op], rows: dict[bytes, bytes], keys: list[bytes]) -> None:
    for op in batch:
        if isinstance(op, DeleteRange):
            low, high = bisect_left(keys, op.start), bisect_left(keys, op.end)
            for key in keys[low:high]:
                del rows[key]
            del keys[low:high]
        elif op[1] is None:
            if rows.pop(op[0], None) is not None:
                del keys[bisect_left(keys, op[0])]
        else:
            if op[0] not in rows:
                insort(keys, op[0])
            rows[op[0]] = op[1]
