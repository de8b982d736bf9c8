"""A store's part in an audit: to hash a piece of its state as it is after just one entry.

Entries are applied many together, so a state that is asked for is held up at its entry, for a moment: until the
piece's rows are pinned there by an iterator. Then it goes on, and the rows are hashed in a thread, a page at a time and
with pauses, so that neither the loop nor the disk is busy with it. What an iterator pins is bounded: by the
size of a piece, by the time that its pace allows, and by how many there are at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import msgspec

from roost.cluster.ids import ShardId
from roost.errors import CorruptionError
from roost_node.core.replication.audit import Finding, Outcome
from roost_node.storage.digest import PieceDigest
from roost_node.storage.engine import Store

log = logging.getLogger(__name__)

PAGE_BYTES = 64 * 1024
PIECES_MAX = 4  # at once: our own, and those of other owners
HOLD_S_MAX = 5.0  # how long a state may be held up, or waited for


class Piece(msgspec.Struct, frozen=True):
    """What is to be hashed."""

    shard: ShardId
    index: int
    start: bytes
    bytes_max: int
    bytes_per_s: int


Tell = Callable[[Finding, bytes, int], None]
"""Told once: what was found, the first key of the next piece (empty: there is none), bytes that were read."""


class _Asked(msgspec.Struct):
    piece: Piece
    until_s: float
    tell: Tell


class Inspector:
    """Of one store. `run` must be running, or everything is missed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asked: dict[ShardId, _Asked] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._busy = 0

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await asyncio.Event().wait()
        finally:
            self._tasks = None

    def ask(self, piece: Piece, tell: Tell) -> None:
        """Hash it when the state has come to its entry, which it must not have passed."""
        if self._tasks is None or self._busy + len(self._asked) >= PIECES_MAX:
            _miss(tell)
            return
        older = self._asked.pop(piece.shard, None)
        if older is not None:
            _miss(older.tell)  # of an owner that is none any more
        until_s = asyncio.get_running_loop().time() + HOLD_S_MAX
        self._asked[piece.shard] = _Asked(piece, until_s, tell)

    def hold(self, shard: ShardId, commit: int) -> int:
        """Up to where entries may be applied now."""
        asked = self._asked.get(shard)
        return min(commit, asked.piece.index) if asked is not None else commit

    def look(self, applied: Mapping[ShardId, int]) -> None:
        """States have moved on: pin those that have come to where they are wanted."""
        if not self._asked:
            return
        now_s = asyncio.get_running_loop().time()
        for shard, asked in list(self._asked.items()):
            index = applied.get(shard, 0)
            if index == asked.piece.index and self._tasks is not None:
                del self._asked[shard]
                piece = asked.piece
                digest = PieceDigest(self._store, shard, piece.start, piece.bytes_max)
                self._busy += 1
                self._tasks.create_task(self._hash(digest, piece, asked.tell))
            elif index > asked.piece.index or now_s >= asked.until_s or self._tasks is None:
                del self._asked[shard]
                _miss(asked.tell)

    async def _hash(self, digest: PieceDigest, piece: Piece, tell: Tell) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            while await in_thread(digest):
                due_s = began_s + digest.size_bytes / piece.bytes_per_s
                await asyncio.sleep(max(0.0, due_s - loop.time()))
        except CorruptionError as error:
            log.error(  # noqa: TRY400  # the message says all
                "a copy cannot be read", extra={"shard": piece.shard, "why": error.message}
            )
            tell(Finding(Outcome.UNREADABLE), b"", digest.size_bytes)
        else:
            tell(Finding(Outcome.HASHED, digest.digest), digest.next_key, digest.size_bytes)
        finally:
            self._busy -= 1
            digest.close()


async def in_thread(digest: PieceDigest) -> bool:
    """A page. A cancellation waits for it: the store may be closed afterwards."""
    page = asyncio.get_running_loop().run_in_executor(None, digest.go_on, PAGE_BYTES)
    try:
        return await asyncio.shield(page)
    except asyncio.CancelledError:
        await asyncio.wait([page])
        raise


def _miss(tell: Tell) -> None:
    tell(Finding(Outcome.MISSED), b"", 0)
