"""`kill -9` at random moments, under load, again and again.

Clients (in this process) call objects of a real server process and never stop for its deaths. In the
end nothing that was acknowledged may be missing, nothing may have happened twice, the registers'
histories must be linearizable. `make crash ROUNDS=200` runs longer; `--seed` repeats the moments.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import roost
from crash.app import Counter, Log, Register
from simulator.checkers import Operation, is_linearizable

APP = Path(__file__).with_name("app.py")
COUNTERS = 4
REGISTERS = 3
LOGS = 2


class Server:
    def __init__(self, data: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.command = [
            sys.executable, "-m", "roost_node", "node", str(APP), "--data", str(data),
            "--port", str(self.port), "--log-level", "warning",
        ]  # fmt: skip
        self.process = subprocess.Popen(self.command)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        self.process = subprocess.Popen(self.command)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


class Clients:
    """Callers that go on until told to stop, and what they saw."""

    def __init__(self, cluster: roost.Cluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)
        self.stop = False
        self.counted: dict[int, list[int]] = {n: [] for n in range(COUNTERS)}
        self.history: dict[int, list[Operation]] = {n: [] for n in range(REGISTERS)}
        self.posted: dict[int, dict[int, str]] = {n: {} for n in range(LOGS)}
        self.answers = 0

    async def count(self, number: int) -> None:
        stub = self.cluster.object(Counter, f"{number}")
        while not self.stop:
            self.counted[number].append(await stub.add())
            self.answers += 1

    async def swap(self, number: int) -> None:
        stub = self.cluster.object(Register, f"{number}")
        value = 0
        while not self.stop:
            request: tuple[Any, ...]
            start = time.monotonic()
            if self.random.random() < 0.5:
                request = ("get",)
                result: Any = await stub.get()
                value = result
            else:
                request = ("swap", value, self.random.randrange(5))
                result = await stub.swap(*request[1:])
            self.history[number].append(Operation(start, time.monotonic(), request, result))
            self.answers += 1
            await asyncio.sleep(self.random.random() * 0.01)

    async def post(self, number: int, name: str) -> None:
        stub = self.cluster.object(Log, f"{number}")
        count = 0
        while not self.stop:
            count += 1
            text = f"{name} {count}"
            self.posted[number][await stub.post(text)] = text
            self.answers += 1


def register(state: Any, request: Any) -> tuple[Any, Any]:
    if request[0] == "get":
        return state, state
    return (request[2], True) if state == request[1] else (state, False)


async def hammer(server: Server, rounds: int, seed: int) -> None:
    moments = random.Random(seed)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(200):
            with contextlib.suppress(roost.UnavailableError):
                cluster = await stack.enter_async_context(
                    roost.connect(f"127.0.0.1:{server.port}", timeout=120.0)
                )
                break
            await asyncio.sleep(0.1)
        clients = Clients(cluster, seed)
        async with asyncio.TaskGroup() as tasks:
            for number in range(COUNTERS):
                for _ in range(4):
                    tasks.create_task(clients.count(number))
            for number in range(REGISTERS):
                for _ in range(3):
                    tasks.create_task(clients.swap(number))
            for number in range(LOGS):
                for name in ("ann", "bob"):
                    tasks.create_task(clients.post(number, name))
            for _ in range(rounds):
                seen = clients.answers
                while clients.answers < seen + 20:  # it serves
                    await asyncio.sleep(0.002)
                await asyncio.sleep(moments.random() * 0.3)
                await asyncio.to_thread(server.kill)
                server.restart()
            clients.stop = True
        await check(clients, cluster)


async def check(clients: Clients, cluster: roost.Cluster) -> None:
    for number, answers in clients.counted.items():
        assert sorted(answers) == list(range(1, len(answers) + 1)), f"counter {number}"
        assert await cluster.object(Counter, f"{number}").get() == len(answers)
    for number, history in clients.history.items():
        assert is_linearizable(history, register, 0), f"register {number}"
    posts = 0
    for number, posted in clients.posted.items():
        found = await cluster.object(Log, f"{number}").all()
        assert dict(enumerate(found, 1)) == posted, f"log {number}"
        posts += len(found)
    assert await cluster.object(Counter, "posts").get() == posts  # children: once each


def test_nothing_is_lost_or_doubled_by_kill_9(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rounds = request.config.getoption("--rounds")
    seed = request.config.getoption("--seed")
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    print(f"\n{rounds} rounds, --seed={seed}")
    server = Server(tmp_path / "store")
    try:
        asyncio.run(hammer(server, rounds, seed))
        assert server.stop() == 0
    finally:
        if server.process.poll() is None:
            server.kill()
