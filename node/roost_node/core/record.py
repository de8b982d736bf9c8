"""What the coordination store holds: who owns and replicates each shard, and who is alive.

```
<prefix>/config              ClusterConfig   fixed at creation, but for format level and generation
<prefix>/sessions/<store>    SessionInfo     under the session's lease: gone when it is
<prefix>/deaths/<session>    DeathRecord     written in the transaction that deletes a reaped session's key
<prefix>/shards/<n>          ShardRecord     changed only by compare-and-swap of its revision (O1)
<prefix>/wishes/<n>          Wish            where the plan wants the shard; written by the controller alone
<prefix>/drains/<store>      Order           an operator wants this store emptied; outlives its sessions
<prefix>/pins/<n>            Order           an operator wants this store to own the shard
<prefix>/events/<id>         Event           an operator did what cannot be undone; kept for good
<prefix>/controller          Leader          the election, under the leader's lease
```

A session is named by its lease (O5): a restarted process is another one. Values are JSON, so that an
operator can read them; fields are only ever added, and unknown ones are ignored.

All state that decides anything is here as plain values; `ownership/` carries it to and from etcd.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NewType

import msgspec

from roost.cluster.ids import ShardId

StoreId = NewType("StoreId", str)
"""One data directory: a node's identity."""

SessionId = NewType("SessionId", int)
"""One run of a node: the number of its lease. 0: none."""

Epoch = NewType("Epoch", int)
"""Grows with every change of a shard's owner or of the owner's session. 0: none."""

NO_SESSION = SessionId(0)

FORMAT_LEVEL = 1
"""The newest on-disk and wire format that this build can write; older ones it can read."""

OPERATIONS_MAX = 128
"""Conditions, or changes, of one transaction: what etcd takes unless told otherwise (max-txn-ops)."""


class How(enum.StrEnum):
    """How the last change of owner came about."""

    CREATED = "created"  # nobody had it before
    HANDOFF = "handoff"  # planned, by the owner itself: nothing to wait for (H1)
    FAILOVER = "failover"  # by the controller: promises are waited out first (P4)


class ShardRecord(msgspec.Struct, frozen=True):
    """Who owns and replicates one shard: the truth (`shards/<n>`)."""

    epoch: Epoch
    owner: StoreId
    session: SessionId  # of the owner
    how: How
    in_sync: tuple[StoreId, ...]  # the owner and those whose acknowledgement every commit waits for
    learners: tuple[StoreId, ...] = ()  # catching up
    previous: SessionId = NO_SESSION  # the owner's before the last change of owner
    target: StoreId = StoreId("")  # whom the plan wants as owner; the owner hands off when it can
    nonce: int = 0  # makes a rewrite of the same record another value (O2)
    reborn: Epoch = Epoch(0)  # logs whose last epoch is below may differ from ours anywhere (M8)
    given_up_ms: int = 0  # server time: what became of calls first sent before it nobody knows (M8)
    suspects: tuple[StoreId, ...] = ()  # found wrong: a snapshot before they count (M7)


class Wish(msgspec.Struct, frozen=True):
    """Where the plan wants a shard to be (`wishes/<n>`). It binds nobody: the owner gets it there."""

    owner: StoreId
    replicas: tuple[StoreId, ...]  # the owner among them
    go: bool = False  # within the budget: the owner may begin


class SessionInfo(msgspec.Struct, frozen=True):
    """One run of one node (`sessions/<store>`)."""

    store: StoreId
    session: SessionId
    address: str  # host:port of its gRPC server
    zone: str = ""
    weight: int = 100  # its share of owners, relative to others
    build: str = ""
    format_level: int = FORMAT_LEVEL  # the newest on-disk and wire format that it can write
    draining: bool = False  # wants to own and replicate nothing; in a `Map` also: is to, by order
    stopping: bool = False  # about to end: wants to own nothing, keeps its copies for its return
    unreachable: tuple[StoreId, ...] = ()  # whom it cannot reach (F2)
    stuck_on: tuple[StoreId, ...] = ()  # those of them that its shards wait for and may not remove
    short_of_disk: bool = False  # in a `Map`: it says `draining`, as long as that lasts


class DeathRecord(msgspec.Struct, frozen=True):
    """A session proven dead: its supervisor saw the process end (`deaths/<session>`, P6)."""

    store: StoreId
    session: SessionId


