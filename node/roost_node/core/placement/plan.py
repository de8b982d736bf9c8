"""What the elected controller should do next.

A pure function of what the coordination store holds and of who has been away for how long. It starts from
what *is*, or is wished for already, and changes as little as it can:

1. *Create* shards that have no record, all at the founder where the cluster has one. *Promote* a follower where
   the owner's session is gone (F1).
2. A seat at a store that is gone or draining goes to another store: the first in the shard's preference
   list with room, in a zone where the shard is not yet.
3. Seats move for balance only from a store above its fair share to one below, and only if that gains 5 %.
   Seats that have no data yet may always move: that costs nothing.
4. Owners are evened out over the copies there are: a handoff costs milliseconds and copies nothing.
5. A shard that an operator has given to a live store (`pins`) is owned by it, and is not moved for balance:
   the others even out around it.
6. The result is wished for at once, but begun (`Wish.go`) a few shards at a time, the most urgent first.

While a store is away within its grace, nothing moves for balance: it would move back.

Always: the same input gives the same changes. When they are carried out there comes a plan without
changes, and it stays so: a layout that nothing is wrong with is left alone. M8: a shard whose last in-sync
copies are all out of reach is not touched; it waits for one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.placement.balance import even_out, misfit
from roost_node.core.placement.failover import promotions
from roost_node.core.placement.ring import Spot, ring_of
from roost_node.core.placement.roster import Place, Standing
from roost_node.core.placement.seats import Seats
from roost_node.core.placement.shares import Share, copy_shares, owner_shares
from roost_node.core.placement.starts import Budgets, Goal, begin
from roost_node.core.placement.wish import Change, Create, Promote
from roost_node.core.record import Map, ShardRecord, StoreId

MEMBERS = (Standing.LIVE, Standing.STOPPING, Standing.AWAY)
OWNERS = (Standing.LIVE, Standing.AWAY)


class Situation(msgspec.Struct, frozen=True):
    """All that a plan depends on."""

    map: Map
    places: dict[StoreId, Place]  # every store with a session or named in the map
    sizes: dict[ShardId, int] = {}  # bytes of one copy
    bytes_left: int = 1 << 62  # of the budget of bytes a second; copies begin while it is above 0


def plan(situation: Situation, budgets: Budgets) -> tuple[Change, ...]:
    """The changes to make now, the most urgent first. Failovers come alone: shards wait for them."""
    map_, places = situation.map, situation.places
    urgent = failovers(situation)
    if urgent:
        return urgent
    if map_.config.founder and len(map_.shards) < map_.config.shards:
        return _founding(map_)
    goals = goals_of(situation, budgets)
    creates = tuple(
        Create(shard, goal.owner, tuple(s for s in goal.replicas if _is_live(places, s)))
        for shard, goal in goals.items()
        if shard not in map_.shards and _is_live(places, goal.owner)
    )
    wishes = begin(goals, map_, places, situation.sizes, situation.bytes_left, budgets)
    return (*creates, *wishes)


def _founding(map_: Map) -> tuple[Create, ...]:
    """Shards of a cluster that began with one store's objects: that store has them, and nobody else.

    While it is away nothing is created, lest a shard begin empty elsewhere; and until all are there nothing moves.
    """
    founder = map_.config.founder
    if founder not in map_.sessions:
        return ()
    missing = (s for s in map(ShardId, range(map_.config.shards)) if s not in map_.shards)
    return tuple(Create(shard, founder, (founder,)) for shard in missing)


def failovers(situation: Situation) -> tuple[Promote, ...]:
    """What of a plan must not wait for the rest of it (F1). Quick: it looks at records and sessions only."""
    ring = ring_of(spots_of(situation.places, MEMBERS))
    return promotions(situation.map, situation.places, ring)


def goals_of(situation: Situation, budgets: Budgets) -> dict[ShardId, Goal]:
    """Where every shard should be, in the order of their numbers; those that must wait are left out."""
    map_, places = situation.map, situation.places
    spots = spots_of(places, MEMBERS)
    live = frozenset(s for s, place in places.items() if place.standing is Standing.LIVE)
    if not live:
        return {}
    records = {shard: versioned.record for shard, versioned in map_.shards.items()}
    shards = [
        shard
        for shard in map(ShardId, range(map_.config.shards))
        if shard not in records or not is_waiting(records[shard], places)
    ]
    copies = min(map_.config.replicas, len(spots))
    shares = copy_shares(spots, len(shards), copies)
    owners = owner_shares(spots_of(places, OWNERS), len(shards))
    zones = {s: places[s].zone for s in sorted(places) if places[s].standing in MEMBERS}
    pins = {shard: store for shard, store in map_.pins.items() if store in live}
    seats = Seats(ring_of(spots), zones, live, records, owners, pins)

    _start(seats, shards, situation)
    _fill(seats, records, copies, shares)
    even_out(seats.copies, shares, seats.pick_free, seats.shift)
    _give(seats)
    even_out(seats.owners, owners, seats.pick_owned_free, seats.shift_owned)
    if not any(place.standing is Standing.AWAY for place in places.values()):
        _spread_zones(seats, spots, live, shares)
        seats = _balanced(seats, shares, budgets.gain_min)
        even_out(seats.owners, owners, seats.pick_owned, seats.shift_owned)
    return {
        shard: Goal(seats.owner[shard], tuple(replicas))
        for shard, replicas in seats.replicas.items()
        if shard in seats.owner
    }


def is_waiting(record: ShardRecord, places: Mapping[StoreId, Place]) -> bool:
    """M8: nobody who is reachable has everything; only the return of an in-sync member helps."""
    return all(places[store].standing is Standing.GONE for store in record.in_sync)


def spots_of(places: Mapping[StoreId, Place], standings: tuple[Standing, ...]) -> frozenset[Spot]:
    """The stores of these standings, as the ring and the shares want them."""
    return frozenset(
        Spot(store, place.zone, max(1, place.weight))
        for store, place in places.items()
        if place.standing in standings
    )


def _is_live(places: Mapping[StoreId, Place], store: StoreId) -> bool:
    return places[store].standing is Standing.LIVE


def _start(seats: Seats, shards: Sequence[ShardId], situation: Situation) -> None:
    """What is, or is wished for: without the seats at stores that are gone or leaving."""
    map_, places = situation.map, situation.places
    for shard in shards:
        versioned, wish = map_.shards.get(shard), map_.wishes.get(shard)
        owner: StoreId | None = None
        replicas: tuple[StoreId, ...] = ()
        if wish is not None:
            owner, replicas = wish.owner, wish.replicas
        elif versioned is not None:
            record = versioned.record
            owner, replicas = record.owner, (*record.in_sync, *record.learners)
        stay = [store for store in replicas if places[store].standing in MEMBERS]
        seats.seat(shard, stay)
        pin = seats.pins.get(shard)
        if pin is not None and pin not in stay:
            seats.seat(shard, (pin,))  # one of the others goes in the next step
        if pin is not None:
            seats.give(shard, pin)
        elif owner in stay and places[owner].standing in OWNERS:
            seats.give(shard, owner)


def _fill(
    seats: Seats,
    records: Mapping[ShardId, ShardRecord],
    copies: int,
    shares: Mapping[StoreId, Share],
) -> None:
    """As many seats for each shard as there should be; those with the fewest copies choose first."""

    def in_sync(shard: ShardId) -> int:
        return len(records[shard].in_sync) if shard in records else 0

    for shard in sorted(seats.replicas, key=lambda shard: (in_sync(shard), shard)):
        while len(seats.replicas[shard]) > copies:
            seats.unseat(shard, seats.surplus(shard, shares))
        while len(seats.replicas[shard]) < copies:
            store = seats.vacancy(shard, shares)
            if store is None:
                break  # the others are away or stopping: they come back, or are soon gone
            seats.seat(shard, (store,))


def _give(seats: Seats) -> None:
    """An owner for every shard that has none."""
    for shard in seats.replicas:
        if shard not in seats.owner:
            seats.give(shard, seats.heir(shard))


def _spread_zones(
    seats: Seats,
    spots: frozenset[Spot],
    live: frozenset[StoreId],
    shares: Mapping[StoreId, Share],
) -> None:
    """Move copies out of zones that hold two more of a shard than another zone with a free store."""
    zones: dict[str, list[StoreId]] = {}
    for spot in sorted(spots):
        if spot.store in live:
            zones.setdefault(spot.zone, []).append(spot.store)
    for shard, replicas in seats.replicas.items():
        while True:
            crowds = {zone: seats.crowd(shard, zone) for zone in zones}
            open_ = [z for z in zones if crowds[z] < len(zones[z])]
            if not open_ or max(crowds.values()) - min(crowds[z] for z in open_) < 2:
                break
            leaving = seats.surplus(shard, shares)
            is_owner = seats.owner.get(shard) == leaving
            seats.unseat(shard, leaving)
            store = seats.vacancy(shard, shares)
            assert store is not None, "a zone with a free live store was just found"
            seats.seat(shard, (store,))
            if is_owner:
                seats.give(shard, store)
            assert len(set(replicas)) == len(replicas), "two seats of a shard at one store"


def _balanced(seats: Seats, shares: Mapping[StoreId, Share], gain_min: float) -> Seats:
    """The same with copies evened out, if that is worth the copying."""
    if not any(misfit(seats.copies[store], shares[store]) for store in shares):
        return seats
    tried = seats.copy()
    even_out(tried.copies, shares, tried.pick, tried.shift)
    (low, high), (low_after, high_after) = _span(seats, shares), _span(tried, shares)
    return tried if max(high - high_after, low_after - low) >= gain_min else seats


def _span(seats: Seats, shares: Mapping[StoreId, Share]) -> tuple[float, float]:
    """The emptiest and the fullest store, each as a part of its fair share."""
    parts = [
        seats.copies[store] / share.exact for store, share in shares.items() if share.exact > 0
    ]
    return min(parts, default=1.0), max(parts, default=1.0)
