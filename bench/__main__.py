"""`make bench`: what a call costs, as ratios to floors measured in the same run.

`python -m bench [--seconds S] [--json]`. Client and server share the machine; every write is flushed.

Floors are measured before and after the rows, because a machine that does other things gives another
figure each time: a ratio is to the better of both, and a row's CPU time a call (of the server's process
and of this one, kernel included) says what the work itself costs, whoever else is running.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

import roost
from bench import floors, routed
from bench.app import Counter

APP = Path(__file__).with_name("app.py")
KEYS = 1000
DIRECT = "increments direct, 128 callers, again"


class Figures:
    """Calls a second, p50 and p99 in ms, CPU time a call in us, of one piece of work."""

    def __init__(self, took: list[float], elapsed: float, cpu_s: Cpu, calls: int) -> None:
        took.sort()
        self.rate = len(took) / elapsed
        self.p50_ms = took[len(took) // 2] * 1000
        self.p99_ms = took[int(len(took) * 0.99)] * 1000
        self.server_us = cpu_s[0] / calls * 1e6  # 0: it is the same process as the client
        self.client_us = cpu_s[1] / calls * 1e6


Cpu = tuple[float, float]
"""CPU seconds that the server and the client have used."""


def cpu_of(server: int | None) -> Cpu:
    """As of now; `server`: a process id."""
    own = os.times()
    if server is None:
        return 0.0, own.user + own.system
    fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), own.user + own.system


async def measure(
    callers: int,
    seconds: float,
    call: Callable[[int, int], Awaitable[Any]],
    server: int | None = None,
) -> Figures:
    """Let `callers` call, each one call after another; the first 20 % is warm-up."""
    took: list[float] = []
    calls = 0
    clock = time.perf_counter
    before = cpu_of(server)
    begin = clock() + 0.2 * seconds
    end = clock() + 1.2 * seconds

    async def caller(number: int) -> None:
        nonlocal calls
        count = 0
        while True:
            started = clock()
            if started > end:
                calls += count
                return
            await call(number, count)
            count += 1
            if started > begin:
                took.append(clock() - started)

    await asyncio.gather(*(caller(number) for number in range(callers)))
    elapsed, after = clock() - begin, cpu_of(server)
    return Figures(took, elapsed, (after[0] - before[0], after[1] - before[1]), calls)


class Server:
    """`roost node` on the benchmark's classes."""

    def __init__(self, data: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "roost_node", "node", str(APP), "--data", str(data),
                "--port", self.address.split(":")[1], "--log-level", "warning", "--no-supervise",
            ]
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[roost.Cluster]:
        """Connect once it answers."""
        async with roost.connect(self.address, connect_timeout=20.0) as cluster:
            yield cluster

    def stop(self) -> None:
        """Drain it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def increments(cluster: roost.Cluster, keys: int = KEYS) -> Callable[[int, int], Awaitable[Any]]:
    """Each call goes to another object."""
    stubs = [cluster.object(Counter, f"key-{n}") for n in range(keys)]
    return lambda number, count: stubs[(number * 131 + count * 7) % keys].increment()


def reads(cluster: roost.Cluster) -> Callable[[int, int], Awaitable[Any]]:
    """Each call reads another object."""
    stubs = [cluster.object(Counter, f"key-{n}") for n in range(KEYS)]
    return lambda number, count: stubs[(number * 131 + count * 7) % KEYS].get()


def colds(cluster: roost.Cluster, name: str) -> Callable[[int, int], Awaitable[Any]]:
    """Each call is the first to its object."""
    return lambda number, count: cluster.object(Counter, f"{name}-{number}-{count}").get()


async def remote(data: Path, seconds: float) -> dict[str, Figures]:
    """Over gRPC, to another process."""
    server = Server(data)
    process = server.process.pid
    found: dict[str, Figures] = {}
    try:
        async with server.connect() as cluster:
            for n in range(0, KEYS, 100):
                await asyncio.gather(
                    *(cluster.object(Counter, f"key-{m}").increment() for m in range(n, n + 100))
                )
            for callers in (1, 16, 128, 512):
                found[f"increments, {callers} callers"] = await measure(
                    callers, seconds, increments(cluster), process
                )
            found["one hot object, 128 callers"] = await measure(
                128, seconds, increments(cluster, 1), process
            )
            found["warm reads, 128 callers"] = await measure(128, seconds, reads(cluster), process)
            found["cold objects, 16 callers"] = await measure(
                16, seconds, colds(cluster, "cold"), process
            )
            found[DIRECT] = await measure(128, seconds, increments(cluster), process)
        for count, title in ((1, "a router"), (2, "two routers")):
            async with routed.clients(server.address, count) as (clusters, router):
                work = routed.shared([increments(cluster) for cluster in clusters])
                found[f"increments through {title}, 128 callers"] = await measure(
                    128, seconds, work, router
                )
                if count == 1:
                    found["increments through a router, 1 callers"] = await measure(
                        1, seconds, work, router
                    )
    finally:
        server.stop()
    return found


async def local(data: Path, seconds: float) -> Figures:
    """In this process."""
    async with roost.local(Counter, path=data) as cluster:
        return await measure(128, seconds, increments(cluster))


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def idle_bytes(data: Path, count: int = 50_000) -> float:
    """Resident bytes for each idle live object."""
    async with roost.local(Counter, path=data) as cluster:

        async def touch(first: int) -> None:
            for number in range(first, count, 16):
                await cluster.object(Counter, f"idle-{number}").increment()

        await asyncio.gather(
            *(cluster.object(Counter, f"warm-{n}").increment() for n in range(500))
        )
        gc.collect()
        before = resident()
        await asyncio.gather(*(touch(first) for first in range(16)))
        gc.collect()
        return (resident() - before) / count


def main() -> int:
    """Print the table; the exit status says only whether everything ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with floors.folder() as name:
        folder = Path(name)
        before = floors.measure(folder)
        found = uvloop.run(remote(folder / "remote", options.seconds))
        found["in process, 128 callers"] = uvloop.run(local(folder / "local", options.seconds))
        idle = uvloop.run(idle_bytes(folder / "idle"))
        after = floors.measure(folder)
    floor = before.best(after)
    if options.json:
        print(
            json.dumps(
                {
                    "floors": [vars(before), vars(after)],
                    "idle_bytes": idle,
                    "rows": {title: vars(figures) for title, figures in found.items()},
                }
            )
        )
        return 0
    console = Console(highlight=False, width=120)
    console.print(
        f"floors, before | after: flush {before.flush_us:.0f} | {after.flush_us:.0f} us, stream round "
        f"trip {before.echo_us:.0f} | {after.echo_us:.0f} us, gRPC echo in batches of 128 "
        f"{before.echo_128:,.0f} | {after.echo_128:,.0f}/s, engine alone {before.engine:,.0f} | "
        f"{after.engine:,.0f} calls/s",
        soft_wrap=True,
    )
    table = Table(box=None, header_style="bold")
    table.add_column("work")
    for title in ("calls/s", "p50 ms", "p99 ms", "CPU us a call: server", "client"):
        table.add_column(title, justify="right")
    table.add_column("against the floor")
    for title, figures in found.items():
        table.add_row(
            title,
            f"{figures.rate:,.0f}",
            f"{figures.p50_ms:.2f}",
            f"{figures.p99_ms:.2f}",
            f"{figures.server_us:.0f}" if figures.server_us else "both:",
            f"{figures.client_us:.0f}",
            against(title, figures, floor, found[DIRECT].rate),
        )
    console.print(table)
    console.print(f"an idle live object with two small fields: {idle:,.0f} bytes")
    return 0


def against(title: str, figures: Figures, floor: floors.Floors, direct: float) -> str:
    """The ratio that means something for this row."""
    if " 1 callers" in title:
        ratio = figures.p50_ms * 1000 / (floor.flush_us + floor.echo_us)
        return f"p50 {ratio:.2f} x (flush + round trip)"
    if "through" in title:
        return f"{figures.rate / direct:.2f} x direct"
    if "process" in title:
        return f"{figures.rate / floor.engine:.2f} x engine alone"
    return f"{figures.rate / floor.echo_128:.2f} x gRPC echo"


if __name__ == "__main__":
    sys.exit(main())
