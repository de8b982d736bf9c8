"""The coordination store in one process, with faults on order: for tests and the simulator.

One `FaultyRegistry` (`faulty_registry.py`) is the cluster's store; each node has its own
`MemoryCoordinator` in front of it. A request travels, is carried out, and its answer travels back,
each on the loop's clock, so that under a simulated loop a run is exactly repeatable. The `Fate` of each
request decides how long either way takes and whether it is lost. A client that gives up takes nothing
back: its request is carried out when it arrives (O2), be it because it was late or because the store was
frozen and thawed.

Everything that decides is in `core/registry.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from random import Random
from typing import TypeVar

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    OPERATIONS_MAX,
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
    is_gone,
)
from roost_node.core.registry import Registry
from roost_node.ownership.coordinator import (
    RACES_MAX,
    Coordinator,
    CoordinatorDownError,
    Hint,
    Relist,
    Restored,
    SessionGoneError,
    UnansweredError,
    check_config,
    check_format,
    check_raise,
)
from roost_node.ownership.election import Standing, campaign
from roost_node.ownership.faulty_registry import FaultyRegistry

T = TypeVar("T")


class Fate(msgspec.Struct, frozen=True):
    """What becomes of one request."""

    there_s: float = (
        0.0  # until it reaches the store; longer than the client waits: applied all the same
    )
    back_s: float = 0.0
    request_lost: bool = False
    answer_lost: bool = False


FAIR = Fate()

Weather = Callable[[str], Fate]
"""Decides the fate of a request by its kind: the method's name, or "hint"."""


def storm(random: Random, late: float, lost: float, slow_s: float) -> Weather:
    """Seeded: `late` of the requests take up to `slow_s` each way, `lost` of them lose one way."""

    def weather(_: str) -> Fate:
        slow = slow_s if random.random() < late else slow_s / 100
        there, back = random.random() * slow, random.random() * slow
        loses = random.random()
        return Fate(there, back, loses < lost / 2, lost / 2 <= loses < lost)

    return weather


