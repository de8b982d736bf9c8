"""What a node does with the log of a copy while its disk is behind what was ordered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from roost.cluster.ids import HASH_NAME, ShardId
from roost_node.core.log import Entry, Op
from roost_node.core.record import (
    ClusterConfig,
    Epoch,
    How,
    Map,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Versioned,
)
from roost_node.core.replication.epochs import Shape
from roost_node.core.replication.follower import Kept
from roost_node.core.replication.messages import (
    Append,
    Fetch,
    Fetched,
    FromOwner,
    LogEntry,
    Register,
    Registered,
    SnapshotBegin,
)
from roost_node.core.replication.replicas import Replicas
from roost_node.host.host import Host
from roost_node.host.shard import Shard
from roost_node.replication.bodies import encode_entry
from roost_node.replication.peers import Peers
from roost_node.replication.records import Records
from roost_node.replication.replicator import Audience, Replicator
from roost_node.storage import layout, records
from roost_node.storage.replica_log import ReplicaLog, append_ops, fact_op
from roost_node.storage.rocks import RocksStore
from roost_node.telemetry import Telemetry

A, B = StoreId("a"), StoreId("b")
SHARD = ShardId(3)
GROUP = layout.object_id("C", "k")
KEY = layout.rows_range(SHARD, GROUP)[0]
CONFIG = ClusterConfig("cluster", 16, b"seed", HASH_NAME)


def entry(index: int, epoch: int) -> LogEntry:
    """It writes its name into a row of its own."""
    digest = b"%08d%08d" % (epoch, index)
    rows = {KEY + b"%d" % index: b"%d/%d" % (epoch, index)}
    previous = 1 if index == 8 else epoch
    return encode_entry(Entry(SHARD, epoch, index, previous, digest, 1_000, GROUP, rows, (), 100))


class Disk:
    """A committer whose disk is busy until `write` is called."""

    def __init__(self, store: RocksStore) -> None:
        self._store = store
        self._orders: list[tuple[Sequence[Op], Callable[[], None]]] = []

    def write(self, ops: Sequence[Op], done: Callable[[], None]) -> None:
        self._orders.append((ops, done))

    def add(self, shard: Shard, made: Entry) -> None:
        assert shard.replica is not None
        shard.replica.on_appended(shard, made)

    def end(self) -> None:
        orders, self._orders = self._orders, []
        for ops, done in orders:
            self._store.write(ops)
            done()


class Restarted:
    """Node a: its log has entries 1 to 10 of epoch 1, its state the first five; memory is empty."""

    def __init__(self, path: Path, tasks: asyncio.TaskGroup) -> None:
        self.store = RocksStore.open(path, shards=16)
        log = ReplicaLog(self.store)
        old = [entry(index, 1) for index in range(1, 11)]
        head = records.encode_head(1, 5, old[4].hash, 1_000)
        facts = fact_op(SHARD, Kept(Epoch(1)))
        self.store.write([facts, *append_ops(SHARD, -1, old), (layout.head_key(SHARD), head)])
        self.now_ms = 100_000
        self.disk = Disk(self.store)
        self.sent: list[FromOwner] = []
        self.died: list[BaseException] = []
        self.closed: list[Shard] = []
        self.replicas = Replicas(A, log.load(), 0, min_in_sync=1)
        host = SimpleNamespace(
            committer=self.disk,
            telemetry=Telemetry(),
            limits=SimpleNamespace(audit_bytes_per_s=0, kept_bytes_max=2**20),
            now_ms=lambda: self.now_ms,
            loop=asyncio.get_running_loop(),
            objects=SimpleNamespace(open_shard=lambda _: None, close_shard=self.closed.append),
        )
        self.replicator = Replicator(
            cast("Host", host),
            self.store,
            self.replicas,
            log,
            cast("Records", SimpleNamespace(read_soon=lambda: 0, finished=0)),
            tasks,
            lambda: self.now_ms,
            self.died.append,
        )
        self.replicator.audience = cast(
            "Audience", SimpleNamespace(on_record=lambda *_, **__: None)
        )
        self.replicator.peers = cast(
            "Peers",
            SimpleNamespace(
                send=lambda _, message: self.sent.append(message),
                reply=lambda *_: None,
                pending_bytes=lambda _: 0,
                set_peers=lambda *_: None,
            ),
        )

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                assert not self.died
                await asyncio.sleep(0)

    async def adopts(self) -> None:
        """It is promoted, b has a longer log, of which it fetches the rest: next it opens the epoch."""
        replicator = self.replicator
        replicator.on_session(SessionId(1))
        sessions = {s: SessionInfo(s, SessionId(n), s) for n, s in enumerate((A, B), 1)}
        record = ShardRecord(Epoch(3), A, SessionId(1), How.FAILOVER, (A, B))
        replicator.on_link(B)
        found = Map(7, CONFIG, sessions, {}, {SHARD: Versioned(7, record)})
        replicator.on_map(found, self.now_ms)
        await self.until(lambda: SHARD in self.replicas.owners)
        await asyncio.sleep(0)
        self.disk.end()
        await self.until(lambda: Register(SHARD, Epoch(3)) in self.sent)
        longest = self.replicas.kept_of(SHARD).shape.cut(7)
        younger = tuple(entry(index, 2) for index in range(8, 13))
        for each in younger:
            longest = longest.extended(each.epoch, each.index)
        replicator.on_from_follower(B, Registered(SHARD, Epoch(3), longest))
        await self.until(lambda: Fetch(SHARD, Epoch(3), 7) in self.sent)
        replicator.on_from_follower(B, Fetched(SHARD, Epoch(3), younger))

    def state(self) -> list[bytes | None]:
        return [self.store.get(KEY + b"%d" % index) for index in range(6, 13)]

    def head(self) -> int:
        return ReplicaLog(self.store).head(SHARD).index


EXPECTED = [b"1/6", b"1/7", b"2/8", b"2/9", b"2/10", b"2/11", b"2/12"]


def test_a_state_gets_no_entry_that_was_cut_while_the_disk_is_behind(tmp_path: Path) -> None:
    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            node = Restarted(tmp_path / "data", tasks)
            stream = node.replicator.on_inbound(B, SessionId(2))
            node.replicator.on_from_owner(B, stream, Register(SHARD, Epoch(2)))
            younger = tuple(entry(index, 2) for index in range(8, 13))
            append = Append(SHARD, Epoch(2), 7, Epoch(1), younger, commit=12)
            node.replicator.on_from_owner(B, stream, append)
            running = tasks.create_task(node.replicator.run())
            await node.until(lambda: node.head() == 12)
            running.cancel()
            node.disk.end()
            assert node.state() == EXPECTED
        node.store.close()

    asyncio.run(story())


def test_a_copy_whose_snapshot_broke_off_gets_all_that_the_log_brings_it(tmp_path: Path) -> None:
    """The owner sends a snapshot, the stream breaks; then its log, which goes back to the first entry."""

    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            node = Restarted(tmp_path / "data", tasks)
            replicator = node.replicator
            stream = replicator.on_inbound(B, SessionId(2))
            replicator.on_from_owner(B, stream, Register(SHARD, Epoch(2)))
            shape = Shape(((Epoch(2), 1),), 9, 9)
            replicator.on_from_owner(B, stream, SnapshotBegin(SHARD, Epoch(2), shape, b""))
            replicator.on_inbound_lost(B, stream)
            stream = replicator.on_inbound(B, SessionId(2))
            replicator.on_from_owner(B, stream, Register(SHARD, Epoch(2)))
            all_of_it = tuple(entry(index, 2) for index in range(1, 13))
            append = Append(SHARD, Epoch(2), 0, Epoch(0), all_of_it, commit=12)
            replicator.on_from_owner(B, stream, append)
            await asyncio.sleep(0)
            node.disk.end()
            running = tasks.create_task(replicator.run())
            await node.until(lambda: node.head() == 12)
            running.cancel()
            assert node.state() == [b"2/%d" % index for index in range(6, 13)]
        node.store.close()

    asyncio.run(story())


def test_a_new_owner_takes_no_entry_that_it_has_replaced(tmp_path: Path) -> None:
    """Neither for its objects nor for its followers: b has the longer log, of which a fetches the rest."""

    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            node = Restarted(tmp_path / "data", tasks)
            await node.adopts()
            await node.until(node.replicator.shards)
            rows = {KEY + b"%d" % index: value for index, value in enumerate(EXPECTED, 6)}
            group = node.replicator.shards()[SHARD].log.group(GROUP)
            assert group is not None
            assert {key: group.get(key) for key in rows} == rows
        node.store.close()

    asyncio.run(story())


@pytest.mark.parametrize("is_deposed", [False, True])
def test_a_shard_that_is_lost_right_before_it_opens_ends_nobody(
    tmp_path: Path, is_deposed: bool
) -> None:
    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            node = Restarted(tmp_path / "data", tasks)
            await node.adopts()
            if is_deposed:
                stream = node.replicator.on_inbound(B, SessionId(2))
                node.replicator.on_from_owner(B, stream, Register(SHARD, Epoch(4)))
            else:
                node.replicator.on_session_lost()
            await asyncio.sleep(0)
            assert not node.died
            assert not node.replicator.shards()
        node.store.close()

    asyncio.run(story())


@pytest.mark.parametrize("by_map", [False, True])
def test_the_calls_of_a_shard_that_is_lost_end_before_any_of_them_goes_on(
    tmp_path: Path, by_map: bool
) -> None:
    """One that made an entry now, in the same turn of the loop, would make it for nobody."""

    async def story() -> None:
        async with asyncio.TaskGroup() as tasks:
            node = Restarted(tmp_path / "data", tasks)
            await node.adopts()
            await node.until(node.replicator.shards)
            (shard,) = node.replicator.shards().values()
            if by_map:
                record = ShardRecord(Epoch(4), B, SessionId(2), How.FAILOVER, (A, B))
                found = Map(8, CONFIG, node.replicas.sessions, {}, {SHARD: Versioned(8, record)})
                node.replicator.on_map(found, node.now_ms)
            else:
                stream = node.replicator.on_inbound(B, SessionId(2))
                node.replicator.on_from_owner(B, stream, Register(SHARD, Epoch(4)))
            if not node.closed:
                node.disk.add(shard, shard.log.append(GROUP, {KEY: b"late"}, node.now_ms))
            assert node.closed == [shard]
            await asyncio.sleep(0)
            assert not node.died
        node.store.close()

    asyncio.run(story())
