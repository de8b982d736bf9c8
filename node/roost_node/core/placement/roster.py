"""Which stores the plan may count on.

A node that restarts is away for some seconds. To copy its shards elsewhere meanwhile would move more than
the restart itself, twice. So a store whose session is gone keeps its place for a grace period; only then it
is gone, and what it held is copied from the others. (Failover does not wait: it copies nothing.)

This remembers who was seen when; it takes the clock's reading and decides nothing else. A new controller
starts with an empty memory: the grace of a store that is away begins again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

import msgspec

from roost_node.core.record import Map, SessionInfo, StoreId

GRACE_MS = 60_000


def named_in(map_: Map) -> set[StoreId]:
    """All stores in records and wishes."""
    found = {store for wish in map_.wishes.values() for store in (wish.owner, *wish.replicas)}
    for versioned in map_.shards.values():
        record = versioned.record
        found.update((record.owner, *record.in_sync, *record.learners))
    return found


class Standing(enum.Enum):
    """What a store is to the plan."""

    LIVE = "live"  # has a session: may own and hold
    STOPPING = "stopping"  # about to restart: keeps its copies, owns nothing
    DRAINING = "draining"  # about to leave: holds nothing in the end
    AWAY = "away"  # no session, within its grace: keeps its place, gets nothing new
    GONE = "gone"  # no session for longer than that: its copies are lost


class Place(msgspec.Struct, frozen=True):
    """A store as the plan sees it."""

    standing: Standing
    zone: str = ""
    weight: int = 100


class Roster:
    """Every store that has a session or is named by the shard map, and since when it is away."""

    __slots__ = ("_away_since_ms", "_drained", "_seen")

    def __init__(self) -> None:
        self._seen: dict[StoreId, SessionInfo] = {}
        self._away_since_ms: dict[StoreId, int] = {}
        self._drained: frozenset[StoreId] = frozenset()

    def on_map(
        self,
        sessions: Mapping[StoreId, SessionInfo],
        named: Iterable[StoreId],
        now_ms: int,
        drained: frozenset[StoreId] = frozenset(),
    ) -> None:
        """What the coordination store holds now: the sessions, and all stores in records and wishes.

        `drained`: by order, whether they live or not.
        """
        self._seen |= sessions
        self._drained = drained
        wanted = set(sessions) | set(named)
        for store in wanted - set(sessions):
            self._away_since_ms.setdefault(store, now_ms)
        for store in sessions:
            self._away_since_ms.pop(store, None)
        for store in set(self._seen) - wanted:
            del self._seen[store]
        for store in set(self._away_since_ms) - wanted:
            del self._away_since_ms[store]

    def places(self, now_ms: int, grace_ms: int = GRACE_MS) -> dict[StoreId, Place]:
        """Each store's standing at this time."""
        return {
            store: self._place(store, now_ms, grace_ms)
            for store in sorted({*self._seen, *self._away_since_ms})
        }

    def next_change_ms(self, grace_ms: int = GRACE_MS) -> int | None:
        """When the earliest grace period ends."""
        return min((since + grace_ms for since in self._away_since_ms.values()), default=None)

    def _place(self, store: StoreId, now_ms: int, grace_ms: int) -> Place:
        info = self._seen.get(store)
        zone, weight = (info.zone, info.weight) if info else ("", 100)
        since_ms = self._away_since_ms.get(store)
        draining = store in self._drained or (info is not None and info.draining)
        if since_ms is not None:
            # A drained store that ended, or was drained because it had ended, is to leave: nothing waits for it.
            is_gone = draining or now_ms - since_ms >= grace_ms
            return Place(Standing.GONE if is_gone else Standing.AWAY, zone, weight)
        if draining:
            return Place(Standing.DRAINING, zone, weight)
        stopping = info is not None and info.stopping
        return Place(Standing.STOPPING if stopping else Standing.LIVE, zone, weight)
