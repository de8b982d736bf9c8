"""`roost node` as it is run in service: a parent that starts the node again, and proves that it died."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import roost
from cluster.app import Counter
from cluster.processes import APP, Processes, running_cluster
from cluster.test_processes import UP_S, Load, connected, until
from roost.errors import CorruptionError
from roost_node.core.record import Leader
from roost_node.local_cluster import free_port
from roost_node.ownership.etcd import EtcdCoordinator
from roost_node.ownership.etcd_link import EtcdOptions
from roost_node.ownership.faulty_registry import FaultyRegistry
from roost_node.ownership.memory import MemoryCoordinator
from roost_node.replication.generation import generation_op
from roost_node.storage.rocks import RocksStore
from roost_node.supervisor import Supervisor


class Supervised:
    """One supervised node without a cluster, and what it has said."""

    def __init__(self, folder: Path, *arguments: str, app: Path = APP) -> None:
        self.port = free_port()
        self._log = folder / "node.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "roost_node", "node", str(app), "--supervise"),
                    *("--data", str(folder / "data"), "--port", str(self.port), *arguments),
                ],
                stderr=log,
            )

    def said(self) -> str:
        return self._log.read_text()

    def pids(self) -> list[int]:
        """Of the node's processes, in the order of their starts."""
        return [int(pid) for pid in re.findall(r"node started  pid=(\d+)", self.said())]

    async def started(self, count: int = 1) -> int:
        await until(lambda: self.said().count("serving  address") >= count)
        return self.pids()[-1]

    async def increment(self) -> int:
        async with roost.connect(f"127.0.0.1:{self.port}", timeout=UP_S, connect_timeout=UP_S) as c:
            return await c.object(Counter, "c").increment()

    def ended(self) -> int:
        return self.process.wait(timeout=UP_S)


@contextlib.contextmanager
def supervised(folder: Path, *arguments: str) -> Iterator[Supervised]:
    node = Supervised(folder, *arguments)
    try:
        yield node
    except BaseException as error:
        error.add_note(node.said()[-3000:])
        raise
    finally:
        node.process.kill()
        node.process.wait()
        for pid in node.pids()[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def etcd_of(processes: Processes) -> AsyncIterator[EtcdCoordinator]:
    coordinator = EtcdCoordinator(EtcdOptions((processes.etcd.endpoint,)))
    try:
        yield coordinator
    finally:
        await coordinator.close()


async def all_in_sync(processes: Processes, copies: int = 3) -> None:
    """Or the next fault would be the second at a time."""
    async with etcd_of(processes) as coordinator, asyncio.timeout(UP_S):
        while True:
            shards = (await coordinator.read()).shards.values()
            if shards and all(len(one.record.in_sync) == copies for one in shards):
                return
            await asyncio.sleep(0.1)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_node_that_was_killed_is_started_again_and_stops_in_order(tmp_path: Path) -> None:
    async def story(node: Supervised) -> None:
        first = await node.started()
        assert await node.increment() == 1
        os.kill(first, signal.SIGKILL)
        assert await node.started(2) != first
        assert await node.increment() == 2

    with supervised(tmp_path) as node:
        asyncio.run(story(node))
        node.process.send_signal(signal.SIGTERM)
        assert node.ended() == 0
        assert "stopped" in node.said()


def test_a_node_whose_supervisor_was_killed_stops_in_order(tmp_path: Path) -> None:
    with supervised(tmp_path) as node:
        asyncio.run(node.started())
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        asyncio.run(until(lambda: node.said().endswith("stopped\n")))
        assert "the supervisor is gone" in node.said()


def test_a_frozen_node_is_neither_dead_nor_started_again(tmp_path: Path) -> None:
    async def story(node: Supervised) -> None:
        pid = await node.started()
        os.kill(pid, signal.SIGSTOP)
        call = asyncio.ensure_future(node.increment())
        await asyncio.sleep(1)
        assert node.pids() == [pid]
        os.kill(pid, signal.SIGCONT)
        assert await call == 1

    with supervised(tmp_path) as node:
        asyncio.run(story(node))


def test_told_to_stop_twice_it_does_not_wait_for_calls(tmp_path: Path) -> None:
    with supervised(tmp_path, "--grace-s", "600") as node:
        pid = asyncio.run(node.started())
        os.kill(pid, signal.SIGSTOP)  # so that it cannot obey
        for _ in range(2):
            node.process.send_signal(signal.SIGINT)
            time.sleep(0.2)  # two signals of a kind at once are one
        assert node.ended() == 128 + signal.SIGKILL
        assert not is_there(pid)


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("--open-calls-max", "0"), 2, "open-calls-max"),
        (("--host", "0.0.0.0"), 1, "--insecure"),
    ],
)
def test_what_is_refused_is_not_tried_again(
    tmp_path: Path, arguments: tuple[str, ...], status: int, why: str
) -> None:
    with supervised(tmp_path, *arguments) as node:
        assert node.ended() == status
        assert why in node.said()
        assert len(node.pids()) < 2


