"""The coordination store's own rules, as a value: what etcd promises, and nothing more.

Every change has the next revision; a transaction happens whole or not at all; a session's key goes
with its lease. `ownership/memory.py` and the simulator put delays, lost answers and requests that
are applied after their sender gave up (O2) in front of it.
"""

from __future__ import annotations

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    Applied,
    ClusterConfig,
    DeathRecord,
    Event,
    Leader,
    Map,
    SessionId,
    SessionInfo,
    StoreId,
    Transaction,
    Versioned,
    Wish,
    is_gone,
    ordered,
)


class Registry:
    """The whole content of one cluster's prefix."""

    def __init__(self) -> None:
        self.revision = 1
        self.config: ClusterConfig | None = None
        self.sessions: dict[StoreId, SessionInfo] = {}
        self.deaths: dict[SessionId, DeathRecord] = {}
        self.shards: dict[ShardId, Versioned] = {}
        self.wishes: dict[ShardId, Wish] = {}
        self.drains: set[StoreId] = set()
        self.pins: dict[ShardId, StoreId] = {}
        self.events: dict[str, Event] = {}
        self.controller: Leader | None = None
        self.last_session = 1  # never given twice, not even after a restore

    def create(self, proposed: ClusterConfig) -> ClusterConfig:
        """Create the cluster, if it is not there; what is there."""
        if self.config is None:
            self.config = proposed
            self.revision += 1
        return self.config

    def raise_generation(self, event: Event) -> ClusterConfig:
        """To the event's; nothing if it is that high already."""
        assert self.config is not None, "a generation before the cluster was created"
        if self.config.generation < event.generation:
            self.config = msgspec.structs.replace(self.config, generation=event.generation)
            self.events[event.id] = event
            self.revision += 1
        return self.config

    def grant(self) -> SessionId:
        """A new lease."""
        self.last_session += 1
        return SessionId(self.last_session)

    def register(self, info: SessionInfo) -> None:
        """Put a session's key; over an older session's of the same store it ends that one (O5)."""
        self.revision += 1
        self.sessions[info.store] = info

    def expire(self, store: StoreId, session: SessionId) -> bool:
        """The lease ran out or was revoked, and its keys go. False: they were gone already."""
        leads = self._resign(session)
        gone = is_gone(self.sessions, store, session)
        if not gone:
            del self.sessions[store]
        if gone and not leads:
            return False
        self.revision += 1
        return True

    def campaign(self, leader: Leader) -> bool:
        """Become the controller, if there is none and this session is alive."""
        if self.controller is not None or is_gone(self.sessions, leader.store, leader.session):
            return False
        self.controller = leader
        self.revision += 1
        return True

    def resign(self, session: SessionId) -> bool:
        """Be the controller no longer. False: it was not this session."""
        if not self._resign(session):
            return False
        self.revision += 1
        return True

    def _resign(self, session: SessionId) -> bool:
        if self.controller is None or self.controller.session != session:
            return False
        self.controller = None
        return True

    def drain(self, store: StoreId, wanted: bool) -> None:
        """An operator wants a store emptied, or no longer."""
        self.revision += 1
        if wanted:
            self.drains.add(store)
        else:
            self.drains.discard(store)

    def pin(self, shard: ShardId, store: StoreId | None) -> None:
        """An operator wants a store to own a shard; None: no longer."""
        self.revision += 1
        self.pins.pop(shard, None)
        if store is not None:
            self.pins[shard] = store

    def apply(self, wanted: Transaction) -> Applied:
        """Carry a transaction out if all its conditions hold."""
        if not self._holds(wanted):
            return Applied(False, self.revision)
        self.revision += 1
        for swap in wanted.swaps:
            self.shards[swap.shard] = Versioned(self.revision, swap.record)
        if wanted.reap is not None:
            del self.sessions[wanted.reap.store]
            self._resign(wanted.reap.session)  # or nobody would lead until its lease is over
        if wanted.death is not None:
            self.deaths[wanted.death.session] = wanted.death
        self.wishes.update(wanted.wishes)
        if wanted.event is not None:
            self.events[wanted.event.id] = wanted.event
        return Applied(True, self.revision)

    def _holds(self, wanted: Transaction) -> bool:
        for swap in wanted.swaps:  # O1
            current = self.shards.get(swap.shard)
            if (current.revision if current is not None else 0) != swap.revision:
                return False
        for guard in wanted.guards:
            if is_gone(self.sessions, guard.store, guard.session) is guard.alive:
                return False
        reap = wanted.reap
        return reap is None or not is_gone(self.sessions, reap.store, reap.session)

    def read(self) -> Map:
        """A linearizable read of everything."""
        assert self.config is not None, "read before the cluster was created"
        drains = frozenset(self.drains)
        return Map(
            self.revision,
            self.config,
            ordered(self.sessions, drains),
            dict(self.deaths),
            dict(self.shards),
            dict(self.wishes),
            drains,
            dict(self.pins),
        )
