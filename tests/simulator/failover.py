"""Whom the controller promotes, in the simulation of replication cores."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.placement.deposing import cut_off_count
from roost_node.core.record import (
    Epoch,
    Guard,
    How,
    SessionInfo,
    StoreId,
    Swap,
    Transaction,
)


def promotion(
    sessions: dict[StoreId, SessionInfo], shard: ShardId, versioned: Any, rng: random.Random
) -> Transaction | None:
    """F1: a live member takes over from an owner whose session is gone (O5)."""
    record = versioned.record
    owner_info = sessions.get(record.owner)
    if owner_info is not None and owner_info.session == record.session:
        return None
    live = [m for m in record.in_sync if m in sessions]
    if not live:
        return None
    fewest = min(cut_off_count(sessions, m) for m in live)
    chosen = rng.choice([m for m in live if cut_off_count(sessions, m) == fewest])
    in_sync = (
        record.in_sync
        if chosen == record.owner
        else tuple(m for m in record.in_sync if m != record.owner)
    )
    fresh = msgspec.structs.replace(
        record,
        epoch=Epoch(record.epoch + 1),
        owner=chosen,
        session=sessions[chosen].session,
        how=How.FAILOVER,
        in_sync=in_sync,
        previous=record.session,
        nonce=rng.getrandbits(30),
    )
    return Transaction(
        (Swap(shard, versioned.revision, fresh),),
        (
            Guard(record.owner, record.session, alive=False),
            Guard(chosen, sessions[chosen].session, alive=True),
        ),
    )
