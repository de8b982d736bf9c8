"""What an operator wants to know of a cluster, from one read of the coordination store.

Nodes, with what they hold; shards, each in one state, the worst that is true of it. Everything is derived
from records and sessions, so every node gives the same answer. Since when a store has been away nobody can
tell from one read: here it is just away.
"""

from __future__ import annotations

import enum
from collections import Counter

import msgspec

from roost.cluster.ids import ShardId
from roost.errors import InvalidArgumentError
from roost_node.core.placement.roster import Place, Standing, named_in
from roost_node.core.record import (
    ClusterConfig,
    Epoch,
    How,
    Leader,
    Map,
    SessionInfo,
    ShardRecord,
    StoreId,
    Versioned,
    Wish,
    is_gone,
)

PREFIX_MIN = 4
"""Digits of a store's id that name it, if they are enough: one alone is rather somebody's "node 1"."""


class ShardState(enum.StrEnum):
    """How a shard is, the worst first."""

    WAITING = (
        "waiting"  # nobody who has everything is there: calls wait for one of the named stores (M8)
    )
    FAILING_OVER = "failing over"  # its owner is gone, and a member is about to take over
    MISSING = "missing"  # not created yet
    READ_ONLY = "read-only"  # fewer members than min_in_sync: calls that may write are refused (M3)
    CATCHING_UP = "catching up"  # too few members, and a learner is getting the data
    UNDER_REPLICATED = "under-replicated"  # too few members
    MOVING = "moving"  # on its way to where the plan wants it
    IN_SYNC = "in sync"


class Behind(msgspec.Struct, frozen=True):
    """A learner, as its shard's owner sees it."""

    shard: ShardId
    store: StoreId
    entries: int  # that it has not acknowledged; with a snapshot under way, all
    entries_per_s: float  # that it has acknowledged lately
    snapshot_bytes: int = 0  # sent of a snapshot that is under way
    snapshot_of: int = 0  # about how many there are; 0: unknown, or no snapshot is under way
    bytes_per_s: float = 0.0  # of it, lately


class LastAudit(msgspec.Struct, frozen=True):
    """What comparing the copies of a shard has shown last, as its owner knows."""

    shard: ShardId
    at_ms: int  # by the wall clock
    compared: int  # copies
    differ: bool = False
    bad: tuple[StoreId, ...] = ()  # or among which the bad one is, where nobody knows


class NodeView(msgspec.Struct, frozen=True):
    """One store."""

    store: StoreId
    standing: Standing
    info: SessionInfo | None  # None: it is away, or gone
    is_controller: bool
    is_drained: bool  # by an operator's order
    owners: int
    replicas: int  # that are in sync, those that it owns among them
    learners: int


class ShardView(msgspec.Struct, frozen=True):
    """One shard."""

    shard: ShardId
    state: ShardState
    record: ShardRecord | None
    wish: Wish | None
    pin: StoreId | None
    waits_for: tuple[StoreId, ...]  # any of them would do

    def concerns(self, store: StoreId) -> bool:
        """Whether the store has it, or is to have it."""
        has = (*self.record.in_sync, *self.record.learners) if self.record is not None else ()
        return store in has or (self.wish is not None and store in self.wish.replicas)


class Overview(msgspec.Struct, frozen=True):
    """Everything."""

    cluster_id: str
    revision: int
    nodes: tuple[NodeView, ...]
    shards: tuple[ShardView, ...]

    def counts(self) -> dict[ShardState, int]:
        """How many shards are in each state, those without any left out."""
        found = Counter(shard.state for shard in self.shards)
        return {state: found[state] for state in ShardState if found[state]}

    def waits_for(self) -> dict[StoreId, int]:
        """How many shards wait for each store."""
        return dict(Counter(store for shard in self.shards for store in shard.waits_for))


def overview(found: Map, leader: Leader | None) -> Overview:
    """What is there."""
    places = places_now(found)
    shards = tuple(_shard(found, places, ShardId(n)) for n in range(found.config.shards))
    owners: Counter[StoreId] = Counter()
    replicas: Counter[StoreId] = Counter()
    learners: Counter[StoreId] = Counter()
    for versioned in found.shards.values():
        record = versioned.record
        owners[record.owner] += not is_gone(found.sessions, record.owner, record.session)
        replicas.update(record.in_sync)
        learners.update(record.learners)
    nodes = tuple(
        NodeView(
            store,
            place.standing,
            found.sessions.get(store),
            leader is not None and leader.store == store,
            store in found.drains,
            owners[store],
            replicas[store],
            learners[store],
        )
        for store, place in places.items()
    )
    return Overview(found.config.cluster_id, found.revision, nodes, shards)


