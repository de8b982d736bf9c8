"""The faults that the simulator orders from the store in memory do what they say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from coordination.test_contract import CONFIG, EIGHT, SEVEN, TTL_S, A, B, first, info, record, swap
from roost_node.core.record import ClusterConfig, Leader, Swap, Transaction
from roost_node.ownership.coordinator import (
    Changed,
    CoordinatorDownError,
    Relist,
    Restored,
    UnansweredError,
)
from roost_node.ownership.faulty_registry import FaultyRegistry
from roost_node.ownership.memory import FAIR, Fate, MemoryCoordinator, storm
from simulator.loop import simulate


class World:
    """A store, one client in weather that a test sets, and one in fair weather."""

    def __init__(self) -> None:
        self.fate = FAIR
        self.store = FaultyRegistry()
        self.node = MemoryCoordinator(self.store, lambda _: self.fate)
        self.other = MemoryCoordinator(self.store)


def story(run: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        world = World()
        await world.other.create(CONFIG)
        await run(world)

    simulate(whole())


@pytest.mark.parametrize("fate", [Fate(there_s=5), Fate(back_s=5), Fate(answer_lost=True)])
def test_a_request_whose_client_gave_up_is_carried_out_all_the_same(fate: Fate) -> None:
    async def run(world: World) -> None:
        world.fate = fate
        with pytest.raises(UnansweredError):
            await world.node.apply(Transaction((swap(SEVEN, 0, 1),)))
        is_late = fate.there_s > 1
        assert (SEVEN in (await world.other.read()).shards) is not is_late, (
            "O2: a read proves nothing"
        )
        await asyncio.sleep(10)
        assert (await world.other.read()).shards[SEVEN].record == record(1)

    story(run)


def test_a_late_request_fails_when_what_it_compared_has_moved() -> None:
    async def run(world: World) -> None:
        applied = await world.other.apply(Transaction((swap(SEVEN, 0, 1),)))
        world.fate = Fate(there_s=5)
        with pytest.raises(UnansweredError):
            await world.node.apply(Transaction((swap(SEVEN, applied.revision, 2, B),)))
        touched = Transaction((Swap(SEVEN, applied.revision, record(1, nonce=1)),))
        assert (await world.other.apply(touched)).succeeded
        await asyncio.sleep(10)
        assert (await world.other.read()).shards[SEVEN].record == record(1, nonce=1)

    story(run)


def test_a_lost_request_is_never_carried_out_and_looks_just_the_same() -> None:
    async def run(world: World) -> None:
        world.fate = Fate(request_lost=True)
        with pytest.raises(UnansweredError):
            await world.node.apply(Transaction((swap(SEVEN, 0, 1),)))
        with pytest.raises(CoordinatorDownError):
            await world.node.read()
        await asyncio.sleep(100)
        assert (await world.other.read()).shards == {}

    story(run)


def test_a_frozen_store_carries_out_what_came_when_it_thaws() -> None:
    async def run(world: World) -> None:
        session = await world.node.open_session(info(A), TTL_S)
        world.store.freeze()
        with pytest.raises(UnansweredError):
            await world.node.apply(Transaction((swap(SEVEN, 0, 1),)))
        await asyncio.sleep(100)
        world.store.resume()
        after = await world.other.read()
        assert after.shards[SEVEN].record == record(1)
        assert after.sessions[A].session == session, "leases start anew"

    story(run)


def test_a_store_that_is_down_refuses_at_once_and_keeps_everything() -> None:
    async def run(world: World) -> None:
        session = await world.node.open_session(info(A), TTL_S)
        await world.node.apply(Transaction((swap(SEVEN, 0, 1),)))
        start = (await world.node.read()).revision
        async with contextlib.aclosing(world.node.changes(start)) as hints:  # type: ignore[type-var]
            world.store.stop()
            with pytest.raises(CoordinatorDownError):
                await world.node.apply(Transaction((swap(EIGHT, 0, 1),)))
            with pytest.raises(CoordinatorDownError):
                await world.node.keep_alive(session)
            asyncio.get_running_loop().call_later(60, world.store.resume)
            assert await first(hints, lambda _: True, within_s=100) == Relist("reconnected")
        after = await world.node.read()
        assert set(after.shards) == {SEVEN}
        assert await world.node.keep_alive(session)

    story(run)


def test_one_client_can_be_cut_off_alone() -> None:
    async def run(world: World) -> None:
        start = (await world.node.read()).revision
        world.node.is_cut = True
        with pytest.raises(CoordinatorDownError):
            await world.node.read()
        await world.other.apply(Transaction((swap(SEVEN, 0, 1),)))
        hints = world.node.changes(start)
        asyncio.get_running_loop().call_later(5, setattr, world.node, "is_cut", False)
        assert isinstance(await first(hints, lambda _: True), Relist)

    story(run)


def test_hints_may_be_late_or_lost_but_never_silently() -> None:
    async def run(world: World) -> None:
        start = (await world.node.read()).revision
        world.fate = Fate(back_s=3)
        hints = world.node.changes(start)
        await world.other.apply(Transaction((swap(SEVEN, 0, 1),)))
        assert isinstance(await first(hints, lambda _: True), Changed)
        world.fate = Fate(answer_lost=True)
        await world.other.apply(Transaction((swap(EIGHT, 0, 1),)))
        assert isinstance(await first(hints, lambda _: True), Relist)

    story(run)


def test_a_store_restored_from_a_backup_is_noticed_by_reads_and_watches() -> None:
    async def run(world: World) -> None:
        backup = world.store.backup()
        seen = 0
        for epoch in range(1, 6):
            seen = (await world.node.apply(Transaction((swap(SEVEN, seen, epoch),)))).revision
        hints = world.node.changes((await world.node.read()).revision)
        waiting = asyncio.ensure_future(first(hints, lambda _: True))
        await asyncio.sleep(1)
        world.store.restore(backup)
        assert await waiting == Relist("restored")
        after = await world.node.read()
        assert after.shards == {}, "the answer is what the store says"
        assert world.node.restored == Restored(seen, after.revision)
        assert world.other.restored is None, "it had seen nothing newer"
        await world.other.apply(Transaction((swap(SEVEN, 0, 1),)))
        await first(hints, lambda h: isinstance(h, Changed) and h.shards == (SEVEN,))

    story(run)


def test_a_restore_brings_sessions_back_with_a_lease_and_never_gives_their_numbers_twice() -> None:
    async def run(world: World) -> None:
        ended = await world.node.open_session(info(A), TTL_S)
        backup = world.store.backup()
        world.store.end_session(ended)
        newer = await world.other.open_session(info(A), TTL_S)
        world.store.restore(backup)
        assert (await world.other.read()).sessions[A].session == ended
        assert not await world.other.keep_alive(newer), "it never was"
        assert await world.node.open_session(info(B), 100) > newer
        await asyncio.sleep(2 * TTL_S)
        assert set((await world.other.read()).sessions) == {B}, "nobody kept it alive"

    story(run)


def test_what_is_under_way_when_a_backup_is_restored_never_arrives() -> None:
    async def run(world: World) -> None:
        backup = world.store.backup()
        world.fate = Fate(there_s=5)
        with pytest.raises(UnansweredError):
            await world.node.apply(Transaction((swap(SEVEN, 0, 1),)))
        world.store.restore(backup)
        await asyncio.sleep(10)
        assert (await world.other.read()).shards == {}, "its connection ended with the old store"

    story(run)


def test_answers_that_overtake_each_other_are_no_sign_of_a_restore() -> None:
    async def run(world: World) -> None:
        world.fate = Fate(back_s=0.9)
        async with asyncio.TaskGroup() as tasks:
            slow = tasks.create_task(world.node.read())
            await asyncio.sleep(0.1)
            world.fate = FAIR
            applied = await world.node.apply(Transaction((swap(SEVEN, 0, 1),)))
        assert slow.result().revision < applied.revision
        assert world.node.restored is None

    story(run)


def test_who_is_elected_by_a_lost_request_finds_out() -> None:
    async def run(world: World) -> None:
        session = await world.node.open_session(info(A), TTL_S)
        world.fate = Fate(answer_lost=True)
        asyncio.get_running_loop().call_later(2, setattr, world, "fate", FAIR)
        assert await world.node.campaign(session) == Leader(A, session)
        assert await world.other.leader() == Leader(A, session)

    story(run)


def test_a_seed_decides_everything() -> None:
    def once(seed: int) -> list[str]:
        told: list[str] = []

        async def whole() -> None:
            store = FaultyRegistry()
            fair = MemoryCoordinator(store)
            await fair.create(ClusterConfig("one", 16, b"", "h"))
            node = MemoryCoordinator(store, storm(Random(seed), late=0.3, lost=0.3, slow_s=3))
            for n in range(40):
                try:
                    told.append(str(await node.apply(Transaction((swap(SEVEN, 0, n),)))))
                except UnansweredError:
                    told.append(f"unanswered at {asyncio.get_running_loop().time():.9f}")
            told.append(str(await fair.read()))

        simulate(whole())
        return told

    assert once(7) == once(7)
    assert once(7) != once(8)
    assert any("unanswered" in line for line in once(7))
