"""An owner's half of a shard, alone: whom it removes from the in-sync set, and when."""

from __future__ import annotations

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    Epoch,
    How,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Versioned,
)
from roost_node.core.replication import effects
from roost_node.core.replication.replicas import Replicas

A, B, C = StoreId("a"), StoreId("b"), StoreId("c")
SHARD = ShardId(3)
MINE = SessionId(1)
SESSIONS = {
    store: SessionInfo(store, SessionId(number), f"{store}:1")
    for number, store in enumerate((A, B, C), 1)
}


def owning(in_sync: tuple[StoreId, ...]) -> tuple[Replicas, Versioned]:
    """Store A, which owns the shard; nobody has anything yet."""
    replicas = Replicas(A, {}, 0, min_in_sync=2)
    replicas.on_session(MINE)
    versioned = Versioned(1, ShardRecord(Epoch(1), A, MINE, How.CREATED, in_sync))
    replicas.on_news({SHARD: versioned}, SESSIONS, {}, 0, 0)
    (order,) = replicas.take_effects()
    assert isinstance(order, effects.Write)
    replicas.on_durable(order.number, 0)
    replicas.take_effects()
    return replicas, versioned


def proposed(replicas: Replicas) -> list[ShardRecord]:
    return [
        order.transaction.swaps[0].record
        for order in replicas.take_effects()
        if isinstance(order, effects.Change)
    ]


def without(*stores: StoreId) -> dict[StoreId, SessionInfo]:
    return {store: info for store, info in SESSIONS.items() if store not in stores}


def test_a_member_whose_session_is_gone_is_removed_at_once() -> None:
    replicas, versioned = owning((A, B, C))
    replicas.on_news({SHARD: versioned}, without(B), {}, 10, 10)
    (record,) = proposed(replicas)
    assert record.in_sync == (A, C)
    assert record.learners == (B,), "it is to catch up when it is back"


def test_a_member_that_is_another_session_now_may_still_have_everything() -> None:
    replicas, versioned = owning((A, B, C))
    again = msgspec.structs.replace(SESSIONS[B], session=SessionId(9))
    replicas.on_news({SHARD: versioned}, {**SESSIONS, B: again}, {}, 10, 10)
    assert proposed(replicas) == []


def test_the_set_never_shrinks_below_its_least_size() -> None:
    replicas, versioned = owning((A, B))  # M3
    replicas.on_news({SHARD: versioned}, without(B, C), {}, 10, 10)
    assert proposed(replicas) == []
