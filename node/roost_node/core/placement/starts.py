"""Which wishes may begin now.

A copy loads two disks and a network, a handoff pauses its shard for some milliseconds. So only a few are
under way at a time, in the whole cluster and at each store, and no copy begins while the budget of bytes a
second is used up. What disturbs least and matters most comes first: shards with too few copies, those with
the fewest before; stores that are leaving; handoffs; last the copies for balance.

What needs neither a copy nor a handoff, or what cannot begin because the store is away, is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.placement.roster import Place, Standing
from roost_node.core.placement.wish import SetWish, Why
from roost_node.core.record import Map, ShardRecord, StoreId, Wish, is_gone


class Budgets(msgspec.Struct, frozen=True):
    """How much may be under way at once."""

    copies_max: int = 16  # in the cluster
    copies_per_store_max: int = 4  # to it, and from it
    handoffs_max: int = 64  # in the cluster; each pauses one shard for milliseconds
    gain_min: float = 0.05  # of a fair share: what balance must gain to be worth copying


class Goal(msgspec.Struct, frozen=True):
    """Where a shard should be."""

    owner: StoreId
    replicas: tuple[StoreId, ...]


class Work(msgspec.Struct, frozen=True):
    """What is between a shard's record and its goal."""

    shard: ShardId
    why: Why
    redundancy: int  # in-sync members that are there
    source: StoreId
    copies: tuple[StoreId, ...]  # stores that must get the data, and can
    handoff: bool
    bytes: int


def work_of(
    shard: ShardId,
    record: ShardRecord,
    goal: Goal,
    map_: Map,
    places: Mapping[StoreId, Place],
    sizes: Mapping[ShardId, int],
) -> Work:
    """What it takes to bring a shard from its record to its goal."""
    copies = tuple(
        store
        for store in goal.replicas
        if store not in record.in_sync and places[store].standing is Standing.LIVE
    )
    there = sum(store in map_.sessions for store in record.in_sync)
    handoff = goal.owner != record.owner and places[goal.owner].standing is Standing.LIVE
    fresh = sum(store not in record.learners for store in copies)
    return Work(
        shard,
        _why(record, goal, places, bool(copies), there),
        there,
        record.owner,
        copies,
        handoff,
        fresh * sizes.get(shard, 0),
    )


def begin(
    goals: Mapping[ShardId, Goal],
    map_: Map,
    places: Mapping[StoreId, Place],
    sizes: Mapping[ShardId, int],
    bytes_left: int,
    budgets: Budgets,
) -> tuple[SetWish, ...]:
    """The wishes to write: new ones, and old ones whose turn has come."""
    tally = _Tally(budgets, bytes_left)
    waiting: list[Work] = []
    changed: list[SetWish] = []
    for shard, goal in goals.items():
        wish, versioned = map_.wishes.get(shard), map_.shards.get(shard)
        same = wish is not None and (wish.owner, wish.replicas) == (goal.owner, goal.replicas)
        if versioned is None:
            if not same:  # it is created as wished
                changed.append(SetWish(shard, Wish(goal.owner, goal.replicas, True), Why.REPAIR))
            continue
        record = versioned.record
        work = work_of(shard, record, goal, map_, places, sizes)
        if same and wish is not None and wish.go:
            if not is_gone(map_.sessions, record.owner, record.session):
                tally.count(work)  # under way, or done: then it counts for nothing
        elif work.copies or work.handoff:
            waiting.append(work)
        else:
            changed.append(SetWish(shard, Wish(goal.owner, goal.replicas, True), work.why))
    for work in sorted(waiting, key=lambda work: (work.why, work.redundancy, work.shard)):
        goal, before = goals[work.shard], map_.wishes.get(work.shard)
        go = tally.has_room(work)
        if go:
            tally.count(work)
            tally.bytes_left -= work.bytes
        wish = Wish(goal.owner, goal.replicas, go)
        if wish != before:
            changed.append(SetWish(work.shard, wish, work.why, work.bytes if go else 0))
    return tuple(changed)


def _why(
    record: ShardRecord, goal: Goal, places: Mapping[StoreId, Place], copies: bool, there: int
) -> Why:
    leaving = [s for s in record.in_sync if places[s].standing is Standing.DRAINING]
    if copies and there < len(goal.replicas):
        return Why.REPAIR
    if leaving or places[record.owner].standing is Standing.STOPPING:
        return Why.LEAVE
    if not copies:
        return Why.HANDOFF
    zones = [places[store].zone for store in record.in_sync]
    goal_zones = {places[store].zone for store in goal.replicas}
    return Why.ZONES if len(goal_zones) > len(set(zones)) else Why.BALANCE


class _Tally:
    """What is under way."""

    def __init__(self, budgets: Budgets, bytes_left: int) -> None:
        self._budgets = budgets
        self.bytes_left = bytes_left
        self._copies = 0
        self._handoffs = 0
        self._to: Counter[StoreId] = Counter()
        self._from: Counter[StoreId] = Counter()

    def count(self, work: Work) -> None:
        self._copies += len(work.copies)
        self._handoffs += work.handoff and not work.copies
        self._to.update(work.copies)
        self._from[work.source] += len(work.copies)

    def has_room(self, work: Work) -> bool:
        if not work.copies:
            return self._handoffs < self._budgets.handoffs_max
        most = self._budgets.copies_per_store_max
        count = len(work.copies)
        sending = self._from[work.source]
        return (
            self.bytes_left > 0
            # A shard that needs more copies than the budget has is copied alone, or it never would be.
            and (self._copies == 0 or self._copies + count <= self._budgets.copies_max)
            and (sending == 0 or sending + count <= most)
            and all(self._to[store] < most for store in work.copies)
        )
