"""What the plan would do, before it does it: what `roost plan` shows.

Not a rehearsal: it compares what is with where the plan wants it, so it is quick for any cluster. To see
what a change *would* bring (a drain, another store), ask with a situation in which it has happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.placement.plan import Situation, goals_of, is_waiting
from roost_node.core.placement.roster import Standing
from roost_node.core.placement.starts import Budgets, Goal, work_of
from roost_node.core.placement.wish import Why
from roost_node.core.record import StoreId


class Load(msgspec.Struct, frozen=True):
    """What one store has."""

    owners: int
    copies: int


class Move(msgspec.Struct, frozen=True):
    """What is between a shard and where it should be."""

    shard: ShardId
    why: Why
    owner: StoreId  # as it is
    new_owner: StoreId
    copy_to: tuple[StoreId, ...]
    drop_from: tuple[StoreId, ...]
    bytes: int  # to be copied
    begun: bool


class Preview(msgspec.Struct, frozen=True):
    """All moves, the most urgent first, and the loads before and after them."""

    moves: tuple[Move, ...]
    copies: int
    handoffs: int
    bytes: int
    before: dict[StoreId, Load]
    after: dict[StoreId, Load]
    waiting: tuple[ShardId, ...]  # M8: for a member of the in-sync set to come back

    def peaks(self) -> tuple[float, float]:
        """The most owners of a store as a part of the mean, before and after; 0 where there are none."""
        return _peak(self.before), _peak(self.after)


def preview(situation: Situation, budgets: Budgets) -> Preview:
    """What the plan intends, whatever its budgets let begin now."""
    map_, places = situation.map, situation.places
    goals = goals_of(situation, budgets)
    as_it_is = {
        shard: Goal(versioned.record.owner, versioned.record.in_sync)
        for shard, versioned in sorted(map_.shards.items())
    }
    moves: list[tuple[int, Move]] = []
    for shard, now in as_it_is.items():
        goal, record, wish = (
            goals.get(shard, now),
            map_.shards[shard].record,
            map_.wishes.get(shard),
        )
        work = work_of(shard, record, goal, map_, places, situation.sizes)
        drops = tuple(
            store for store in (*record.in_sync, *record.learners) if store not in goal.replicas
        )
        if work.copies or work.handoff or drops:
            begun = wish is not None and wish == msgspec.structs.replace(
                wish, owner=goal.owner, replicas=goal.replicas, go=True
            )
            new_owner = goal.owner if work.handoff else now.owner
            move = Move(
                shard, work.why, now.owner, new_owner, work.copies, drops, work.bytes, begun
            )
            moves.append((work.redundancy, move))
    moves.sort(key=lambda one: (one[1].why, one[0], one[1].shard))
    stores = sorted(s for s, place in places.items() if place.standing is not Standing.GONE)
    return Preview(
        moves=tuple(move for _, move in moves),
        copies=sum(len(move.copy_to) for _, move in moves),
        handoffs=sum(move.owner != move.new_owner for _, move in moves),
        bytes=sum(move.bytes for _, move in moves),
        before=_loads(stores, as_it_is.values()),
        after=_loads(stores, (as_it_is | goals).values()),
        waiting=tuple(s for s, v in sorted(map_.shards.items()) if is_waiting(v.record, places)),
    )


def _loads(stores: list[StoreId], layout: Iterable[Goal]) -> dict[StoreId, Load]:
    owners: Counter[StoreId] = Counter()
    copies: Counter[StoreId] = Counter()
    for goal in layout:
        owners[goal.owner] += 1
        copies.update(goal.replicas)
    return {store: Load(owners[store], copies[store]) for store in stores}


def _peak(loads: Mapping[StoreId, Load]) -> float:
    total = sum(load.owners for load in loads.values())
    return max(load.owners for load in loads.values()) * len(loads) / total if total else 0.0