def places_now(found: Map, gone: frozenset[StoreId] = frozenset()) -> dict[StoreId, Place]:
    """Every store as it is; one without a session is away, unless it is to be taken for gone."""
    places: dict[StoreId, Place] = {}
    for store in sorted({*found.sessions, *named_in(found), *found.drains, *found.pins.values()}):
        info = found.sessions.get(store)
        if store in gone:
            places[store] = Place(Standing.GONE)
        elif info is None:
            places[store] = Place(Standing.GONE if store in found.drains else Standing.AWAY)
        else:
            standing = Standing.STOPPING if info.stopping else Standing.LIVE
            standing = Standing.DRAINING if info.draining else standing
            places[store] = Place(standing, info.zone, info.weight)
    return places


def store_of(text: str, found: Map) -> StoreId:
    """Whom an operator means. Raises InvalidArgumentError, with those that there are."""
    places = places_now(found)
    address = text.replace("localhost:", "127.0.0.1:", 1)
    by_address = [i.store for i in found.sessions.values() if i.address in (text, address)]
    is_long = len(text) >= PREFIX_MIN
    named = by_address or [store for store in places if is_long and store.startswith(text)]
    if StoreId(text) in places:
        named = [StoreId(text)]
    if len(named) != 1:
        at = {store: f" ({info.address})" for store, info in found.sessions.items()}
        raise InvalidArgumentError(
            f"{f'{len(named)} stores are' if named else 'no store is'} called {text!r}: there is "
            f"{', '.join(store + at.get(store, '') for store in places)}"
        )
    return named[0]


def state_of(text: str) -> ShardState:
    """The state that an operator means. Raises InvalidArgumentError, with those that there are."""
    try:
        return ShardState(text)
    except ValueError:
        raise InvalidArgumentError(
            f"shards are never {text!r}: they are {', '.join(ShardState)}"
        ) from None


def _shard(found: Map, places: dict[StoreId, Place], shard: ShardId) -> ShardView:
    versioned, wish = found.shards.get(shard), found.wishes.get(shard)
    record = versioned.record if versioned is not None else None
    state = _state(found, places, record, wish)
    waits_for: tuple[StoreId, ...] = ()
    if record is None and found.config.founder and found.config.founder not in found.sessions:
        waits_for = (found.config.founder,)  # whose disk may have it
    elif record is not None and state is ShardState.WAITING:
        waits_for = record.in_sync
    return ShardView(shard, state, record, wish, found.pins.get(shard), waits_for)


def _state(
    found: Map, places: dict[StoreId, Place], record: ShardRecord | None, wish: Wish | None
) -> ShardState:
    if record is None:
        return ShardState.MISSING
    there = [store for store in record.in_sync if store in found.sessions]
    if not there:
        return ShardState.WAITING
    if is_gone(found.sessions, record.owner, record.session):
        return ShardState.FAILING_OVER
    if len(record.in_sync) < found.config.min_in_sync:
        return ShardState.READ_ONLY
    leaving = (Standing.DRAINING, Standing.GONE)
    staying = sum(place.standing not in leaving for place in places.values())
    if len(there) < min(found.config.replicas, staying):
        is_fed = any(store in found.sessions for store in record.learners)
        return ShardState.CATCHING_UP if is_fed else ShardState.UNDER_REPLICATED
    if wish is not None and (
        wish.owner != record.owner
        or set(wish.replicas) != set(record.in_sync)
        or record.learners != ()
    ):
        return ShardState.MOVING
    return ShardState.IN_SYNC


def alone(cluster_id: str, shards: int, seed: bytes, hash_name: str, info: SessionInfo) -> Map:
    """The map of a node that is in no cluster: everything is its own."""
    record = ShardRecord(Epoch(1), info.store, info.session, How.CREATED, (info.store,))
    config = ClusterConfig(cluster_id, shards, seed, hash_name, replicas=1, min_in_sync=1)
    records = {ShardId(number): Versioned(1, record) for number in range(shards)}
    return Map(1, config, {info.store: info}, {}, records)
