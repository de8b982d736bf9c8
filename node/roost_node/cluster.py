"""A node's part in a cluster: builds session, streams, replication and controller around its host."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TypeVar

from roost import __version__
from roost.adapters.direct import Identity
from roost.cluster.ids import HASH_NAME, ShardId
from roost.cluster.shard_map import Shape, ShardMap
from roost.cluster.shard_map import ShardRecord as Owned
from roost.errors import StoreError
from roost_node.config import NodeConfig
from roost_node.core.moves import Moves
from roost_node.core.overview import overview
from roost_node.core.record import (
    NO_SESSION,
    ClusterConfig,
    Epoch,
    Event,
    Map,
    SessionId,
    SessionInfo,
    StoreId,
    Transaction,
    Versioned,
    is_gone,
)
from roost_node.core.replication.replicas import Replicas
from roost_node.core.rescue import lost_here
from roost_node.core.session import Confirmed, Doubted, Lost, Registered
from roost_node.node import Node
from roost_node.ownership.controller import Controller
from roost_node.ownership.coordinator import (
    Coordinator,
    CoordinatorDownError,
    ForeignClusterError,
    UnansweredError,
)
from roost_node.ownership.session import SessionLoop
from roost_node.relay import Relay
from roost_node.replication.generation import (
    Believed,
    read_generation,
    settle_generation,
)
from roost_node.replication.neighbours import Neighbours
from roost_node.replication.peer_server import PeerServer
from roost_node.replication.peers import Peers
from roost_node.replication.records import Records
from roost_node.replication.replicator import Replicator
from roost_node.rescue import event_id
from roost_node.storage import layout, records
from roost_node.storage.directory import MARK
from roost_node.storage.replica_log import ReplicaLog
from roost_node.storage.rocks import RocksStore
from roost_node.storage.sizes import ShardSizes
from roost_node.supervisor_line import NodeEnd

log = logging.getLogger(__name__)

T = TypeVar("T")

SESSION_TTL_S = 3
REPORT_EVERY_S = 0.5
SUSPEND_MS = 100
"""A difference between CLOCK_BOOTTIME and CLOCK_MONOTONIC that means: the machine slept (P3)."""

Publish = Callable[[ShardMap, list[Owned]], None]
Tell = Callable[[Owned], None]
SetServing = Callable[[bool], Coroutine[None, None, None]]


def boot_ms() -> int:
    """CLOCK_BOOTTIME: goes on while the machine sleeps, and is never set."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _slept_ms() -> int:
    return boot_ms() - time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000


async def cluster_store(
    coordinator: Coordinator, config: NodeConfig
) -> tuple[RocksStore, ClusterConfig]:
    """Open this node's store, or create it by the cluster's rules; create the cluster if it is new.

    A directory that is there already and begins a cluster gives it its own rules, and where a node alone has
    written it, its objects: the cluster's first record names it as the founder, before anybody can create a shard.
    Raises StoreError when directory and cluster do not belong together.
    """
    found = None
    if (config.data / MARK).exists():
        found = RocksStore.open(config.data, create=False)
    epoch_alone = _epoch_alone(found) if found is not None else Epoch(0)
    proposed = ClusterConfig(
        found.cluster_id if found is not None else secrets.token_hex(16),
        found.shards if found is not None else config.shards,
        found.seed if found is not None else secrets.token_bytes(16),
        HASH_NAME,
        replicas=config.replicas,
        min_in_sync=max(1, config.replicas - 1),
        # Where there was a cluster and etcd has lost it, its shards are not to be created anew (O7).
        generation=0 if found is not None and read_generation(found) else 1,
        founder=StoreId(found.store_id) if found is not None and epoch_alone else StoreId(""),
        first_epoch=Epoch(epoch_alone + 1),
        secret=secrets.token_bytes(32),
    )
    try:
        try:
            agreed = await _until_answered(partial(coordinator.create, proposed))
        except ForeignClusterError as error:
            if epoch_alone:
                raise StoreError(_not_its_cluster(config)) from error
            if found is not None:
                raise
            agreed = (await coordinator.read()).config  # a new store takes the cluster's rules
        if found is None:
            found = RocksStore.open(
                config.data,
                shards=agreed.shards,
                cluster_id=agreed.cluster_id,
                seed=agreed.seed,
            )
        if epoch_alone and agreed.founder != found.store_id:
            raise StoreError(_not_its_cluster(config))
        if found.cluster_id != agreed.cluster_id:
            raise StoreError(
                f"{config.data} belongs to cluster {found.cluster_id}, etcd holds cluster "
                f"{agreed.cluster_id}: give this cluster's directory, an empty one, or another --cluster"
            )
    except BaseException:
        if found is not None:
            found.close()
        raise
    return found, agreed


