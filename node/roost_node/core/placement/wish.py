"""How the plan's will reaches a shard: the changes that the controller makes, the steps that the owner takes.

Two values for each shard, with one writer each. The *record* (`shards/<n>`) is what is: only the owner
changes its members (O6), but for a creation and a failover, when there is no owner. The *wish*
(`wishes/<n>`) is what should be, and only the controller writes it. A wish binds nobody and takes part in
no rule of safety, so it needs no comparison: a late or doubled one is set right by the next plan.
The alternative, `target` and `learners` written into the record by the controller, would make the owner's
swaps fail for the controller's sake, and break O6.

A wish is a goal, not a step. Once it says `go`, the owner gets there alone: learner, in-sync, handoff,
drop (`next_step`, asked again after each change). So a move goes on when the controller dies, and the next
owner goes on where the last one stopped. A fulfilled wish stays: it remembers that a member which fell
out, or was away for a restart, belongs here, so that its owner takes it back without asking anyone.
"""

from __future__ import annotations

import enum
from collections.abc import Container

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    Epoch,
    Guard,
    How,
    Map,
    ShardRecord,
    StoreId,
    Swap,
    Transaction,
    Versioned,
    Wish,
)


class Why(enum.IntEnum):
    """Why a shard is to be changed, the most urgent first."""

    REPAIR = 1  # it has fewer copies than it should
    LEAVE = 2  # a store that holds or owns it is draining or stopping
    ZONES = 3  # two of its copies are in one zone and need not be
    HANDOFF = 4  # its owner changes to a store that has the data
    BALANCE = 5  # a store has more copies than its fair share


class Create(msgspec.Struct, frozen=True):
    """By the controller: the first record of a shard."""

    shard: ShardId
    owner: StoreId
    in_sync: tuple[StoreId, ...]


class Promote(msgspec.Struct, frozen=True):
    """By the controller: failover of a shard whose owner's session is gone (F1)."""

    shard: ShardId
    to: StoreId


class SetWish(msgspec.Struct, frozen=True):
    """By the controller: a new wish."""

    shard: ShardId
    wish: Wish
    why: Why
    bytes: int = 0  # to be copied for it, if it may begin now


Change = Create | Promote | SetWish


class AddLearner(msgspec.Struct, frozen=True):
    """By the owner: let a store catch up. M2 says when it becomes a member."""

    shard: ShardId
    store: StoreId


class SetTarget(msgspec.Struct, frozen=True):
    """By the owner: hand off to this member (H1)."""

    shard: ShardId
    store: StoreId


class DropReplica(msgspec.Struct, frozen=True):
    """By the owner: take this store out of the members or learners."""

    shard: ShardId
    store: StoreId


Step = AddLearner | SetTarget | DropReplica


def next_step(
    shard: ShardId,
    record: ShardRecord,
    wish: Wish | None,
    ready: Container[StoreId],
    min_in_sync: int,
) -> Step | None:
    """What the owner should do next for its wish; None: nothing, or nothing yet.

    `ready`: the stores that have a session and are neither draining nor stopping.
    """
    if wish is None or not wish.go:
        return None
    has = (*record.in_sync, *record.learners)
    for store in wish.replicas:
        if store not in has and store in ready:
            return AddLearner(shard, store)
    if wish.owner != record.owner and wish.owner in record.in_sync and wish.owner in ready:
        return SetTarget(shard, wish.owner)
    for store in record.learners:
        if store not in wish.replicas:
            return DropReplica(shard, store)
    # Redundancy stays at its level: as many members as the wish has replicas, and M3.
    if len(record.in_sync) > max(len(wish.replicas), min_in_sync):
        for store in record.in_sync:
            if store not in wish.replicas and store != record.owner:
                return DropReplica(shard, store)
    return None


def transaction(change: Change, map_: Map) -> Transaction:
    """The controller's transaction for a change, as of the map that it was planned on."""
    if isinstance(change, SetWish):
        return Transaction(wishes=((change.shard, change.wish),))
    if isinstance(change, Create):
        session = map_.sessions[change.owner].session
        epoch = map_.config.first_epoch
        created = ShardRecord(epoch, change.owner, session, How.CREATED, change.in_sync)
        return Transaction(
            swaps=(Swap(change.shard, 0, created),),
            guards=(Guard(change.owner, session, alive=True),),
        )
    versioned = map_.shards[change.shard]
    session = map_.sessions[change.to].session
    return Transaction(
        swaps=(Swap(change.shard, versioned.revision, promoted(versioned, change.to, map_)),),
        guards=(
            Guard(versioned.record.owner, versioned.record.session, alive=False),  # O5
            Guard(change.to, session, alive=True),
        ),
    )


def promoted(versioned: Versioned, to: StoreId, map_: Map) -> ShardRecord:
    """The record after a failover: without the old owner's store, unless that one is promoted (F1)."""
    old = versioned.record
    return ShardRecord(
        epoch=Epoch(old.epoch + 1),
        owner=to,
        session=map_.sessions[to].session,
        how=How.FAILOVER,
        in_sync=tuple(store for store in old.in_sync if store == to or store != old.owner),
        learners=old.learners,
        previous=old.session,
        reborn=old.reborn,
        given_up_ms=old.given_up_ms,
        suspects=old.suspects,
    )
