"""The plan after anything that can happen to stores: it comes to rest, and keeps data and redundancy."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from planning.town import Town, keeps_data
from roost_node.core.placement.plan import Situation, is_waiting
from roost_node.core.placement.roster import Standing
from roost_node.core.placement.starts import Budgets
from roost_node.core.placement.wish import Change, Create, Promote
from roost_node.core.record import Map, StoreId

STORES = [f"s{n}" for n in range(7)]
EVENTS = ["join", "die", "restart", "drain", "stop", "undo", "grace", "rounds", "weight", "rest"]

histories = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.sampled_from(STORES), st.integers(1, 4)), max_size=25
)


def keeps_level_without_deaths(before: Map, after: Map) -> None:
    """A step of a move never takes a member that is there, unless enough others are."""
    for shard, versioned in before.shards.items():
        old, new = versioned.record.in_sync, after.shards[shard].record.in_sync
        left = [s for s in old if s not in new and s in after.sessions]
        if left and after.shards[shard].record.how != "failover":
            there = [s for s in new if s in after.sessions]
            members = [s for s in after.sessions.values() if not s.draining]
            level = min(after.config.replicas, len(members))
            assert len(there) >= min(level, len(old) - 1), (shard, old, new)
            assert len(new) >= after.config.min_in_sync


def allowed(situation: Situation, changes: tuple[Change, ...]) -> None:
    """What the controller may order, whatever it wishes for."""
    map_ = situation.map
    for change in changes:
        if isinstance(change, Promote):
            record = map_.shards[change.shard].record
            assert change.to in record.in_sync, "F1: only a member"
            assert change.to in map_.sessions, "F1: only a live one"
            assert map_.sessions.get(record.owner) is None or (
                map_.sessions[record.owner].session != record.session
            ), "O5: only when the owner's session is gone"
        elif isinstance(change, Create):
            assert change.shard not in map_.shards
            assert all(store in map_.sessions for store in change.in_sync)
        else:
            assert change.wish.owner in change.wish.replicas
            assert len(set(change.wish.replicas)) == len(change.wish.replicas)
            assert len(change.wish.replicas) <= map_.config.replicas
            for store in change.wish.replicas:
                standing = situation.places[store].standing
                assert standing not in (Standing.GONE, Standing.DRAINING)


def happen(town: Town, event: str, store: str, number: int) -> None:
    alive = StoreId(store) in town.map.sessions
    if event == "join" and not alive:
        town.join(store, f"z{number % 3}")
    elif event == "die" and alive:
        town.die(store)
    elif event == "restart" and alive:
        town.restart(store)
    elif event == "drain" and alive:
        town.mark(store, draining=True)
    elif event == "stop" and alive:
        town.mark(store, stopping=True)
    elif event == "undo" and alive:
        town.mark(store)
    elif event == "weight" and alive:
        town.join(store, town.map.sessions[StoreId(store)].zone, 50 * number)
    elif event == "grace":
        town.wait(20_000 * number)
    elif event == "rounds":
        for _ in range(number):
            town.round()
    elif event == "rest":
        town.rest()


@settings(max_examples=150, deadline=None)
@given(histories, st.integers(1, 3), st.sampled_from([1, 5, 16]), st.sampled_from([1, 2, 100]))
def test_it_comes_to_rest_after_anything(
    history: list[tuple[str, str, int]], replicas: int, shards: int, budget: int
) -> None:
    budgets = Budgets(copies_max=budget, copies_per_store_max=budget, handoffs_max=budget)
    town = Town(shards, replicas, budgets=budgets)
    town.checks = [keeps_data, keeps_level_without_deaths]
    town.watch = allowed
    town.join_many(2)
    for event, store, number in history:
        happen(town, event, store, number)
    town.rest()

    # Everyone comes back, and nobody leaves: then every shard has its copies, and so it stays.
    for store in list(town.known):
        if store not in town.map.sessions or town.map.sessions[store].draining:
            town.restart(store)
        elif town.map.sessions[store].stopping:
            town.mark(store)
    town.rest()
    town.wait()
    town.rest()
    level = min(replicas, len(town.map.sessions))
    for shard, record in town.records.items():
        assert not is_waiting(record, town.situation.places)
        assert len(record.in_sync) == level, (shard, record)
        assert not record.learners
        assert record.in_sync.count(record.owner) == 1
