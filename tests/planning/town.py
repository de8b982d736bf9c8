"""Stores that come, go, restart and leave, with perfect owners that carry out what is planned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.placement.plan import Situation, plan
from roost_node.core.placement.rehearsal import Watch, carry_out, simulate_to_rest
from roost_node.core.placement.roster import GRACE_MS, Roster, named_in
from roost_node.core.placement.starts import Budgets
from roost_node.core.placement.wish import Change
from roost_node.core.record import (
    ClusterConfig,
    Map,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
)

WIDE = Budgets(copies_max=10**6, copies_per_store_max=10**6, handoffs_max=10**6)
Check = Callable[[Map, Map], None]


class Town:
    """One cluster: its coordination store, the roster of its controller, and the time."""

    def __init__(
        self,
        shards: int,
        replicas: int = 3,
        min_in_sync: int | None = None,
        budgets: Budgets = WIDE,
    ) -> None:
        least = max(1, replicas - 1) if min_in_sync is None else min_in_sync
        config = ClusterConfig("c", shards, b"", "blake2b-64", replicas, least)
        self.map = Map(1, config, {}, {}, {})
        self.budgets = budgets
        self.now_ms = 0
        self.watch: Watch | None = None
        self.checks: list[Check] = []
        self._roster = Roster()
        self._sessions = 100
        self.known: dict[StoreId, SessionInfo] = {}

    # ------------------------------------------------------------------ what happens to stores

    def join(self, store: str, zone: str = "", weight: int = 100) -> None:
        self._sessions += 1
        info = SessionInfo(StoreId(store), SessionId(self._sessions), "", zone, weight)
        self._put({**self.map.sessions, info.store: info})

    def join_many(self, count: int, zones: int = 1) -> None:
        for number in range(count):
            self.join(f"s{number:02}", f"z{number % zones}")

    def die(self, *stores: str) -> None:
        self._put({s: info for s, info in self.map.sessions.items() if s not in stores})

    def restart(self, store: str) -> None:
        """A new session, whether the old one is gone already or not."""
        old = self.known[StoreId(store)]
        self.join(store, old.zone, old.weight)

    def mark(self, store: str, *, draining: bool = False, stopping: bool = False) -> None:
        old = self.map.sessions[StoreId(store)]
        new = msgspec.structs.replace(old, draining=draining, stopping=stopping)
        self._put({**self.map.sessions, old.store: new})

    def pin(self, shard: int, store: str | None) -> None:
        pins = {n: s for n, s in self.map.pins.items() if n != shard}
        if store is not None:
            pins[ShardId(shard)] = StoreId(store)
        self.map = msgspec.structs.replace(self.map, pins=pins)

    def wait(self, ms: int = GRACE_MS) -> None:
        self.now_ms += ms

    # ------------------------------------------------------------------ what is planned

    @property
    def situation(self) -> Situation:
        self._roster.on_map(self.map.sessions, named_in(self.map), self.now_ms, self.map.drains)
        return Situation(self.map, self._roster.places(self.now_ms))

    def plan(self) -> tuple[Change, ...]:
        return plan(self.situation, self.budgets)

    def round(self) -> tuple[Change, ...]:
        situation = self.situation
        changes = plan(situation, self.budgets)
        if self.watch is not None:
            self.watch(situation, changes)
        after = carry_out(situation, changes).map
        for check in self.checks:
            check(self.map, after)
        self.map = after
        return changes

    def rest(self) -> None:
        before = [self.map]

        def watch(situation: Situation, changes: tuple[Change, ...]) -> None:
            for check in self.checks:
                check(before[0], situation.map)
            before[0] = situation.map
            if self.watch is not None:
                self.watch(situation, changes)

        self.map = simulate_to_rest(self.situation, self.budgets, watch, 3000).map
        assert self.plan() == (), "at rest there is nothing to do"

    def _put(self, sessions: dict[StoreId, SessionInfo]) -> None:
        self.known |= sessions
        self.map = msgspec.structs.replace(self.map, sessions=sessions)
        _ = self.situation  # the roster sees every change

    # ------------------------------------------------------------------ what came of it

    @property
    def records(self) -> dict[ShardId, ShardRecord]:
        return {shard: versioned.record for shard, versioned in self.map.shards.items()}

    @property
    def owners(self) -> Counter[StoreId]:
        return counted(self.map.sessions, (r.owner for r in self.records.values()))

    @property
    def copies(self) -> Counter[StoreId]:
        return counted(self.map.sessions, (s for r in self.records.values() for s in r.in_sync))


def counted(stores: Iterable[StoreId], found: Iterable[StoreId]) -> Counter[StoreId]:
    counts = Counter(dict.fromkeys(stores, 0))
    counts.update(found)
    return counts


def copied(before: dict[ShardId, ShardRecord], after: dict[ShardId, ShardRecord]) -> int:
    """Copies that were made."""
    return sum(len(set(after[s].in_sync) - set(before[s].in_sync)) for s in before)


def handed_over(before: dict[ShardId, ShardRecord], after: dict[ShardId, ShardRecord]) -> int:
    return sum(after[shard].owner != before[shard].owner for shard in before)


def keeps_redundancy(level: int) -> Check:
    """No shard has fewer members than `level` after any step."""

    def check(before: Map, after: Map) -> None:
        for shard, versioned in after.shards.items():
            assert len(versioned.record.in_sync) >= level, f"shard {shard} fell below {level}"

    return check


def keeps_data(before: Map, after: Map) -> None:
    """Some member of each in-sync set was one before, and an owner was always one (M8, F1)."""
    for shard, versioned in before.shards.items():
        new = after.shards[shard].record
        assert set(new.in_sync) & set(versioned.record.in_sync), f"shard {shard} lost its data"
        if new.owner != versioned.record.owner:
            assert new.owner in versioned.record.in_sync, f"shard {shard}: outsider promoted"
            assert new.owner in before.sessions, f"shard {shard}: a dead store promoted"
