"""Carrying a plan out on paper: perfect nodes do at once what the plan and its wishes ask.

For `roost plan`, which shows what would happen before it does, and for tests and benchmarks. A round is: the
controller's changes, then one step of every shard's owner. Learners have caught up by the next round;
members without a session are taken out as far as M3 allows.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.placement.plan import Situation, plan
from roost_node.core.placement.roster import Standing
from roost_node.core.placement.starts import Budgets
from roost_node.core.placement.wish import (
    AddLearner,
    Change,
    DropReplica,
    SetTarget,
    Step,
    next_step,
    transaction,
)
from roost_node.core.record import Epoch, How, Map, ShardRecord, StoreId, Versioned, is_gone

Watch = Callable[[Situation, tuple[Change, ...]], None]
"""Told of every round: the situation and what was planned in it."""


def simulate_to_rest(
    situation: Situation, budgets: Budgets, watch: Watch | None = None, rounds_max: int = 100_000
) -> Situation:
    """The situation in which nothing is left to do."""
    for _ in range(rounds_max):
        changes = plan(situation, budgets)
        if watch is not None:
            watch(situation, changes)
        after = carry_out(situation, changes)
        if after.map == situation.map:
            return situation
        situation = after
    raise AssertionError("a plan never came to rest")


def carry_out(situation: Situation, changes: tuple[Change, ...]) -> Situation:
    """One round: the changes, then a step of each owner."""
    map_ = apply(situation.map, changes)
    ready = {s for s, p in situation.places.items() if p.standing is Standing.LIVE}
    shards = {
        shard: _owner_acts(shard, versioned, map_, ready)
        for shard, versioned in map_.shards.items()
    }
    return msgspec.structs.replace(situation, map=msgspec.structs.replace(map_, shards=shards))


def apply(map_: Map, changes: tuple[Change, ...]) -> Map:
    """The map after the controller's changes, all of which succeed."""
    shards, wishes = dict(map_.shards), dict(map_.wishes)
    for change in changes:
        done = transaction(change, map_)
        wishes |= dict(done.wishes)
        for swap in done.swaps:
            shards[swap.shard] = Versioned(swap.revision + 1, swap.record)
    return msgspec.structs.replace(map_, shards=shards, wishes=wishes)


def _owner_acts(shard: ShardId, versioned: Versioned, map_: Map, ready: set[StoreId]) -> Versioned:
    record = versioned.record
    if is_gone(map_.sessions, record.owner, record.session):
        return versioned
    after = _without_the_dead(record, map_)
    step = next_step(shard, after, map_.wishes.get(shard), ready, map_.config.min_in_sync)
    caught_up = tuple(store for store in after.learners if store in map_.sessions)
    if caught_up and not isinstance(step, DropReplica):
        after = msgspec.structs.replace(
            after,
            in_sync=(*after.in_sync, *caught_up),
            learners=tuple(store for store in after.learners if store not in caught_up),
        )
    if step is not None:
        after = _step(after, step, map_)
    return versioned if after == record else Versioned(versioned.revision + 1, after)


def _without_the_dead(record: ShardRecord, map_: Map) -> ShardRecord:
    in_sync = list(record.in_sync)
    for store in record.in_sync:
        if store not in map_.sessions and len(in_sync) > map_.config.min_in_sync:
            in_sync.remove(store)
    return msgspec.structs.replace(record, in_sync=tuple(in_sync))


def _step(record: ShardRecord, step: Step, map_: Map) -> ShardRecord:
    if isinstance(step, AddLearner):
        return msgspec.structs.replace(record, learners=(*record.learners, step.store))
    if isinstance(step, SetTarget):
        return msgspec.structs.replace(
            record,
            epoch=Epoch(record.epoch + 1),
            owner=step.store,
            session=map_.sessions[step.store].session,
            previous=record.session,
            how=How.HANDOFF,
        )
    return msgspec.structs.replace(
        record,
        in_sync=tuple(store for store in record.in_sync if store != step.store),
        learners=tuple(store for store in record.learners if store != step.store),
    )
