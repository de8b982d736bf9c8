"""What a node may ask of the coordination store, and what an answer, or none, means.

Two implementations: `etcd.py`, and `memory.py` for tests and the simulator; one suite of tests holds
both to this contract. What is stored is in `core/record.py`.

Three things a caller must keep apart, because the rules do:

- it was answered: `Applied`, a map, a session;
- it was certainly not carried out: `CoordinatorDownError` (asking again can help) and
  `CoordinatorRefusedError` (somebody has to change something first);
- nobody knows: `UnansweredError`. It may be carried out still, *after* any read that shows the
  opposite (O2), as long as what it compared holds. A cancelled request is the same: who cancels
  `apply` must treat its outcome as unknown.

Reads change nothing, so they are asked again inside and end in `CoordinatorDownError` at worst. Writes
are never sent twice, but for one that the store refused because a token had run out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from roost.cluster.ids import ShardId
from roost.errors import OutcomeUnknownError, RoostError, StoreError, UnavailableError
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
)

DEATH_KEPT_S = 60
"""How long a death stays written down: many times the promise that it cuts short (P6)."""

RACES_MAX = 5
"""How often registering may be overtaken by another run of the same store, before it gives up."""


class CoordinatorDownError(UnavailableError):
    """The coordination store could not be reached, or cannot act: nothing was changed."""


class UnansweredError(OutcomeUnknownError):
    """The request was sent and no answer came: it may be carried out yet (O2)."""


class CoordinatorRefusedError(RoostError):
    """The coordination store will not do this, today or tomorrow: credentials, rights, sizes."""


class SessionGoneError(RoostError):
    """The session has ended: register anew (O4)."""


class ForeignClusterError(StoreError):
    """Another cluster lives at this place: its hash, seed or number of shards is not ours."""


class Changed(msgspec.Struct, frozen=True):
    """Keys that have changed by this revision. A hint: read before you act (O3)."""

    revision: int
    shards: tuple[ShardId, ...] = ()
    sessions: tuple[StoreId, ...] = ()  # or drains
    deaths: tuple[SessionId, ...] = ()
    wishes: tuple[ShardId, ...] = ()  # or pins
    config: bool = False
    controller: bool = False


class Relist(msgspec.Struct, frozen=True):
    """Hints may have been lost: read everything (O3)."""

    why: str  # started | reconnected | compacted | restored


Hint = Changed | Relist


class Restored(msgspec.Struct, frozen=True):
    """The store went back in time, or another one answers: restored from an old backup (O7)."""

    seen: int  # the highest revision that this process had seen
    now: int  # what it answered later


class Coordinator(Protocol):
    """The coordination store, as one node sees it."""

    restored: Restored | None
    """Set for good when an answer was older than an earlier one. Answers are passed on as they are;
    `changes` gives a `Relist`, and it is the node's duty to refuse lower epochs (O7)."""

    async def create(self, proposed: ClusterConfig) -> ClusterConfig:
        """Create the cluster unless it is there; what is there. May be repeated.

        Raises `ForeignClusterError` if what is there was made with another hash, seed or number of shards.
        """

    async def open_session(self, info: SessionInfo, ttl_s: int) -> SessionId:
        """Register this run of the store: a lease, and the store's key under it.

        Whatever older session holds the key ends with it; a request of ours that was lost and arrives
        late replaces nobody. Raises `CoordinatorRefusedError` if the
        cluster's format level is above the node's.
        """

    async def keep_alive(self, session: SessionId) -> bool:
        """Extend the lease. False: the session is gone; its key was deleted, replaced, or ran out."""

    async def update_session(self, info: SessionInfo) -> bool:
        """Say something new about an open session (draining, whom it cannot reach). False: it is gone."""

    async def close_session(self, session: SessionId) -> None:
        """End the lease and all keys under it. It is no error if they are gone."""

    async def apply(self, wanted: Transaction) -> Applied:
        """Carry out a transaction of at most `OPERATIONS_MAX` operations if its conditions hold (O1)."""

    async def read(self) -> Map:
        """Everything, as of one revision at or after the call (O3)."""

    async def read_shards(self, shards: Sequence[ShardId]) -> dict[ShardId, Versioned]:
        """Some records, as of or after the call (R4); those that do not exist are left out."""

    async def write_death(self, death: DeathRecord) -> None:
        """Say that this session's process is dead, and take its key and election away. May be repeated.

        The record lasts `DEATH_KEPT_S`.
        """

    async def drain(self, store: StoreId, wanted: bool) -> None:
        """Say that an operator wants a store emptied, or no longer. May be repeated."""

    async def pin(self, shard: ShardId, store: StoreId | None) -> None:
        """Say which store an operator wants to own a shard; None: whichever. May be repeated."""

    def changes(self, after: int) -> AsyncIterator[Hint]:
        """Hints at what changes after a revision, for ever. Outages are waited out."""

    async def campaign(self, session: SessionId) -> Leader:
        """Wait until this session is the controller. Raises `SessionGoneError` if it ends meanwhile.

        Who cancels this may be elected all the same: `resign`, or campaign again.
        """

    async def leader(self) -> Leader | None:
        """Who is the controller now."""

    async def resign(self, session: SessionId) -> None:
        """Be the controller no longer, if it is this session."""

    async def raise_format_level(self, level: int) -> ClusterConfig:
        """Let everybody write this format; nothing if it is so already.

        Raises `CoordinatorRefusedError` naming a node that cannot, `CoordinatorDownError` if nodes
        came or went at that moment.
        """

    async def raise_generation(self, event: Event) -> ClusterConfig:
        """Begin the event's generation and write the event down; nothing if it is that high already.

        Raises `CoordinatorDownError` if the config was changed at that moment.
        """

    async def events(self) -> list[Event]:
        """What operators did that cannot be undone, the oldest first."""

    async def close(self) -> None:
        """Let go of the connections. Sessions end when their leases do."""


def check_config(ours: ClusterConfig, theirs: ClusterConfig) -> ClusterConfig:
    """Theirs, if all that can never change is the same; else `ForeignClusterError` names the difference."""
    for name in ("hash_name", "seed", "shards"):
        mine, there = getattr(ours, name), getattr(theirs, name)
        if mine != there:
            mine, there = (v.hex() if isinstance(v, bytes) else v for v in (mine, there))
            raise ForeignClusterError(
                f"the cluster {theirs.cluster_id} was created with {name} {there}, this store with"
                f" {mine}: it can never join; choose another cluster prefix or an empty directory"
            )
    return theirs


def check_format(info: SessionInfo, config: ClusterConfig) -> None:
    """A node that cannot write the cluster's format may not join it."""
    if info.format_level < config.format_level:
        raise CoordinatorRefusedError(
            f"the cluster writes format level {config.format_level}, this build of store"
            f" {info.store} only {info.format_level}: install a newer build"
        )


def check_raise(level: int, sessions: dict[StoreId, SessionInfo]) -> None:
    """The level may rise only when every node can write it."""
    behind = sorted(s.store for s in sessions.values() if s.format_level < level)
    if behind:
        raise CoordinatorRefusedError(
            f"format level {level} is more than these stores can write: {', '.join(behind)};"
            " upgrade or drain them first"
        )