def _epoch_alone(store: RocksStore) -> Epoch:
    """The highest epoch of state without a log: a node alone wrote it, so no other store has it. 0: there is none."""
    epoch = 0
    for shard in range(store.shards):
        head = store.get(layout.head_key(shard))
        if head is not None and store.get(layout.replica_key(shard)) is None:
            epoch = max(epoch, records.decode_head(head).epoch)
    return Epoch(epoch)


def _not_its_cluster(config: NodeConfig) -> str:
    """No record says that this store has anything, so its shards are or will be somewhere else, without it."""
    return (
        f"{config.data} was written by a node alone: it can begin a cluster, not join one, and etcd holds one"
        f" already: give an empty directory, or another --cluster and start this node before the others"
    )


async def _until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await ask()
        except (CoordinatorDownError, UnansweredError) as error:
            log.warning("etcd does not answer yet", extra={"error": error.message})
            await asyncio.sleep(1.0)  # where it refuses at once, nothing else would ever run


class Member:
    """`async with Member(node, ...)`: between `peer_server` and `join` the gRPC server is started."""

    def __init__(
        self,
        node: Node,
        coordinator: Coordinator,
        config: ClusterConfig,
        zone: str,
        weight: int,
        supervisor: NodeEnd | None = None,
    ) -> None:
        self._node = node
        self._supervisor = supervisor
        self._coordinator = coordinator
        self._config = config
        self._zone = zone
        self._weight = weight
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []
        self._campaign: asyncio.Task[None] | None = None
        self._session: SessionLoop | None = None
        self._stopping = False
        self.moves = Moves()
        self._address = ""  # where others reach us
        self._slept_ms = _slept_ms()
        self._random = random.Random()

    async def __aenter__(self) -> Member:
        await self._tasks.__aenter__()
        node = self._node
        store, host = node.store, node.host
        me = StoreId(store.store_id)
        replica_log = ReplicaLog(store)
        self._believed = Believed(
            settle_generation(store, self._config.generation), host.committer.write
        )
        self.replicas = Replicas(
            me, replica_log.load(), boot_ms(), min_in_sync=self._config.min_in_sync
        )
        self._records = Records(self._coordinator, self._tasks, boot_ms)
        self.replicator = Replicator(
            host,
            store,
            self.replicas,
            replica_log,
            self._records,
            self._tasks,
            boot_ms,
            node.on_fatal,
        )
        self._peers = Peers(
            me,
            self._config.cluster_id,
            self._believed.generation,
            self.replicator,
            self._tasks,
            self._random,
        )
        self.replicator.peers = self.replicator.auditor.peers = self._peers
        self.replicator.auditor.tell_event = self._tell_event
        self.replicator.audience = self
        self._records.listener = self
        host.ownership = self.replicator
        self._neighbours = Neighbours(
            self._addresses, lambda: Identity(self._address, self._config.secret)
        )
        self.relay = Relay(self._addresses)
        host.children.elsewhere = self._neighbours
        self.peer_server = PeerServer(self._peers)
        self.sizes = ShardSizes(
            store,
            lambda: [shard for shard, kept in self.replicas.kept.items() if kept.shape.end],
            asyncio.get_running_loop().time,
        )
        self.replicator.sizes = self.sizes
        self._controller = Controller(
            self._coordinator, boot_ms, self._believed.generation, sizes=self.sizes
        )
        self._map = ShardMap(Shape(store.cluster_id, HASH_NAME, store.seed, store.shards))
        return self

    async def join(
        self, address: str, publish: Publish, tell: Tell, set_serving: SetServing
    ) -> None:
        """Register: from here on this node may own shards. `address`: where others reach it.

        `publish`: the map has changed. `tell`: a shard went from here to another node. `set_serving`: whether
        this node has a session, without which it can own nothing.
        """
        self._publish = publish
        self._tell = tell
        self._set_serving = set_serving
        self._address = address
        me = StoreId(self._node.store.store_id)
        if not address:
            raise StoreError(
                "this node listens on every address: say with --advertise host:port where others reach it"
            )
        await self._check_last_copies(me)
        info = SessionInfo(
            me, NO_SESSION, address, zone=self._zone, weight=self._weight, build=__version__
        )
        self._session = SessionLoop(
            self._coordinator, info, SESSION_TTL_S, self._on_session, boot_ms, self._random.random
        )
        create = self._tasks.create_task
        self._running = [
            create(self._session.run()),
            create(self._records.run()),
            create(self._records.watch()),
            create(self.replicator.run()),
            create(self.replicator.auditor.run()),
            create(self._report()),
        ]

    async def _check_last_copies(self, me: StoreId) -> None:
        """M8: raises StoreError where we should have the last copies and have nothing."""
        found = await _until_answered(self._coordinator.read)
        lost = lost_here(found, me, {s for s, k in self.replicas.kept.items() if k.shape.end})
        if lost:
            raise StoreError(
                f"store {me} has the only copies of {len(lost)} shards ({lost[0]} and so on), as etcd says, and"
                " this directory has nothing of them: give the one that it had; if that is lost for good, an"
                " empty one, and `roost cluster give-up` for the shards"
            )
        if waiting := overview(found, None).waits_for():
            log.warning(
                "shards wait for stores that are not there", extra={"stores": ",".join(waiting)}
            )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in (*self._running, *([self._campaign] if self._campaign else [])):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self.relay.close()
        await self._neighbours.close()
        await self._peers.close()
        self.replicator.close()
        if self._session is not None:
            await self._session.close()
        await self._tasks.__aexit__(None, None, None)
        await self._coordinator.close()

    async def leave(self, within_s: float) -> None:
        """SIGTERM: hand all shards to others and leave the in-sync sets, as far as there are others and time."""
        self._stopping = True
        self._say()
        loop = asyncio.get_running_loop()
        end = loop.time() + within_s
        while (self.replicator.shards() or self._is_waited_for()) and loop.time() < end:
            if not any(
                store != self.replicas.me and not (info.stopping or info.draining)
                for store, info in self.replicas.sessions.items()
            ):
                return  # nobody is there to take them
            await asyncio.sleep(0.02)

    def _is_waited_for(self) -> bool:
        """Do others still wait for this store with each commit, although they could let it go (M3)?"""
        found, me = self._records.map, self.replicas.me
        return found is not None and any(
            me in versioned.record.in_sync
            and len(versioned.record.in_sync) > self._config.min_in_sync
            and not is_gone(found.sessions, versioned.record.owner, versioned.record.session)
            for versioned in found.shards.values()
        )

    # -- events ----------------------------------------------------------------------------

    def _on_session(self, event: Registered | Doubted | Confirmed | Lost) -> None:
        if isinstance(event, Registered):
            if self._supervisor is not None:  # before anything is done in this session's name
                self._supervisor.on_session(self.replicas.me, event.session)
            self.replicator.on_session(event.session)
            self._campaign = self._tasks.create_task(self._controller.run(event.session))
            self._tasks.create_task(self._set_serving(True))
        elif isinstance(event, Lost):
            self._tasks.create_task(self._set_serving(False))
            if self._campaign is not None:
                self._campaign.cancel()
            self.replicator.on_session_lost()

    def on_map(self, found: Map, begun_ms: int, as_of: SessionId) -> None:
        """A read of everything (`Records`)."""
        assert self._session is not None, "maps are read by a member that has joined"
        if not self._believed.takes(found, self._coordinator.restored, self._on_generation):
            return  # O7
        self._session.see(found.sessions, as_of)
        self.replicator.on_map(found, begun_ms)
        self._learn(found.shards)

    def on_record(self, shard: ShardId, versioned: Versioned, *, was_ours: bool) -> None:
        """News of one record (`Replicator`)."""
        for owned in self._learn({shard: versioned}):
            if was_ours:
                self._tell(owned)

    def _learn(self, records: Mapping[ShardId, Versioned]) -> list[Owned]:
        """Records whose owners live go into the map; what is new of them."""
        self.moves.on_records(records, self._records.map, self._node.clock.now_ms())
        sessions = self.replicas.sessions
        changed = self._map.merge(
            Owned(
                shard,
                versioned.record.epoch,
                versioned.record.owner,
                info.address,
                versioned.record.in_sync,
                change=versioned.revision,
            )
            for shard, versioned in records.items()
            if (info := sessions.get(versioned.record.owner)) is not None
            and info.session == versioned.record.session
        )
        if changed:
            self._publish(self._map, changed)
        for owned in changed:
            if owned.owner == self._node.store.store_id:
                self._tell(owned)  # not all who send to us listen to the map here
        return changed

    def _on_generation(self) -> None:
        """A new history begins: nothing of the old one is carried over, as into a new session (O4)."""
        session = self.replicas.session
        self._peers.generation = self._believed.generation
        if session != NO_SESSION:
            self.replicator.on_session_lost()
            self.replicator.on_session(session)

    def on_change_answered(
        self, shard: ShardId, token: int, succeeded: bool | None, revision: int
    ) -> None:
        """The answer to a change of a record (`Records`)."""
        self.replicator.on_change_answered(shard, token, succeeded, revision)

    async def _tell_event(
        self, what: str, shards: Sequence[ShardId], stores: Sequence[StoreId]
    ) -> None:
        """Something that `roost cluster events` is to show (`Auditor`)."""
        now_ms = self._node.clock.now_ms()
        me = StoreId(self._node.store.store_id)
        event = Event(event_id(now_ms), now_ms, what, me, 0, tuple(shards), tuple(stores))
        await self._coordinator.apply(Transaction(event=event))

    def session_now(self) -> SessionId:
        """Under which session a read is begun (`Records`)."""
        return self.replicas.session

    def map(self) -> ShardMap:
        """Who owns what, as far as this node knows."""
        return self._map

    def _addresses(self) -> list[str]:
        """Of the nodes that live, this one among them."""
        return sorted(info.address for info in self.replicas.sessions.values())

    def _say(self) -> None:
        if self._session is not None:
            now_ms = boot_ms()
            self._session.say(
                draining=False,
                stopping=self._stopping,
                unreachable=self.replicas.unreachable(now_ms),
                stuck_on=self.replicas.stuck_on(now_ms),
                short_of_disk=self._node.host.is_short_of_disk,
            )

    async def _report(self) -> None:
        """Tell the others whom we cannot reach (F2), or that our disk is short; notice a sleep (P3)."""
        said: object = None
        under = NO_SESSION
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            slept_ms = _slept_ms()
            if abs(slept_ms - self._slept_ms) > SUSPEND_MS:
                log.warning("the machine slept", extra={"ms": slept_ms - self._slept_ms})
                self.replicas.on_suspended()
            self._slept_ms = slept_ms
            now_ms = boot_ms()
            is_short = self._node.host.is_short_of_disk
            news = (self.replicas.unreachable(now_ms), self.replicas.stuck_on(now_ms), is_short)
            if under != self.replicas.session:
                under, said = self.replicas.session, None  # what an older one said is forgotten
            if news != said and (said is not None or any(news)):
                self._say()
            said = news
