"""Nodes with sessions and controllers over one store in memory, and owners that do what is wished for."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any

from roost.cluster.ids import HASH_NAME, ShardId
from roost_node.core.placement.plan import Situation, plan
from roost_node.core.placement.rehearsal import carry_out
from roost_node.core.placement.roster import Roster, named_in
from roost_node.core.placement.starts import Budgets
from roost_node.core.placement.wish import Change
from roost_node.core.record import (
    NO_SESSION,
    ClusterConfig,
    SessionInfo,
    ShardRecord,
    StoreId,
    Swap,
    Transaction,
)
from roost_node.core.session import Lost, Registered
from roost_node.ownership.controller import Controller, ControllerSettings
from roost_node.ownership.faulty_registry import FaultyRegistry
from roost_node.ownership.memory import FAIR, Fate, MemoryCoordinator
from roost_node.ownership.session import SessionLoop
from simulator.loop import simulate

TTL_S = 3
SOON_S = 0.5
"""Far less than a second: a look is due every 50 ms, and hints come at once."""


async def plan_here(situation: Situation, budgets: Budgets) -> tuple[Change, ...]:
    return plan(situation, budgets)


def now_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1000)


class Node:
    """A session, and a controller that campaigns under it."""

    def __init__(self, hall: TownHall, store: str, zone: str = "") -> None:
        self.store = StoreId(store)
        self.requests: Counter[str] = Counter()
        self.fates: dict[str, Fate] = {}
        self.weather: Callable[[str], Fate] | None = None
        self.coordinator = MemoryCoordinator(hall.store, self._fate, request_s=0.75)
        self.controller = Controller(
            self.coordinator,
            now_ms,
            generation=1,
            settings=hall.settings,
            planner=hall.planner,
            sizes=lambda: hall.sizes,
        )
        self._tasks = hall.tasks
        self._campaign: asyncio.Task[None] | None = None
        self.session = SessionLoop(
            self.coordinator,
            SessionInfo(self.store, NO_SESSION, f"{store}:1", zone=zone),
            TTL_S,
            self._on_session,
            now_ms,
            Random(store).random,
        )
        self._running = hall.tasks.create_task(self.session.run())

    def say(self, **news: Any) -> None:
        self.session.say(
            draining=bool(news.get("draining")),
            stopping=bool(news.get("stopping")),
            unreachable=tuple(map(StoreId, news.get("unreachable", ()))),
            stuck_on=tuple(map(StoreId, news.get("stuck_on", ()))),
        )

    def die(self) -> None:
        """Its session lasts until its lease is over."""
        self._running.cancel()
        if self._campaign is not None:
            self._campaign.cancel()

    def _fate(self, kind: str) -> Fate:
        self.requests[kind] += 1
        return self.fates.get(kind) or (self.weather(kind) if self.weather else FAIR)

    def _on_session(self, event: object) -> None:
        if isinstance(event, Registered):
            self._campaign = self._tasks.create_task(self.controller.run(event.session))
        elif isinstance(event, Lost) and self._campaign is not None:
            self._campaign.cancel()


class TownHall:
    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        settings: ControllerSettings | None = None,
        planner: Callable[..., Any] = plan_here,
    ) -> None:
        self.tasks = tasks
        self.settings = settings or ControllerSettings()
        self.planner = planner
        self.store = FaultyRegistry()
        self.sizes: dict[ShardId, int] = {}
        self.nodes: dict[str, Node] = {}
        self.history: list[tuple[ShardId, ShardRecord | None, ShardRecord]] = []
        self.steps: Callable[[], None] = lambda: None

    def join(self, store: str, zone: str = "") -> Node:
        node = self.nodes[store] = Node(self, store, zone)
        return node

    async def join_all(self, *stores: str) -> None:
        for store in stores:
            self.join(store)
        await self.are_here(*stores)
        await self.eventually(self.is_at_rest)

    async def are_here(self, *stores: str) -> None:
        await self.eventually(lambda: set(stores) <= set(self.store.registry.sessions))

    def kill(self, store: str) -> None:
        """As when a supervisor saw it die: its session ends at once."""
        self.nodes.pop(store).die()
        self.store.end_session(self.store.registry.sessions[StoreId(store)].session)

    @property
    def records(self) -> dict[ShardId, ShardRecord]:
        return {shard: v.record for shard, v in self.store.registry.shards.items()}

    @property
    def owners(self) -> Counter[str]:
        return Counter(record.owner for record in self.records.values())

    @property
    def leaders(self) -> list[str]:
        return [name for name, node in self.nodes.items() if node.controller.is_leader]

    @property
    def leader(self) -> Node:
        assert self.store.registry.controller is not None
        return self.nodes[self.store.registry.controller.store]

    def changes_sent(self) -> int:
        return sum(node.requests["apply"] for node in self.nodes.values())

    def is_owned(self) -> bool:
        """Every shard has an owner whose session lives."""
        registry = self.store.registry
        config = registry.config
        assert config is not None
        sessions = registry.sessions
        return len(registry.shards) == config.shards and all(
            record.owner in sessions and sessions[record.owner].session == record.session
            for record in self.records.values()
        )

    def is_at_rest(self) -> bool:
        """... and nothing is left to do for anybody."""
        if not self.is_owned():
            return False
        situation = self._situation()
        return (
            plan(situation, self.settings.budgets) == ()
            and carry_out(situation, ()).map == situation.map
        )

    async def eventually(self, condition: Callable[[], bool], within_s: float = 60) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.01)

    async def owners_act(self) -> None:
        """Perfect owners: learners catch up in a tenth of a second."""
        while True:
            await asyncio.sleep(0.1)
            if self.store.registry.shards and self.store.is_up and not self.store.is_frozen:
                situation = self._situation()
                after = carry_out(situation, ()).map.shards
                for shard, versioned in situation.map.shards.items():
                    if after[shard] != versioned:
                        self.put(shard, after[shard].record)

    def put(self, shard: ShardId, record: ShardRecord) -> None:
        """By whoever owns the shard."""
        revision = self.store.registry.shards[shard].revision
        wanted = Transaction((Swap(shard, revision, record),))
        assert self.store.change(lambda registry: registry.apply(wanted)).succeeded

    async def watch_records(self) -> None:
        """Every state of a shard, as it is reached."""
        before: dict[ShardId, ShardRecord] = {}
        while True:
            after = self.records
            for shard, record in after.items():
                if before.get(shard) != record:
                    self.history.append((shard, before.get(shard), record))
            before = after
            await self.store.moved()

    def _situation(self) -> Situation:
        found, roster = self.store.registry.read(), Roster()
        roster.on_map(found.sessions, named_in(found), 0)
        return Situation(found, roster.places(0))


@contextlib.asynccontextmanager
async def a_hall(shards: int, **more: Any) -> AsyncIterator[TownHall]:
    async with asyncio.TaskGroup() as tasks:
        hall = TownHall(tasks, **more)
        hall.store.registry.create(ClusterConfig("one", shards, b"seed", HASH_NAME))
        acting = [
            tasks.create_task(hall.owners_act()),
            tasks.create_task(hall.watch_records()),
        ]
        yield hall
        for node in hall.nodes.values():
            node.die()
        for task in acting:
            task.cancel()


def story(
    run: Callable[[TownHall], Coroutine[Any, Any, None]], shards: int = 24, **more: Any
) -> None:
    async def whole() -> None:
        async with a_hall(shards, **more) as hall:
            await run(hall)

    simulate(whole())
