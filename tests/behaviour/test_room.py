"""Live objects are bounded: in number, in encoded size, and by the memory of the process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import roost
from behaviour.conftest import Run
from roost import DeactivationReason, DurableObject, method
from roost.client import Cluster
from roost_node.embedded import Embedded
from roost_node.host.keeper import Keeper
from roost_node.host.loader import specs_of
from roost_node.host.memory import Memory
from roost_node.node import Node

SIZE = 50_000


class Blob(DurableObject):
    data: str = ""
    left: str = ""

    async def fill(self, size: int) -> None:
        self.data = "x" * size

    @method(read_only=True)
    async def size(self) -> int:
        return len(self.data)

    async def hold(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return len(self.data)


class Number(DurableObject, idle_after=0.01):
    value: int = 0

    async def add(self) -> int:
        self.value += 1
        return self.value


class Watched(Blob):
    async def on_deactivate(self, reason: DeactivationReason) -> None:
        self.left = reason.value

    @method(read_only=True)
    async def why(self) -> str:
        return self.left


def test_objects_over_the_bound_of_bytes_leave_coldest_first(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        for number in range(60):  # 3 MB, of which 1 MiB may be live
            await cluster.object(Blob, f"{number}").fill(SIZE)
        assert (await cluster.status()).activations <= 21
        live = {info.key async for info in cluster.objects(Blob) if info.live}
        assert "59" in live
        assert "0" not in live
        for number in range(60):
            assert await cluster.object(Blob, f"{number}").size() == SIZE
        assert (await cluster.status()).activations <= 21

    run(scenario, Blob, live_bytes_max=2**20)


def test_objects_that_grow_push_others_out(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        stubs = [cluster.object(Blob, f"{number}") for number in range(60)]
        await asyncio.gather(*(stub.fill(1) for stub in stubs))
        assert (await cluster.status()).activations == 60
        for stub in stubs:
            await stub.fill(SIZE)
        while (await cluster.status()).activations > 21:
            await asyncio.sleep(0.02)
        assert [await stub.size() for stub in stubs] == [SIZE] * 60

    run(scenario, Blob, live_bytes_max=2**20)


def test_an_object_pushed_out_is_told_why(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        for number in range(10):
            await cluster.object(Watched, f"{number}").fill(1)
        assert await cluster.object(Watched, "0").why() == "memory"

    run(scenario, Watched, activations_max=3)


def test_one_more_object_comes_in_while_all_others_are_busy(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        busy = [asyncio.ensure_future(cluster.object(Blob, f"{n}").hold(30)) for n in range(3)]
        while (await cluster.status()).calls_running < 3:
            await asyncio.sleep(0.01)
        for number in range(20):
            assert await cluster.object(Blob, f"idle-{number}").hold(0) == 0
        assert (await cluster.status()).activations <= 4
        for call in busy:
            call.cancel()
        await asyncio.gather(*busy, return_exceptions=True)

    run(scenario, Blob, activations_max=1)


def test_calls_go_on_after_memory_was_given_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    give_back = Memory.give_back

    def counted(memory: Memory, left: int) -> None:
        give_back(memory, left)
        given.append(left)

    monkeypatch.setattr(Memory, "give_back", counted)
    monkeypatch.setattr("roost_node.host.keeper.TRIM_LAST", 5)

    async def scenario(cluster: Cluster) -> None:
        numbers = [cluster.object(Number, f"{number}") for number in range(20)]
        for round_ in range(1, 4):
            seen = len(given)
            assert await asyncio.gather(*(number.add() for number in numbers)) == [round_] * 20
            while (await cluster.status()).activations or len(given) == seen:
                await asyncio.sleep(0.02)

    run(scenario, Number)


def test_short_of_memory_only_live_objects_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2**30
    resident = [limit // 2]
    monkeypatch.setattr(Keeper, "resident_bytes", lambda self: resident[0])

    async def scenario() -> None:
        link = Embedded(None)
        from roost_node.config import Limits

        limits = Limits(memory_bytes_max=limit)
        link.node = Node(tmp_path, specs_of([Blob]), link.on_fatal, limits=limits)
        await link.node.__aenter__()
        async with Cluster(link) as cluster:
            held = asyncio.ensure_future(cluster.object(Blob, "live").hold(0.5))
            await cluster.object(Blob, "idle").fill(1)
            resident[0] = limit * 91 // 100
            while link.node.host.refuse_cold is None:
                await asyncio.sleep(0.01)
            assert (await cluster.status()).activations == 1  # what was idle has left
            cold = roost.options(cluster.object(Blob, "cold"), timeout=0.1)
            with pytest.raises(roost.OverloadedError, match="of memory") as caught:
                await cold.size()
            assert caught.value.took_effect == "no"
            assert caught.value.retry_after_s > 0
            assert await cluster.object(Blob, "live").size() == 0
            await held
            resident[0] = limit // 2
            assert await cluster.object(Blob, "cold").size() == 0  # tried again until there is room

    asyncio.run(asyncio.wait_for(scenario(), 30))
