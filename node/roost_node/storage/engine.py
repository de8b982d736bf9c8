"""What the host asks of a store: ordered rows, atomic batches, one flush for many.

`rocks.py` keeps the rows on a disk, `memory.py` in memory for tests that lose them on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from roost_node.core.log import DeleteRange, Op


class TableFile(msgspec.Struct, frozen=True):
    """One sorted file."""

    size_bytes: int
    first: int  # shard of its first key
    last: int


class Store(Protocol):
    """One data directory: a node's identity and all its rows."""

    store_id: str
    cluster_id: str
    seed: bytes
    shards: int

    def get(self, key: bytes) -> bytes | None:
        """One row. Raises CorruptionError when its block is not what was written."""

    def iterate(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, end) as of this call. Raises CorruptionError where they end in one."""

    def write(self, ops: Sequence[Op]) -> bool:
        """Write one atomic batch, not flushed yet. False: stalled, nothing written, try again."""

    def sync(self) -> None:
        """Flush everything written before this call; may run in a thread. A failure is final."""

    def close(self) -> None:
        """Flush and let go of the directory."""

    def free_bytes(self) -> int:
        """Free space of the disk; 0: not known."""

    def total_bytes(self) -> int:
        """Size of the disk; 0: not known."""

    def table_files(self) -> list[TableFile]:
        """Sorted files, and which shards they reach over."""

    def memory_bytes(self) -> int:
        """Rows that are in no file yet."""


__all__ = ["DeleteRange", "Op", "Store", "TableFile"]
