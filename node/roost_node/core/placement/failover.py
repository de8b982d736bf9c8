"""Who takes over the shards of a session that is gone (F1).

At once, whatever grace the store has: a failover copies nothing. Only a live member of the in-sync set may
be promoted, so where there is none the shard waits (M8). Among several those come first that are cut off from
the fewest others: a node that only reaches the coordination store could not serve what it got, and would be
deposed next (F2). Then the shard's preference counts, as long as no survivor gets more than its fair share:
the load of the dead falls on all of them evenly.

The store of the old owner may be there again, with a new session. It is promoted only where the in-sync set
would be too small without it: the others need not wait for a restart's sake (P5), but to leave it out costs
it its membership, and calls that write would stop until it has caught up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from roost.cluster.ids import ShardId
from roost_node.core.placement.balance import even_out
from roost_node.core.placement.deposing import cut_off_count
from roost_node.core.placement.ring import Ring, Spot
from roost_node.core.placement.roster import Place, Standing
from roost_node.core.placement.shares import owner_shares
from roost_node.core.placement.wish import Promote
from roost_node.core.record import Map, ShardRecord, StoreId, is_gone


def promotions(map_: Map, places: Mapping[StoreId, Place], ring: Ring) -> tuple[Promote, ...]:
    """The failovers to do now, in the order of the shards."""
    owners: Counter[StoreId] = Counter()
    able: dict[ShardId, tuple[StoreId, ...]] = {}
    for shard, versioned in sorted(map_.shards.items()):
        record = versioned.record
        if not is_gone(map_.sessions, record.owner, record.session):
            owners[record.owner] += 1
        elif candidates := _candidates(record, map_, places):
            able[shard] = candidates
    if not able:
        return ()
    able = _best_connected(able, map_)
    stores = sorted({*owners, *(store for stores in able.values() for store in stores)})
    shares = owner_shares(
        [Spot(store, "", max(1, places[store].weight)) for store in stores],
        sum(owners.values()) + len(able),
    )
    chosen: dict[ShardId, StoreId] = {}
    for shard, candidates in able.items():
        ranks = ring.ranks(shard)
        by_preference = sorted(candidates, key=lambda s: (ranks.get(s, len(ranks)), s))
        with_room = [s for s in by_preference if owners[s] < shares[s].high] or by_preference
        chosen[shard] = with_room[0]
        owners[with_room[0]] += 1

    def pick(giver: StoreId, taker: StoreId) -> ShardId | None:
        for shard, store in chosen.items():
            if store == giver and taker in able[shard]:
                return shard
        return None

    def shift(shard: ShardId, giver: StoreId, taker: StoreId) -> None:
        chosen[shard] = taker
        owners[giver] -= 1
        owners[taker] += 1

    even_out(owners, shares, pick, shift)
    return tuple(Promote(shard, store) for shard, store in chosen.items())


def _best_connected(
    able: Mapping[ShardId, tuple[StoreId, ...]], map_: Map
) -> dict[ShardId, tuple[StoreId, ...]]:
    """Of each shard's candidates, those that are cut off from the fewest nodes."""
    cut_off = {store: cut_off_count(map_.sessions, store) for store in map_.sessions}
    fewest = {shard: min(cut_off[s] for s in stores) for shard, stores in able.items()}
    return {
        shard: tuple(store for store in stores if cut_off[store] == fewest[shard])
        for shard, stores in able.items()
    }


def _candidates(
    record: ShardRecord, map_: Map, places: Mapping[StoreId, Place]
) -> tuple[StoreId, ...]:
    """The members of the in-sync set that may be promoted; of these, the ones to choose from."""
    alive = [store for store in record.in_sync if store in map_.sessions]
    others = [store for store in alive if store != record.owner]
    if record.owner in alive and len(record.in_sync) - 1 < map_.config.min_in_sync:
        return (record.owner,)
    staying = [store for store in others if places[store].standing is Standing.LIVE]
    return tuple(staying or others or alive)
