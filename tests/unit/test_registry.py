"""What the coordination store promises."""

from __future__ import annotations

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    DeathRecord,
    Epoch,
    Guard,
    How,
    Leader,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Swap,
    Transaction,
)
from roost_node.core.registry import Registry

A, B = StoreId("a"), StoreId("b")
SHARD = ShardId(7)


def record(epoch: int, owner: StoreId, session: SessionId) -> ShardRecord:
    return ShardRecord(Epoch(epoch), owner, session, How.CREATED, (owner,))


def with_session(store: StoreId) -> tuple[Registry, SessionId]:
    registry = Registry()
    session = registry.grant()
    registry.register(SessionInfo(store, session, "localhost:1"))
    return registry, session


def test_a_swap_compares_the_revision_of_its_key() -> None:
    registry, session = with_session(A)
    first = registry.apply(Transaction((Swap(SHARD, 0, record(1, A, session)),)))
    assert first.succeeded
    assert registry.shards[SHARD].revision == first.revision
    again = registry.apply(Transaction((Swap(SHARD, 0, record(2, B, session)),)))
    assert not again.succeeded
    assert registry.shards[SHARD].record.epoch == 1
    second = registry.apply(Transaction((Swap(SHARD, first.revision, record(2, A, session)),)))
    assert second.succeeded
    assert registry.shards[SHARD].record.epoch == 2


def test_swaps_of_one_transaction_happen_all_or_none() -> None:
    registry, session = with_session(A)
    registry.apply(Transaction((Swap(SHARD, 0, record(1, A, session)),)))
    both = Transaction(
        (Swap(ShardId(8), 0, record(1, A, session)), Swap(SHARD, 0, record(2, A, session)))
    )
    assert not registry.apply(both).succeeded
    assert ShardId(8) not in registry.shards


def test_a_restarted_store_holds_another_session() -> None:
    registry, old = with_session(A)
    new = registry.grant()
    registry.register(SessionInfo(A, new, "localhost:1"))
    gone = Guard(A, old, alive=False)
    assert registry.apply(Transaction(guards=(gone,))).succeeded
    assert not registry.apply(Transaction(guards=(Guard(A, old, alive=True),))).succeeded
    assert not registry.expire(A, old), "an old lease takes nobody else's key away"
    assert registry.sessions[A].session == new


def test_a_death_is_written_only_with_the_end_of_that_very_session() -> None:
    registry, old = with_session(A)
    info = registry.sessions[A]
    registry.register(SessionInfo(A, registry.grant(), "localhost:1"))
    late = registry.apply(Transaction(reap=info, death=DeathRecord(A, old)))
    assert not late.succeeded
    assert not registry.deaths
    now = registry.sessions[A]
    assert registry.apply(Transaction(reap=now, death=DeathRecord(A, now.session))).succeeded
    assert A not in registry.sessions
    assert now.session in registry.deaths


def test_the_controller_goes_with_its_session() -> None:
    registry, first = with_session(A)
    second = registry.grant()
    registry.register(SessionInfo(B, second, "localhost:2"))
    assert registry.campaign(Leader(A, first))
    assert not registry.campaign(Leader(B, second)), "one at a time"
    registry.apply(Transaction(reap=registry.sessions[A], death=DeathRecord(A, first)))
    assert registry.controller is None
    assert not registry.campaign(Leader(A, first)), "a session that is gone cannot lead"
    assert registry.campaign(Leader(B, second))
    assert registry.resign(second)
    assert not registry.resign(second)


def test_a_lease_takes_the_election_along_also_when_its_session_was_replaced() -> None:
    registry, old = with_session(A)
    registry.campaign(Leader(A, old))
    new = registry.grant()
    registry.register(SessionInfo(A, new, "localhost:1"))
    assert registry.expire(A, old)
    assert registry.controller is None
    assert registry.sessions[A].session == new
