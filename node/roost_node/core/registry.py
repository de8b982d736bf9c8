"""The coordination store's own rules, as a value: what etcd promises, and nothing more.

Every change has the next revision; a transaction happens whole or not at all; a session's key goes
with its lease. `ownership/memory.py` and the simulator put delays, lost answers and requests that
are applied after their sender gave up (O2) in front of it.
"""

from __future__ import annotations

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    Applied,
    ClusterConfig,
    DeathRecord,
    Map,
    SessionId,
    SessionInfo,
    StoreId,
    Transaction,
    Versioned,
    is_gone,
)


class Registry:
    """The whole content of one cluster's prefix."""

    def __init__(self) -> None:
        self.revision = 1
        self.config: ClusterConfig | None = None
        self.sessions: dict[StoreId, SessionInfo] = {}
        self.deaths: dict[SessionId, DeathRecord] = {}
        self.shards: dict[ShardId, Versioned] = {}
        self._next_session = 1

    def create(self, proposed: ClusterConfig) -> ClusterConfig:
        """Create the cluster, if it is not there; what is there."""
        if self.config is None:
            self.config = proposed
            self.revision += 1
        return self.config

    def grant(self) -> SessionId:
        """A new lease."""
        self._next_session += 1
        return SessionId(self._next_session)

    def register(self, info: SessionInfo) -> None:
        """Put a session's key; over an older session's of the same store it ends that one (O5)."""
        self.revision += 1
        self.sessions[info.store] = info

    def expire(self, store: StoreId, session: SessionId) -> bool:
        """The lease ran out or was revoked. False: its key was gone already."""
        if is_gone(self.sessions, store, session):
            return False
        self.revision += 1
        del self.sessions[store]
        return True

    def apply(self, wanted: Transaction) -> Applied:
        """Carry a transaction out if all its conditions hold."""
        if not self._holds(wanted):
            return Applied(False, self.revision)
        self.revision += 1
        for swap in wanted.swaps:
            self.shards[swap.shard] = Versioned(self.revision, swap.record)
        if wanted.reap is not None:
            del self.sessions[wanted.reap.store]
        if wanted.death is not None:
            self.deaths[wanted.death.session] = wanted.death
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
        return Map(
            self.revision,
            self.config,
            dict(self.sessions),
            dict(self.deaths),
            dict(self.shards),
        )
