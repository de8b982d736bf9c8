"""One node's replication cores, with peers that acknowledge everything: what tests of owners play with."""

from __future__ import annotations

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    Epoch,
    How,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Versioned,
    Wish,
)
from roost_node.core.replication import effects
from roost_node.core.replication.effects import Effect
from roost_node.core.replication.epochs import Shape
from roost_node.core.replication.messages import (
    Appended,
    Heartbeat,
    HeartbeatAck,
    Register,
    Registered,
)
from roost_node.core.replication.replicas import Replicas

A, B, C = StoreId("a"), StoreId("b"), StoreId("c")
SHARD = ShardId(3)
SESSIONS = {
    store: SessionInfo(store, SessionId(number), store) for number, store in enumerate((A, B, C), 1)
}
OURS = ShardRecord(Epoch(1), A, SessionId(1), How.CREATED, (A, B, C))


class Node:
    """Node a, whose disk is quick and whose peers acknowledge everything."""

    def __init__(self) -> None:
        self.now = 10_000
        self.replicas = Replicas(A, {}, 0, min_in_sync=2)
        self.replicas.on_session(SessionId(1))
        self.done: list[Effect] = []
        self.shapes: dict[StoreId, Shape] = {}  # of peers' logs that differ from ours
        for peer in (B, C):
            self.replicas.on_link(peer, self.now)
        self.settle()

    def news(
        self, record: ShardRecord, revision: int, sessions: dict[StoreId, SessionInfo] | None = None
    ) -> None:
        found = {SHARD: Versioned(revision, record)}
        self.replicas.on_news(found, sessions or SESSIONS, {}, self.now, self.now)
        self.settle()

    def append(self, index: int) -> None:
        self.replicas.on_appended(SHARD, index, b"", self.now)
        self.replicas.on_own_durable(SHARD, Epoch(1), index, self.now)
        self.settle()

    def tick(self, ms: int = 300) -> None:
        self.now += ms
        self.replicas.on_tick(self.now)
        self.settle()

    def settle(self) -> None:
        """Carry effects out until there are none."""
        replicas = self.replicas
        replicas.flush()
        while orders := replicas.take_effects():
            for order in orders:
                self.done.append(order)
                self._carry(order)
            replicas.flush()

    def _carry(self, order: Effect) -> None:
        replicas, now = self.replicas, self.now
        match order:
            case effects.Write():
                replicas.on_durable(order.number, now)
            case effects.ToPeer(peer, Heartbeat(number)):
                replicas.on_from_follower(peer, HeartbeatAck(number), now)
            case effects.ToPeer(peer, Register(shard, epoch)):
                shape = self.shapes.get(peer) or replicas.kept_of(shard).shape
                replicas.on_from_follower(peer, Registered(shard, epoch, shape), now)
            case effects.OpenEpoch(shard, epoch, end):
                replicas.on_appended(shard, end + 1, b"", now)
                replicas.on_own_durable(shard, epoch, end + 1, now)
            case effects.SendEntries(peer, shard, epoch, _, last):
                replicas.on_from_follower(peer, Appended(shard, epoch, last, b""), now)
            case effects.StopCalls(shard, _):
                replicas.owners[shard].on_quiet(now)

    def changes(self) -> list[effects.Change]:
        return [order for order in self.done if isinstance(order, effects.Change)]

    def proposed(self) -> ShardRecord:
        return self.changes()[-1].transaction.swaps[0].record

    def answer(self, revision: int, *, succeeded: bool = True) -> None:
        change = self.changes()[-1]
        self.replicas.on_change_answered(SHARD, change.token, succeeded, revision, self.now)
        self.settle()

    def hand_over(self, revision: int) -> ShardRecord:
        """To b; the record that was written."""
        self.replicas.on_wishes({SHARD: Wish(B, (A, B, C), go=True)})
        self.tick()
        self.answer(revision)
        return self.proposed()
