"""What an operator is told about nodes and shards."""

from __future__ import annotations

import msgspec
import pytest

from planning.town import Town
from roost.cluster.ids import ShardId
from roost.errors import InvalidArgumentError
from roost_node.core.overview import ShardState, alone, overview, places_now, state_of, store_of
from roost_node.core.placement.roster import Standing
from roost_node.core.record import (
    NO_SESSION,
    Leader,
    Map,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Versioned,
)

A, B, C, D = (StoreId(f"s0{n}") for n in range(4))
SEVEN = ShardId(7)


def settled(stores: int = 3) -> Town:
    town = Town(shards=12)
    town.join_many(stores)
    town.rest()
    return town


def changed(found: Map, **more: object) -> Map:
    versioned = found.shards[SEVEN]
    record: ShardRecord = msgspec.structs.replace(versioned.record, **more)
    shards = {**found.shards, SEVEN: Versioned(versioned.revision + 1, record)}
    return msgspec.structs.replace(found, shards=shards)


def state(found: Map) -> ShardState:
    return overview(found, None).shards[SEVEN].state


def test_all_is_well() -> None:
    town = settled()
    seen = overview(town.map, Leader(B, town.map.sessions[B].session))
    assert seen.counts() == {ShardState.IN_SYNC: 12}
    assert seen.waits_for() == {}
    assert [node.standing for node in seen.nodes] == [Standing.LIVE] * 3
    assert [node.owners for node in seen.nodes] == [4, 4, 4]
    assert [node.replicas for node in seen.nodes] == [12, 12, 12]
    assert [node.is_controller for node in seen.nodes] == [False, True, False]


def test_a_shard_is_in_the_worst_state_that_is_true() -> None:
    town = settled(4)
    record = town.records[SEVEN]
    owner = record.owner
    other, third = (store for store in record.in_sync if store != owner)
    fourth = next(s for s in town.map.sessions if s not in record.in_sync)
    assert state(changed(town.map, in_sync=(owner, other))) is ShardState.UNDER_REPLICATED
    assert (
        state(changed(town.map, in_sync=(owner, other), learners=(third,)))
        is ShardState.CATCHING_UP
    )
    assert state(changed(town.map, in_sync=(owner,))) is ShardState.READ_ONLY
    assert state(changed(town.map, in_sync=(owner, other, fourth))) is ShardState.MOVING
    assert state(changed(town.map, learners=(fourth,))) is ShardState.MOVING
    town.die(third)
    assert state(town.map) is ShardState.UNDER_REPLICATED
    town.die(owner)
    assert state(town.map) is ShardState.FAILING_OVER
    town.die(other)
    found = overview(town.map, None)
    assert found.shards[SEVEN].state is ShardState.WAITING
    assert set(found.shards[SEVEN].waits_for) == {owner, other, third}, "M8: they are named"
    assert found.waits_for()[owner] >= 1
    shards = {n: v for n, v in town.map.shards.items() if n != SEVEN}
    assert state(msgspec.structs.replace(town.map, shards=shards)) is ShardState.MISSING


def test_shards_that_only_a_founder_can_begin_wait_for_it() -> None:
    found = settled().map
    config = msgspec.structs.replace(found.config, founder=D)
    shards = {shard: record for shard, record in found.shards.items() if shard != SEVEN}
    found = msgspec.structs.replace(found, config=config, shards=shards)
    seen = overview(found, None)
    assert (seen.shards[SEVEN].state, seen.waits_for()) == (ShardState.MISSING, {D: 1})
    there = {**found.sessions, D: SessionInfo(D, SessionId(99), "")}
    assert overview(msgspec.structs.replace(found, sessions=there), None).waits_for() == {}


def test_an_owner_s_older_session_owns_nothing() -> None:
    town = settled()
    town.restart("s00")
    seen = overview(town.map, None)
    assert [node.owners for node in seen.nodes] == [0, 4, 4]
    assert seen.counts()[ShardState.FAILING_OVER] == 4


def test_a_node_that_is_drained_is_named_though_it_is_away() -> None:
    town = settled(4)
    found = msgspec.structs.replace(town.map, drains=frozenset((D, StoreId("x"))))
    seen = {node.store: node for node in overview(found, None).nodes}
    assert seen[D].is_drained
    assert seen[StoreId("x")].standing is Standing.GONE
    town.die("s03")
    assert places_now(town.map)[D].standing is Standing.AWAY
    assert places_now(town.map, frozenset((D,)))[D].standing is Standing.GONE


def test_which_shards_concern_a_store() -> None:
    town = settled(4)
    views = overview(town.map, None).shards
    has = [view.shard for view in views if view.concerns(A)]
    assert has == [shard for shard, r in town.records.items() if A in r.in_sync]


def test_a_node_alone_is_a_cluster_of_one() -> None:
    me = SessionInfo(A, NO_SESSION, "localhost:7400")
    seen = overview(alone("c", 8, b"", "h", me), None)
    assert seen.counts() == {ShardState.IN_SYNC: 8}
    assert [(node.store, node.owners) for node in seen.nodes] == [(A, 8)]


def test_stores_are_called_by_id_by_its_beginning_or_by_address() -> None:
    info = SessionInfo(StoreId("ab12"), SessionId(1), "h:1")
    other = SessionInfo(StoreId("ab1234"), SessionId(2), "h:2")
    found = msgspec.structs.replace(
        settled().map, sessions={info.store: info, other.store: other}, shards={}, wishes={}
    )
    assert store_of("ab123", found) == "ab1234"
    assert store_of("ab12", found) == "ab12", "a whole id is not the beginning of another"
    with pytest.raises(InvalidArgumentError, match="no store is called 'a'"):
        store_of("a", found)  # two stores begin so, but of one alone it would be true by chance
    assert store_of("h:2", found) == "ab1234"
    there = msgspec.structs.replace(other, address="127.0.0.1:7401")
    local = msgspec.structs.replace(found, sessions={other.store: there})
    assert store_of("localhost:7401", local) == "ab1234", "as it was started, perhaps"
    for wrong in ("ab", "", "zz"):
        with pytest.raises(InvalidArgumentError, match=r"ab12 \(h:1\), ab1234 \(h:2\)"):
            store_of(wrong, found)


def test_an_unknown_state_is_refused_with_those_that_there_are() -> None:
    assert state_of("in sync") is ShardState.IN_SYNC
    with pytest.raises(InvalidArgumentError, match=r"waiting, failing over, .*, in sync"):
        state_of("in-sync")
