"""Hashing a piece of a store's state as it is after one entry, while the store goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from roost.cluster.ids import ShardId
from roost.errors import CorruptionError
from roost_node.core.replication.audit import Finding, Outcome
from roost_node.replication.inspector import PIECES_MAX, Inspector, Piece
from roost_node.storage import layout
from roost_node.storage.digest import PieceDigest
from roost_node.storage.engine import Store
from roost_node.storage.rocks import RocksStore

SHARD = ShardId(7)
FAST = 10**12


def row(name: str, shard: int = SHARD) -> bytes:
    return layout.record_key(shard, layout.object_id("Counter", name))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    opened = RocksStore.open(tmp_path / "data", shards=16)
    opened.write([(row(f"{number:03}"), b"v" * 100) for number in range(50)])
    opened.write([(row("0", 6), b"before"), (row("0", 8), b"behind")])
    yield opened
    opened.close()


def digests(store: Store, bytes_max: int = 2**20) -> list[bytes]:
    found, start = [], b""
    while True:
        piece = PieceDigest(store, SHARD, start, bytes_max)
        while piece.go_on(64):
            pass
        found.append(piece.digest)
        start = piece.next_key
        if not start:
            return found


def test_a_digest_is_of_what_the_owner_wrote_and_of_nothing_else(store: RocksStore) -> None:
    before = digests(store)
    store.write(
        [
            (layout.head_key(SHARD), b"other"),
            (layout.replica_key(SHARD), b"other"),
            (layout.log_key(SHARD, 3), b"other"),
            (row("0", 6), b"other"),
            (row("0", 8), b"other"),
        ]
    )
    assert digests(store) == before
    for change in ((row("007"), b"w" * 100), (row("new"), b""), (row("049"), None)):
        store.write([change])
        assert digests(store) != before
        before = digests(store)
    assert len(digests(store, 1_000)) > 4
    assert digests(store, 1_000) == digests(store, 1_000)


@asynccontextmanager
async def at_work(store: Store) -> AsyncIterator[Inspector]:
    inspector = Inspector(store)
    running = asyncio.create_task(inspector.run())
    await asyncio.sleep(0)
    try:
        yield inspector
    finally:
        running.cancel()
        await asyncio.wait([running])


class Told:
    def __init__(self) -> None:
        self.found = asyncio.get_running_loop().create_future()

    def __call__(self, found: Finding, next_key: bytes, size_bytes: int) -> None:
        self.found.set_result(found)

    async def outcome(self) -> Outcome:
        found: Finding = await self.found
        return found.outcome


def piece(index: int, shard: ShardId = SHARD, pace: int = FAST) -> Piece:
    return Piece(shard, index, b"", 2**20, pace)


async def _held(store: RocksStore) -> None:
    expected = digests(store)
    async with at_work(store) as inspector:
        told = Told()
        inspector.ask(piece(10), told)
        assert inspector.hold(SHARD, 15) == 10
        assert inspector.hold(SHARD, 8) == 8
        assert inspector.hold(ShardId(1), 15) == 15
        inspector.look({SHARD: 9})
        inspector.look({SHARD: 10})
        assert inspector.hold(SHARD, 15) == 15, "its rows are pinned, it may go on"
        store.write([(row("007"), b"later")])
        found: Finding = await told.found
        assert found == Finding(Outcome.HASHED, expected[0])


def test_a_state_is_held_at_its_entry_until_its_rows_are_pinned(store: RocksStore) -> None:
    asyncio.run(_held(store))


async def _missed(store: RocksStore) -> None:
    told = Told()
    Inspector(store).ask(piece(1), told)
    assert await told.outcome() is Outcome.MISSED, "no auditor runs here"
    async with at_work(store) as inspector:
        past, older, newer = Told(), Told(), Told()
        inspector.ask(piece(3), past)
        inspector.look({SHARD: 4})
        assert await past.outcome() is Outcome.MISSED
        inspector.ask(piece(5), older)
        inspector.ask(piece(6), newer)
        assert await older.outcome() is Outcome.MISSED, "another owner asks"
        inspector.look({SHARD: 6})
        assert await newer.outcome() is Outcome.HASHED
        many = [Told() for _ in range(PIECES_MAX + 1)]
        for number, each in enumerate(many):
            inspector.ask(piece(1, ShardId(number)), each)
        assert await many[-1].outcome() is Outcome.MISSED, "no more are pinned at once"
        assert not any(each.found.done() for each in many[:-1])


def test_what_cannot_be_hashed_is_missed_and_never_waited_for(store: RocksStore) -> None:
    asyncio.run(_missed(store))


class Torn(RocksStore):
    """One of whose blocks is not what was written."""

    def __init__(self) -> None:
        pass

    def iterate(
        self, start: bytes, end: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        yield row("0"), b"v"
        raise CorruptionError("block checksum mismatch")


async def _unreadable() -> None:
    async with at_work(Torn()) as inspector:
        told = Told()
        inspector.ask(piece(1), told)
        inspector.look({SHARD: 1})
        assert await told.outcome() is Outcome.UNREADABLE


def test_a_block_that_cannot_be_read_is_a_finding() -> None:
    asyncio.run(_unreadable())


async def _ended(store: RocksStore) -> None:
    async with at_work(store) as inspector:
        inspector.ask(piece(1, pace=1), Told())
        inspector.look({SHARD: 1})
        await asyncio.sleep(0)


def test_the_end_of_a_node_does_not_wait_for_a_slow_piece(store: RocksStore) -> None:
    asyncio.run(_ended(store))