class ClusterConfig(msgspec.Struct, frozen=True):
    """What all nodes of a cluster must agree on (`config`)."""

    cluster_id: str
    shards: int
    seed: bytes
    hash_name: str
    replicas: int = 3
    min_in_sync: int = 2
    format_level: int = 1  # raised by command when every node can write it
    generation: int = 1  # raised by an operator after etcd was restored or lost (O7)
    founder: StoreId = StoreId("")  # it had objects before the cluster: it gets every shard first
    first_epoch: Epoch = Epoch(1)  # of its shards: above what the founder's disk has seen
    secret: bytes = b""  # by which nodes know each other; nobody else is told

    def __repr__(self) -> str:
        return f"ClusterConfig({self.cluster_id}, generation {self.generation})"


class Order(msgspec.Struct, frozen=True):
    """What an operator wants, until it is taken back: `drains/<store>`, or the owner in `pins/<n>`."""

    store: StoreId


class Event(msgspec.Struct, frozen=True):
    """Something that an operator did and that cannot be undone (`events/<id>`)."""

    id: str  # begins with the time: events sort by it
    at_ms: int
    what: str
    by: StoreId  # whose node carried it out
    generation: int = 0  # of the cluster, from here on
    shards: tuple[ShardId, ...] = ()
    stores: tuple[StoreId, ...] = ()  # that were left out


class Leader(msgspec.Struct, frozen=True):
    """Whose turn it is to run the controller (`controller`)."""

    store: StoreId
    session: SessionId


class Versioned(msgspec.Struct, frozen=True):
    """A shard's record and the revision of its key, which the next change compares."""

    revision: int
    record: ShardRecord


class Swap(msgspec.Struct, frozen=True):
    """Put `record` at `shard`, if its key is still at `revision` (0: is absent)."""

    shard: ShardId
    revision: int
    record: ShardRecord


class Guard(msgspec.Struct, frozen=True):
    """A condition on a store's session key, in the same transaction as the change.

    `alive`: the key holds this session. Otherwise: the key is absent *or holds another session* (O5).
    """

    store: StoreId
    session: SessionId
    alive: bool


class Transaction(msgspec.Struct, frozen=True):
    """Swaps and guards that hold together or not at all."""

    swaps: tuple[Swap, ...] = ()
    guards: tuple[Guard, ...] = ()
    reap: SessionInfo | None = None  # delete this session's key if it still holds it, and ...
    death: DeathRecord | None = None  # ... write down that it was proven dead
    wishes: tuple[tuple[ShardId, Wish], ...] = ()  # put, whatever was there
    event: Event | None = None

    @property
    def operations(self) -> int:
        """What counts against `OPERATIONS_MAX`; a reap and its death are four."""
        ends = self.reap is not None or self.death is not None
        others = (4 if ends else 0) + (self.event is not None)
        return len(self.swaps) + len(self.guards) + len(self.wishes) + others


class Applied(msgspec.Struct, frozen=True):
    """The answer to a transaction: whether its conditions held, and the store's revision then."""

    succeeded: bool
    revision: int


class Map(msgspec.Struct, frozen=True):
    """Everything in the coordination store, as of one revision."""

    revision: int
    config: ClusterConfig
    sessions: dict[StoreId, SessionInfo]
    deaths: dict[SessionId, DeathRecord]
    shards: dict[ShardId, Versioned]
    wishes: dict[ShardId, Wish] = {}
    drains: frozenset[StoreId] = frozenset()  # by order; their sessions here say `draining`
    pins: dict[ShardId, StoreId] = {}  # which store is to own a shard, by order


def ordered(
    sessions: dict[StoreId, SessionInfo], drains: frozenset[StoreId]
) -> dict[StoreId, SessionInfo]:
    """The sessions as everybody should see them: to be drained, by order or for lack of disk, is draining."""
    return {
        store: msgspec.structs.replace(info, draining=True)
        if store in drains or info.short_of_disk
        else info
        for store, info in sessions.items()
    }


def is_gone(sessions: dict[StoreId, SessionInfo], store: StoreId, session: SessionId) -> bool:
    """O5: the store's key is absent or holds another session."""
    info = sessions.get(store)
    return info is None or info.session != session


def union(sets: Sequence[Sequence[StoreId]]) -> frozenset[StoreId]:
    """All stores of several in-sync sets (O2)."""
    return frozenset(store for one in sets for store in one)


def batches(swaps: Sequence[Swap], guards: Sequence[Guard]) -> list[Transaction]:
    """As few transactions as the store takes, each under all the guards (M5)."""
    size = OPERATIONS_MAX - len(guards)
    assert size > 0, "guards leave no room for a swap"
    return [
        Transaction(tuple(swaps[start : start + size]), tuple(guards))
        for start in range(0, len(swaps), size)
    ]
