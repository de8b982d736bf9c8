"""The session's loop over a store that fails, in simulated time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from random import Random
from typing import Any

import pytest

from coordination.places import until
from coordination.test_contract import CONFIG, A, B, C, info
from roost_node.core.record import NO_SESSION, Transaction
from roost_node.core.session import Confirmed, Doubted, Lost, Registered
from roost_node.ownership.coordinator import CoordinatorRefusedError
from roost_node.ownership.faulty_registry import FaultyRegistry
from roost_node.ownership.memory import FAIR, MemoryCoordinator, storm
from roost_node.ownership.session import SessionLoop
from simulator.loop import simulate

TTL_S = 3


class Node:
    def __init__(self, store: FaultyRegistry) -> None:
        self.store = store
        self.told: list[Any] = []
        self.coordinator = MemoryCoordinator(store, request_s=0.75)
        self.loop = SessionLoop(
            self.coordinator,
            info(A),
            TTL_S,
            self.told.append,
            lambda: int(asyncio.get_running_loop().time() * 1000),
            Random(1).random,
        )

    def kinds(self) -> list[type]:
        return [type(effect) for effect in self.told]


@contextlib.asynccontextmanager
async def a_node() -> AsyncIterator[Node]:
    store = FaultyRegistry()
    node = Node(store)
    await node.coordinator.create(CONFIG)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(node.loop.run())
        await eventually(lambda: node.loop.session != NO_SESSION)
        yield node
        running.cancel()


async def eventually(condition: Callable[[], bool], within_s: float = 60) -> None:
    async def holds() -> bool:
        return condition()

    await until(holds, within_s)


def story(run: Callable[[Node], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with a_node() as node:
            await run(node)

    simulate(whole())


def test_a_session_lasts_as_long_as_its_process() -> None:
    async def run(node: Node) -> None:
        await asyncio.sleep(600)
        assert node.kinds() == [Registered]
        assert node.loop.is_certain()
        assert node.loop.answered_within(1000)

    story(run)


def test_it_survives_an_outage_of_the_store_and_says_that_it_doubts() -> None:
    async def run(node: Node) -> None:
        session = node.loop.session
        node.store.stop()
        await asyncio.sleep(600)
        assert node.kinds() == [Registered, Doubted]
        assert not node.loop.is_certain()
        assert not node.loop.answered_within(1000)
        node.store.resume()
        await eventually(node.loop.is_certain)
        assert node.kinds() == [Registered, Doubted, Confirmed]
        assert node.loop.session == session  # F3

    story(run)


def test_cut_off_alone_it_finds_its_session_gone_and_registers_anew() -> None:
    async def run(node: Node) -> None:
        session = node.loop.session
        node.coordinator.is_cut = True
        await eventually(lambda: A not in node.store.registry.sessions)
        await asyncio.sleep(10)
        assert node.kinds() == [Registered, Doubted], "nobody can tell it"
        node.coordinator.is_cut = False
        await eventually(lambda: len(node.told) == 4)
        assert node.kinds() == [Registered, Doubted, Lost, Registered]  # O4
        assert node.loop.session != session

    story(run)


def test_a_revoked_session_is_noticed_by_the_next_renewal_or_by_a_read_before() -> None:
    async def run(node: Node) -> None:
        other = MemoryCoordinator(node.store)
        for by_read in (False, True):
            before, count = node.loop.session, len(node.told)
            seen = await other.read()
            await other.apply(Transaction(reap=seen.sessions[A]))
            if by_read:
                node.loop.see((await other.read()).sessions, before)
                assert node.kinds()[-1] is Lost, "at once, before anything else runs"
                node.loop.see((await other.read()).sessions, before)
            await eventually(lambda: len(node.told) == count + 2)  # noqa: B023
            assert node.kinds()[-2:] == [Lost, Registered]
            assert node.store.registry.sessions[A].session == node.loop.session != before
            await asyncio.sleep(10)

    story(run)


def test_what_it_has_to_say_arrives_late_rather_than_never_and_outlives_the_session() -> None:
    async def run(node: Node) -> None:
        node.store.stop()
        node.loop.say(draining=True, stopping=False, unreachable=(B, C), stuck_on=(B,))
        await asyncio.sleep(5)
        node.store.resume()
        await eventually(lambda: node.store.registry.sessions[A].draining)
        said = node.store.registry.sessions[A]
        assert (said.unreachable, said.stuck_on) == ((B, C), (B,))
        node.store.end_session(node.loop.session)
        await eventually(lambda: A in node.store.registry.sessions)
        there = node.store.registry.sessions[A]
        assert (there.draining, there.unreachable, there.stuck_on) == (True, (), ()), "all but F2"
        assert there.session == node.loop.session

    story(run)


def test_closing_ends_the_session_at_once() -> None:
    async def run(node: Node) -> None:
        node.loop.say(draining=False, stopping=True, unreachable=(), stuck_on=())
        await eventually(lambda: node.store.registry.sessions[A].stopping)
        await node.loop.close()
        assert node.store.registry.sessions == {}

    story(run)


def test_a_store_that_refuses_the_first_session_ends_the_process() -> None:
    async def whole() -> None:
        store = FaultyRegistry()
        node = Node(store)
        await node.coordinator.create(CONFIG)
        await node.coordinator.raise_format_level(2)
        with pytest.raises(CoordinatorRefusedError, match="newer build"):
            await node.loop.run()

    simulate(whole())


@pytest.mark.parametrize("seed", range(20))
def test_in_any_weather_it_never_believes_in_a_session_that_had_run_out(seed: int) -> None:
    async def whole() -> None:
        random = Random(seed)
        store = FaultyRegistry()
        node = Node(store)
        await node.coordinator.create(CONFIG)
        node.coordinator._weather = storm(random, late=0.3, lost=0.3, slow_s=2.0)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(node.loop.run())
            for _ in range(2000):
                await asyncio.sleep(random.random() / 10)
                there = store.registry.sessions.get(A)
                if node.loop.is_certain():
                    assert there is not None
                    assert there.session == node.loop.session
                if random.random() < 0.002:
                    node.coordinator.is_cut = not node.coordinator.is_cut
            node.coordinator._weather, node.coordinator.is_cut = lambda _: FAIR, False
            await eventually(node.loop.is_certain)
            running.cancel()

    simulate(whole())
