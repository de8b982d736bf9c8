"""Calls that come back to an object whose readers are of their own chain: who may change what."""

from __future__ import annotations

import asyncio

import pytest

import roost
from behaviour.conftest import Run
from roost import DurableObject, method


class Ledger(DurableObject):
    items: list[int] = []
    _writer_is_inside: bool = False
    _may_go: bool = False
    _ended: str = ""

    @method(read_only=True)
    async def get(self) -> tuple[list[int], int]:
        return self.items, self.ctx.storage.get("row", 0)

    @method(read_only=True)
    async def change_then_ask(self, other: str, me: str) -> list[int]:
        self.items.append(99)
        return await self.ctx.object(Ledger, other).ask(me)

    @method(read_only=True)
    async def change_while_asking(self, other: str, me: str) -> list[int]:
        items = self.items
        pending = asyncio.ensure_future(self.ctx.object(Ledger, other).ask(me, wait=True))
        while not self._writer_is_inside:
            await asyncio.sleep(0.002)
        items.append(99)
        self._may_go = True
        return await pending

    @method(read_only=True)
    async def fail_while_asking(self, other: str, me: str) -> None:
        self._pending = asyncio.ensure_future(self.ctx.object(Ledger, other).ask(me, wait=True))
        while not self._writer_is_inside:
            await asyncio.sleep(0.002)
        asyncio.get_running_loop().call_later(0.1, setattr, self, "_may_go", True)
        raise ValueError("the reader ends before its child does")

    async def ask(self, who: str, wait: bool = False) -> list[int]:
        return await self.ctx.object(Ledger, who).enter(wait)

    @method(read_only=True)
    async def ask_in_stretches(self, other: str, me: str) -> list[int]:
        return await self.ctx.object(Ledger, other).ask_for_stretches(me)

    async def ask_for_stretches(self, who: str) -> list[int]:
        return await self.ctx.object(Ledger, who).enter_in_stretches()

    @method(reentrant=True)
    async def enter(self, wait: bool) -> list[int]:
        self.items.append(1)
        self._writer_is_inside = True
        while wait and not self._may_go:
            await asyncio.sleep(0.002)
        self.ctx.storage.put("row", len(self.items))
        return self.items

    @method(reentrant=True, interleave=True)
    async def enter_in_stretches(self) -> list[int]:
        for number in range(3):
            self.items.append(number)
            await asyncio.sleep(0.002)
        return self.items

    @method(read_only=True)
    async def change_between_stretches(self, other: str, me: str) -> None:
        pending = asyncio.ensure_future(self.ctx.object(Ledger, other).ask_for_stretches(me))

        async def meddle() -> None:
            while not pending.done():
                self.items.append(99)
                await asyncio.sleep(0.001)

        await asyncio.gather(pending, meddle())

    @method(read_only=True)
    async def change_and_wait(self) -> None:
        self.items.append(99)
        while not self._may_go:
            await asyncio.sleep(0.002)

    @method(read_only=True)
    async def let_go(self) -> list[int]:
        self._may_go = True
        return self.items


def test_what_a_read_only_ancestor_changed_in_place_is_not_committed_by_its_writer(
    run: Run,
) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ledger = cluster.object(Ledger, "a")
        with pytest.raises(roost.ReadOnlyError, match="'items' in place"):
            await ledger.change_then_ask("b", "a")
        assert await ledger.get() == ([1], 1)

    run(scenario, Ledger)


def test_what_a_read_only_ancestor_holds_is_no_alias_of_what_its_writer_writes(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ledger = cluster.object(Ledger, "a")
        assert await ledger.change_while_asking("b", "a") == [1]
        assert await ledger.get() == ([1], 1)

    run(scenario, Ledger)


def test_a_read_only_ancestor_that_fails_takes_nothing_from_its_writer(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ledger = cluster.object(Ledger, "a")
        with pytest.raises(roost.ObjectError, match="before its child does"):
            await ledger.fail_while_asking("b", "a")
        assert await ledger.get() == ([1], 1)  # waits for the writer: all of it, or nothing

    run(scenario, Ledger)


def test_a_reentrant_call_in_stretches_comes_back_beside_its_reader(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ledger = roost.options(cluster.object(Ledger, "a"), timeout=10.0)
        assert await ledger.ask_in_stretches("b", "a") == [0, 1, 2]
        assert await ledger.get() == ([0, 1, 2], 0)

    run(scenario, Ledger)


def test_what_a_reader_changes_between_the_stretches_of_its_writer_is_undone(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ledger = roost.options(cluster.object(Ledger, "a"), timeout=10.0)
        with pytest.raises(roost.ReadOnlyError, match="'items' in place"):
            await ledger.change_between_stretches("b", "a")
        assert await ledger.get() == ([0, 1, 2], 0)

    run(scenario, Ledger)


def test_a_reader_is_not_blamed_for_what_another_one_changed(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ledger = cluster.object(Ledger, "a")
        guilty = asyncio.ensure_future(cluster.object(Ledger, "a").change_and_wait())
        while (await cluster.status()).calls_running < 1:
            await asyncio.sleep(0.005)
        assert await ledger.let_go() == []
        with pytest.raises(roost.ReadOnlyError, match="'items' in place"):
            await guilty
        assert await ledger.get() == ([], 0)

    run(scenario, Ledger)
