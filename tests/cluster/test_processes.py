"""Real nodes, real etcd, real faults: no client sees an error, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

import roost
from cluster.app import Counter
from cluster.processes import Processes, running_cluster
from cluster.whole import is_whole, status
from roost_node.storage.rocks import RocksStore

KEYS = 24
UP_S = 60
TIMEOUT_S = 60.0  # of a call: faults are to show as pauses, not as errors


class Load:
    """Each caller increments its own counter, one call after another, and checks each answer."""

    def __init__(self, name: str = "key") -> None:
        self._name = name
        self.counts = [0] * KEYS
        self.wrong: list[str] = []
        self.pause_s = 0.0
        self._done = False

    def _key(self, number: int) -> str:
        return f"{self._name}-{number}"

    async def _caller(self, cluster: roost.Cluster, number: int) -> None:
        counter = cluster.object(Counter, self._key(number))
        while not self._done:
            started = time.monotonic()
            try:
                value = await counter.increment()
            except roost.RoostError as error:
                self.wrong.append(f"{self._key(number)}: {error!r}")
                return
            self.pause_s = max(self.pause_s, time.monotonic() - started)
            if value != self.counts[number] + 1:
                self.wrong.append(f"{self._key(number)}: {value} after {self.counts[number]}")
            self.counts[number] = value

    @contextlib.asynccontextmanager
    async def on(self, cluster: roost.Cluster) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for number in range(KEYS):
                tasks.create_task(self._caller(cluster, number))
            await self.moves_on()
            yield
            await self.moves_on()
            self._done = True
        for number in range(KEYS):
            value = await cluster.object(Counter, self._key(number)).get()
            if value != self.counts[number]:
                self.wrong.append(
                    f"{self._key(number)}: {value}, acknowledged {self.counts[number]}"
                )
        assert not self.wrong, self.wrong[:5]

    async def moves_on(self) -> None:
        """Every caller is answered anew."""
        before = list(self.counts)
        async with asyncio.timeout(UP_S):
            while not self.wrong and any(
                now < was + 3 for now, was in zip(self.counts, before, strict=True)
            ):
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def connected(
    processes: Processes, *names: str, direct: bool = False
) -> AsyncIterator[roost.Cluster]:
    end = time.monotonic() + UP_S
    while True:
        try:
            async with roost.connect(
                *map(processes.address, names), timeout=TIMEOUT_S, direct=direct
            ) as cluster:
                yield cluster
                return
        except roost.UnavailableError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)


def play(folder: Path, story: Callable[[Processes, roost.Cluster, Load], Awaitable[None]]) -> None:
    """Three nodes and a router, callers at work, and a story of faults."""
    with running_cluster(folder, "a", "b", "c") as processes:
        processes.start_router("router", "a", "b", "c")

        async def run() -> None:
            load = Load()
            async with connected(processes, "router") as cluster, load.on(cluster):
                await story(processes, cluster, load)

        try:
            asyncio.run(run())
        except BaseException as error:
            for name in ("a", "b", "c", "router"):
                error.add_note(f"-- {name}\n{processes.log(name)[-3000:]}")
            raise


def test_a_node_is_killed_and_comes_back(tmp_path: Path) -> None:
    async def story(processes: Processes, cluster: roost.Cluster, load: Load) -> None:
        for victim in ("b", "a"):
            processes.end(victim, signal.SIGKILL)
            await load.moves_on()
            processes.start_node(victim)
            await load.moves_on()
            await whole_again(processes)

    play(tmp_path, story)


def test_nodes_are_stopped_one_after_another(tmp_path: Path) -> None:
    async def story(processes: Processes, cluster: roost.Cluster, load: Load) -> None:
        for node in ("a", "b", "c"):
            ended = await asyncio.to_thread(processes.end, node, signal.SIGTERM)
            assert ended == 0
            processes.start_node(node)
            await load.moves_on()
            await whole_again(processes)

    play(tmp_path, story)


def test_a_fourth_node_joins_and_a_frozen_one_thaws(tmp_path: Path) -> None:
    async def story(processes: Processes, cluster: roost.Cluster, load: Load) -> None:
        processes.start_node("d")
        await until(lambda: "own shard" in processes.log("d"))
        await load.moves_on()
        processes.signal("a", signal.SIGSTOP)
        await load.moves_on()
        processes.signal("a", signal.SIGCONT)
        await load.moves_on()

    play(tmp_path, story)


def test_everything_goes_on_while_etcd_is_down(tmp_path: Path) -> None:
    async def story(processes: Processes, cluster: roost.Cluster, load: Load) -> None:
        processes.etcd.kill()
        end = time.monotonic() + 8  # longer than any lease
        while time.monotonic() < end:
            await load.moves_on()
        processes.etcd.start()
        await load.moves_on()

    play(tmp_path, story)


def test_objects_call_objects_of_other_nodes(tmp_path: Path) -> None:
    async def story(processes: Processes, cluster: roost.Cluster, load: Load) -> None:
        for number in range(16):
            sender = cluster.object(Counter, f"from-{number}")
            assert await sender.forward(f"to-{number}") == 1
            assert await sender.read_steps(f"of-{number}", 300) == sum(range(300))
            assert await cluster.object(Counter, f"to-{number}").get() == 1

    play(tmp_path, story)


def test_the_objects_of_a_node_alone_are_the_beginning_of_a_cluster(tmp_path: Path) -> None:
    names = ("a", "b", "c")

    async def alone() -> None:
        async with roost.local(Counter, path=tmp_path / "a") as cluster:
            for number in range(KEYS):
                for _ in range(number + 1):
                    await cluster.object(Counter, f"kept-{number}").increment()

    async def there(cluster: roost.Cluster) -> None:
        for number in range(KEYS):
            assert await cluster.object(Counter, f"kept-{number}").get() == number + 1

    async def story(processes: Processes) -> None:
        load = Load()
        async with connected(processes, "router") as cluster:
            await there(cluster)
            async with load.on(cluster):
                await whole_again(processes, *names)
                await load.moves_on()
                processes.end("a", signal.SIGKILL)
                await load.moves_on()
                await there(cluster)
        with pytest.raises(roost.StoreError, match="is a store of cluster"):
            async with roost.local(Counter, path=tmp_path / "a"):
                pass

    RocksStore.open(tmp_path / "a", shards=16).close()
    asyncio.run(alone())
    with running_cluster(tmp_path, "a") as processes:
        asyncio.run(until(lambda: "serving" in processes.log("a")))
        for name in ("b", "c"):
            processes.start_node(name)
        processes.start_router("router", *names)
        try:
            asyncio.run(story(processes))
        except BaseException as error:
            for name in names:
                error.add_note(f"-- {name}\n{processes.log(name)[-3000:]}")
            raise


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(UP_S):
        while not condition():
            await asyncio.sleep(0.05)


async def whole_again(processes: Processes, *names: str) -> None:
    """Nothing of a fault is left, or the next one would be the second at a time."""
    addresses = [processes.address(node) for node in names or ("a", "b", "c")]
    async with asyncio.timeout(UP_S):
        while True:
            with contextlib.suppress(roost.RoostError):
                if is_whole(await status(addresses), addresses):
                    return
            await asyncio.sleep(0.1)