def test_why_a_directory_is_refused_is_said_in_one_line(tmp_path: Path) -> None:
    with supervised(tmp_path) as node:
        asyncio.run(node.started())
        asyncio.run(node.increment())
        node.process.terminate()
        assert node.ended() == 0
    store = RocksStore.open(tmp_path / "data", create=False)
    store.write([generation_op(1)])
    store.close()
    with supervised(tmp_path) as node:
        assert node.ended() == 1
        assert "is a store of cluster" in node.said()
        assert "Traceback" not in node.said()


def test_rubbish_in_etcd_does_not_end_a_supervisor() -> None:
    class Rubbish(MemoryCoordinator):
        async def leader(self) -> Leader | None:
            raise CorruptionError("the coordination store holds what is no Leader")

    async def run() -> int:
        command = [sys.executable, "-c", "import time; time.sleep(0.3)"]
        return await Supervisor(lambda _: command, Rubbish(FaultyRegistry())).run()

    assert asyncio.run(run()) == 0


def test_a_death_is_written_before_the_lease_runs_out(tmp_path: Path) -> None:
    """The session's key and the election go with it (P6); a frozen process keeps both for its lease."""

    async def story(processes: Processes) -> None:
        async with etcd_of(processes) as coordinator:
            await until(lambda: "this node is the controller" in processes.log("a"))
            leader = await coordinator.leader()
            assert leader is not None
            os.kill(processes.worker("a"), signal.SIGKILL)
            await until(lambda: "death written" in processes.log("a"))
            found = await coordinator.read()
            assert found.deaths[leader.session].store == leader.store
            info = found.sessions.get(leader.store)
            assert info is None or info.session != leader.session
            assert await coordinator.leader() != leader

    with running_cluster(tmp_path, supervised=True) as processes:
        processes.start_node("a")
        asyncio.run(story(processes))


def test_a_proven_death_is_a_short_pause(tmp_path: Path) -> None:
    """Every node is killed once, so the controller too. Leases alone would take 2 s at the least."""

    async def story(processes: Processes, routed: roost.Cluster, direct: roost.Cluster) -> None:
        await all_in_sync(processes)
        loads = Load("routed"), Load("direct")
        pauses: list[float] = []
        async with loads[0].on(routed), loads[1].on(direct):
            for victim in ("a", "b", "c"):
                for load in loads:
                    load.pause_s = 0.0
                os.kill(processes.worker(victim), signal.SIGKILL)
                for load in loads:
                    await load.moves_on()
                pauses += [load.pause_s for load in loads]
                await all_in_sync(processes)
        print("pauses", [f"{pause_s:.3f} s" for pause_s in pauses])
        assert min(pauses) < 1.5, "the machine may be busy, but not each time"

    with running_cluster(tmp_path, "a", "b", "c", supervised=True) as processes:
        processes.start_router("router", "a", "b", "c")

        async def run() -> None:
            async with (
                connected(processes, "router") as routed,
                connected(processes, "a", "b", "c", direct=True) as direct,
            ):
                await story(processes, routed, direct)

        try:
            asyncio.run(run())
        except BaseException as error:
            for name in ("a", "b", "c", "router"):
                error.add_note(f"-- {name}\n{processes.log(name)[-3000:]}")
            raise
