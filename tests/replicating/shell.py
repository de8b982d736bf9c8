"""A whole node's replication over a store in memory, whose peers and coordination store are played by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from behaviour.hosting import hosting, until
from replicating.node import A, B
from roost.cluster.ids import ShardId
from roost_node.core.record import (
    Epoch,
    How,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Transaction,
    Versioned,
)
from roost_node.core.replication.replicas import Replicas
from roost_node.host.host import Host
from roost_node.replication.replicator import Replicator
from roost_node.storage.memory import MemoryStore
from roost_node.storage.replica_log import ReplicaLog

ONLY = ShardId(0)
NOW_MS = 10_000


class Peers:
    """Keeps what was said to other nodes."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def send(self, peer: StoreId, message: object) -> None:
        self.said.append(message)

    def reply(self, peer: StoreId, stream: int, message: object) -> None:
        self.said.append(message)

    def pending_bytes(self, peer: StoreId) -> int:
        return 0

    def knows_audits(self, peer: StoreId) -> bool:
        return False

    def set_peers(self, session: SessionId, addresses: dict[StoreId, str]) -> None:
        """They are there."""


class Records:
    """Answers nothing."""

    finished = 0

    def read_soon(self) -> int:
        return 1

    def change(self, shard: ShardId, token: int, transaction: Transaction) -> None:
        """Nobody knows what became of it."""


class Audience:
    """Has no callers."""

    def on_record(self, shard: ShardId, versioned: Versioned, *, was_ours: bool) -> None:
        """Nobody asks."""


class HeldFlusher:
    """A disk that takes its time: a flush ends when it is told to."""

    def __init__(self) -> None:
        self._held: list[tuple[Callable[[], None], Callable[[BaseException | None], None]]] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._held)

    def start(
        self, flush: Callable[[], None], done: Callable[[BaseException | None], None]
    ) -> None:
        self._held.append((flush, done))

    def finish(self) -> None:
        """The flush that is under way ends well."""
        flush, done = self._held.pop(0)
        flush()
        done(None)

    def close(self) -> None:
        """It has no thread."""


@contextlib.asynccontextmanager
async def owning(
    cls: type[Any], flusher: HeldFlusher
) -> AsyncIterator[tuple[Host, Replicator, Peers]]:
    """Store a owns the only shard, at epoch 1, with b in sync; its flushes are as slow as they are told to be."""
    store = MemoryStore(shards=1, store_id=A)
    async with hosting(cls, store=store, grace_s=0.1) as host, asyncio.TaskGroup() as tasks:
        log, peers = ReplicaLog(store), Peers()
        replicas = Replicas(A, log.load(), 0, min_in_sync=1)

        def fatal(error: BaseException) -> None:
            raise error

        replicator = Replicator(
            host,
            store,
            replicas,
            log,
            Records(),  # type: ignore[arg-type]  # played
            tasks,
            lambda: NOW_MS,
            fatal,
        )
        replicator.peers = replicator.auditor.peers = peers  # type: ignore[assignment]  # likewise
        replicator.audience = Audience()
        host.ownership = replicator
        replicator.on_session(SessionId(1))
        sessions = {
            store: SessionInfo(store, SessionId(number), store)
            for number, store in ((1, A), (2, B))
        }
        record = ShardRecord(Epoch(1), A, SessionId(1), How.CREATED, (A, B))
        replicas.on_news({ONLY: Versioned(1, record)}, sessions, {}, NOW_MS, NOW_MS)
        replicator._soon()
        await until(lambda: ONLY in replicator.shards())
        await host.committer.drained()
        own, host.committer._flusher = host.committer._flusher, flusher
        host.committer._is_quiet = lambda: False  # nothing is flushed on the spot
        try:
            yield host, replicator, peers
        finally:
            host.committer._flusher = own
            replicator.close()
