"""Records written anew, by an operator's order, from what the nodes' disks hold.

Two accidents make the coordination store's records useless. It was restored from an old backup (O7): they name
owners and members of long ago. Or it is right, and no member of a shard's in-sync set will ever come back
(M8). What the disks say is then the better truth, because of one property of logs: of those that may
hold committed entries, the one of the highest rank (last epoch, end) holds them all (L3).

*Recovering* asks every store, so nothing that was acknowledged is lost. *Giving up* takes what is left, so what
only the lost stores had is gone; and two things must not be done with what comes back later:

- A log of a lost store may differ from the new one in entries that both count as committed, where no
  comparison of epochs finds it. So the record says from which epoch on logs are comparable (`reborn`); a
  replica whose log ends before it is fed a snapshot.
- The records of calls were lost with the data. A call that was first sent before now may have run; it is
  refused from here on (`given_up_ms`), instead of run again.

The new epoch is above all that the asked stores have seen, with a gap for those that could not be asked.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    NO_SESSION,
    Epoch,
    How,
    Map,
    ShardRecord,
    StoreId,
    Swap,
)

EPOCH_GAP = 1_000
"""More changes of owner than a store can have seen that none of those asked has heard of."""


class Copy(msgspec.Struct, frozen=True):
    """What one store says of its copy of a shard."""

    seen: Epoch = Epoch(0)
    last_epoch: Epoch = Epoch(0)
    end: int = 0  # 0: it has nothing, or a piece of a snapshot
    members: tuple[StoreId, ...] = ()  # in sync, if the store is the owner now

    @property
    def rank(self) -> tuple[int, int]:
        """See `Shape.rank`."""
        return (self.last_epoch, self.end)


Copies = Mapping[StoreId, Mapping[ShardId, Copy]]


def missing(found: Map) -> frozenset[StoreId]:
    """Stores that records name and that have no session: their disks cannot be asked."""
    named: set[StoreId] = set()
    for versioned in found.shards.values():
        named |= {versioned.record.owner, *versioned.record.in_sync}
    return frozenset(named - set(found.sessions))


def lost_here(found: Map, me: StoreId, has: Container[ShardId]) -> list[ShardId]:
    """Shards of which this store has the only copy, as the records say, and its disk has none of them."""
    last = [
        shard
        for shard, versioned in sorted(found.shards.items())
        if versioned.record.in_sync == (me,) and versioned.record.how is not How.CREATED
    ]
    return last if not any(shard in has for shard in last) else []


def recovered(found: Map, copies: Copies, *, left_out: bool, now_ms: int) -> list[Swap]:
    """Every shard goes to the stores that have all of it. `left_out`: some store was not asked."""
    swaps = []
    for number in range(found.config.shards):
        shard = ShardId(number)
        record = _recovered(found, copies, shard)
        if record is not None and left_out:
            record = msgspec.structs.replace(record, reborn=record.epoch, given_up_ms=now_ms)
        if record is not None:
            swaps.append(Swap(shard, _revision(found, shard), record))
    return swaps


def given_up(found: Map, copies: Copies, shards: Iterable[ShardId], now_ms: int) -> list[Swap]:
    """Each shard goes to the one store that has most of it; where none has anything it begins empty.

    To be asked only for shards of whose in-sync members none is there, and with a session to give them to.
    """
    swaps = []
    for turn, shard in enumerate(sorted(shards)):
        best = _best(found, copies, shard) or [sorted(found.sessions)[turn % len(found.sessions)]]
        record = _record(found, copies, shard, best[0], (best[0],))
        record = msgspec.structs.replace(record, reborn=record.epoch, given_up_ms=now_ms)
        swaps.append(Swap(shard, _revision(found, shard), record))
    return swaps


def _recovered(found: Map, copies: Copies, shard: ShardId) -> ShardRecord | None:
    best = _best(found, copies, shard)
    if not best:
        return None  # nobody has written to it: the controller's business
    highest = max(held[shard].seen for held in copies.values() if shard in held)
    for store in sorted(copies):
        copy = copies[store].get(shard)
        if copy is not None and copy.members and copy.seen == highest:
            # It owns the shard now and goes on committing with these: they have it all, others might not.
            members = tuple(one for one in copy.members if one in found.sessions)
            return _record(found, copies, shard, store, members)
    return _record(found, copies, shard, best[0], tuple(best))


def _best(found: Map, copies: Copies, shard: ShardId) -> list[StoreId]:
    """Those that have the most, all the same; of those found wrong (M7) one only where there is no other."""
    ranks = {
        store: held[shard].rank
        for store, held in copies.items()
        if shard in held and held[shard].end > 0
    }
    suspects = _suspects(found, shard)
    ranks = {store: rank for store, rank in ranks.items() if store not in suspects} or ranks
    return sorted(store for store, rank in ranks.items() if rank == max(ranks.values()))


def _suspects(found: Map, shard: ShardId) -> tuple[StoreId, ...]:
    versioned = found.shards.get(shard)
    return versioned.record.suspects if versioned is not None else ()


def _record(
    found: Map, copies: Copies, shard: ShardId, owner: StoreId, members: tuple[StoreId, ...]
) -> ShardRecord:
    versioned = found.shards.get(shard)
    seen = [held[shard].seen for held in copies.values() if shard in held]
    epoch = max([*seen, versioned.record.epoch if versioned is not None else 0])
    old = versioned.record if versioned is not None else None
    return ShardRecord(
        epoch=Epoch(epoch + EPOCH_GAP),
        owner=owner,
        session=found.sessions[owner].session,
        how=How.FAILOVER,  # promises that others were given are waited out (P4)
        in_sync=members,
        previous=old.session if old is not None else NO_SESSION,
        reborn=old.reborn if old is not None else Epoch(0),
        given_up_ms=old.given_up_ms if old is not None else 0,
        suspects=tuple(store for store in _suspects(found, shard) if store not in members),
    )


def _revision(found: Map, shard: ShardId) -> int:
    versioned = found.shards.get(shard)
    return versioned.revision if versioned is not None else 0