class MemoryCoordinator(Coordinator):
    """One node's connection to a `FaultyRegistry`."""

    def __init__(
        self, store: FaultyRegistry, weather: Weather = lambda _: FAIR, request_s: float = 1.0
    ) -> None:
        self.is_cut = False
        """Cut this node, and only it, off the store."""
        self.restored: Restored | None = None
        self._store = store
        self._weather = weather
        self._request_s = request_s
        self._seen = 0
        self._infos: dict[SessionId, SessionInfo] = {}

    async def create(self, proposed: ClusterConfig) -> ClusterConfig:
        return check_config(
            proposed, await self._ask("create", lambda registry: registry.create(proposed))
        )

    async def open_session(self, info: SessionInfo, ttl_s: int) -> SessionId:
        def look(registry: Registry) -> SessionInfo | None:
            assert registry.config is not None, "a session before the cluster was created"
            check_format(info, registry.config)
            return registry.sessions.get(info.store)

        def register(registry: Registry) -> SessionInfo | None:
            if look(registry) != older:
                return None
            session = self._store.grant(info.store, ttl_s)
            registered = msgspec.structs.replace(info, session=session)
            registry.register(registered)
            return registered

        for _ in range(RACES_MAX):
            older = await self._ask_again("open_session", look)
            registered = await self._ask("open_session", register)
            if registered is not None:
                self._infos[registered.session] = registered
                return registered.session
        raise CoordinatorDownError(f"other runs of store {info.store} register at the same time")

    async def keep_alive(self, session: SessionId) -> bool:
        return await self._ask_again("keep_alive", lambda _: self._store.renew(session))

    async def update_session(self, info: SessionInfo) -> bool:
        def update(registry: Registry) -> bool:
            if is_gone(registry.sessions, info.store, info.session):
                return False
            registry.register(info)
            return True

        return await self._ask("update_session", update)

    async def close_session(self, session: SessionId) -> None:
        await self._ask("close_session", lambda _: self._store.end_session(session))

    async def apply(self, wanted: Transaction) -> Applied:
        assert wanted.operations <= OPERATIONS_MAX, "more than the store takes at once"
        return await self._ask("apply", lambda registry: registry.apply(wanted))

    async def read(self) -> Map:
        return await self._ask_again("read", lambda registry: registry.read())

    async def read_shards(self, shards: Sequence[ShardId]) -> dict[ShardId, Versioned]:
        def look(registry: Registry) -> dict[ShardId, Versioned]:
            return {n: registry.shards[n] for n in shards if n in registry.shards}

        return await self._ask_again("read_shards", look)

    async def write_death(self, death: DeathRecord) -> None:
        def write(registry: Registry) -> None:
            registry.resign(death.session)
            gone = is_gone(registry.sessions, death.store, death.session)
            reap = None if gone else registry.sessions[death.store]
            registry.apply(Transaction(reap=reap, death=death))

        await self._ask("write_death", write)

    async def drain(self, store: StoreId, wanted: bool) -> None:
        await self._ask("drain", lambda registry: registry.drain(store, wanted))

    async def pin(self, shard: ShardId, store: StoreId | None) -> None:
        await self._ask("pin", lambda registry: registry.pin(shard, store))

    async def changes(self, after: int) -> AsyncIterator[Hint]:
        async with contextlib.aclosing(self._watch(after)) as hints:
            async for hint in hints:
                yield hint

    async def _watch(self, after: int) -> AsyncGenerator[Hint, None]:
        breaks = self._store.breaks
        while True:
            if self.is_cut or not self._store.is_up or self._store.is_frozen:
                if self.is_cut or not self._store.is_up:
                    breaks = -1  # what comes back is another connection
                await asyncio.sleep(self._request_s / 10)
                continue
            revision = self._store.registry.revision
            lost: str | None = None
            if revision < after:
                lost = "restored"
                self._observe(revision, after)
            elif breaks != self._store.breaks:
                lost = "reconnected"
            elif after < self._store.compacted:
                lost = "compacted"
            if lost is not None:
                breaks, after = self._store.breaks, revision
                yield Relist(lost)
                continue
            hints = self._store.since(after)
            if not hints:
                await self._store.moved()
                continue
            fate = self._weather("hint")
            await asyncio.sleep(fate.back_s)
            if fate.answer_lost:
                breaks = -1
                continue
            for hint in hints:
                after = hint.revision
                yield hint

    async def campaign(self, session: SessionId) -> Leader:
        info = self._infos[session]

        def stand(registry: Registry) -> Standing:
            if is_gone(registry.sessions, info.store, session):
                raise SessionGoneError(f"session {session} of {info.store} cannot lead: it is gone")
            registry.campaign(Leader(info.store, session))
            return Standing(registry.controller, registry.revision)

        return await campaign(session, lambda: self._ask("campaign", stand), self._watch)

    async def leader(self) -> Leader | None:
        return await self._ask_again("leader", lambda registry: registry.controller)

    async def resign(self, session: SessionId) -> None:
        await self._ask("resign", lambda registry: registry.resign(session))

    async def raise_format_level(self, level: int) -> ClusterConfig:
        def raise_(registry: Registry) -> ClusterConfig:
            config = registry.config
            assert config is not None, "a format level before the cluster was created"
            if config.format_level < level:
                check_raise(level, registry.sessions)
                registry.config = config = msgspec.structs.replace(config, format_level=level)
                registry.revision += 1
            return config

        return await self._ask("raise_format_level", raise_)

    async def raise_generation(self, event: Event) -> ClusterConfig:
        return await self._ask(
            "raise_generation", lambda registry: registry.raise_generation(event)
        )

    async def events(self) -> list[Event]:
        found = await self._ask_again("events", lambda registry: dict(registry.events))
        return [found[name] for name in sorted(found)]

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _ask(self, kind: str, do: Callable[[Registry], T], changes: bool = True) -> T:
        """Send a request once. It is carried out when it arrives, whoever still waits for it."""
        if self.is_cut or not self._store.is_up:
            raise CoordinatorDownError(f"{kind}: the coordination store refuses connections")
        loop = asyncio.get_running_loop()
        fate, floor = self._weather(kind), self._seen
        answer: asyncio.Future[tuple[int, T]] = loop.create_future()

        def deliver(revision: int, result: T | None, error: Exception | None) -> None:
            if answer.done():
                return  # nobody waits any more
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result((revision, result))  # type: ignore[arg-type]  # T may be None

        def carry_out() -> None:
            result, error = None, None
            try:
                store = self._store
                result = store.change(do) if changes else do(store.registry)
            except Exception as refusal:
                error = refusal
            if not fate.answer_lost:
                revision = self._store.registry.revision
                loop.call_later(fate.back_s, deliver, revision, result, error)

        if not fate.request_lost:
            loop.call_later(
                fate.there_s,
                self._store.arrive,
                carry_out,
                self._store.restores,
                context=self._store.context,
            )
        try:
            async with asyncio.timeout(self._request_s):
                revision, result = await answer
        except TimeoutError:
            raise UnansweredError(
                f"{kind}: no answer from the coordination store within {self._request_s} s"
            ) from None
        self._observe(revision, floor)
        return result

    async def _ask_again(self, kind: str, do: Callable[[Registry], T]) -> T:
        """Send what changes nothing that matters, and may be asked twice."""
        try:
            return await self._ask(kind, do, changes=False)
        except UnansweredError as error:
            raise CoordinatorDownError(error.message) from None

    def _observe(self, revision: int, floor: int) -> None:
        """An answer given after one at `floor` cannot be older, unless the store went back (O7)."""
        if revision < floor:
            self.restored = Restored(floor, revision)
            self._seen = revision
        else:
            self._seen = max(self._seen, revision)
