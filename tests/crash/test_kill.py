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
import subprocess
import sys
from pathlib import Path

import pytest

import roost
from crash.clients import Clients
from roost_node.local_cluster import free_port

APP = Path(__file__).with_name("app.py")


class Server:
    def __init__(self, data: Path) -> None:
        self.port = free_port()
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
        clients = Clients([cluster], seed)
        async with asyncio.TaskGroup() as tasks:
            clients.start(tasks)
            for _ in range(rounds):
                seen = clients.answers
                while clients.answers < seen + 20:  # it serves
                    await asyncio.sleep(0.002)
                await asyncio.sleep(moments.random() * 0.3)
                await asyncio.to_thread(server.kill)
                server.restart()
            clients.stop = True
        await clients.check()


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
