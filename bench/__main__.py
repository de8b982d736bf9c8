"""`make bench`: what a call costs, as ratios to floors measured in the same run.

`python -m bench [--seconds S] [--json]`. Client and server share the machine; every write is flushed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
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
from bench import floors
from bench.app import Counter

APP = Path(__file__).with_name("app.py")
KEYS = 1000


class Figures:
    """Calls a second, p50 and p99 in ms, of one piece of work."""

    def __init__(self, took: list[float], elapsed: float) -> None:
        took.sort()
        self.rate = len(took) / elapsed
        self.p50_ms = took[len(took) // 2] * 1000
        self.p99_ms = took[int(len(took) * 0.99)] * 1000


async def measure(
    callers: int, seconds: float, call: Callable[[int, int], Awaitable[Any]]
) -> Figures:
    """Let `callers` call, each one call after another; the first 20 % is warm-up."""
    took: list[float] = []
    clock = time.perf_counter
    begin = clock() + 0.2 * seconds
    end = clock() + 1.2 * seconds

    async def caller(number: int) -> None:
        count = 0
        while True:
            started = clock()
            if started > end:
                return
            await call(number, count)
            count += 1
            if started > begin:
                took.append(clock() - started)

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return Figures(took, clock() - begin)


class Server:
    """`roost node` on the benchmark's classes."""

    def __init__(self, data: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "roost_node", "node", str(APP), "--data", str(data),
                "--port", self.address.split(":")[1], "--log-level", "warning",
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
    found: dict[str, Figures] = {}
    try:
        async with server.connect() as cluster:
            for n in range(0, KEYS, 100):
                await asyncio.gather(
                    *(cluster.object(Counter, f"key-{m}").increment() for m in range(n, n + 100))
                )
            for callers in (1, 16, 128, 512):
                found[f"increments, {callers} callers"] = await measure(
                    callers, seconds, increments(cluster)
                )
            found["one hot object, 128 callers"] = await measure(
                128, seconds, increments(cluster, 1)
            )
            found["warm reads, 128 callers"] = await measure(128, seconds, reads(cluster))
            found["cold objects, 16 callers"] = await measure(16, seconds, colds(cluster, "cold"))
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
        flush_s = floors.flush_s(folder)
        _, echo_s = floors.echo(1)
        echo_128, _ = floors.echo(128)
        engine = floors.engine_puts_per_s(folder)
        found = uvloop.run(remote(folder / "remote", options.seconds))
        found["in process, 128 callers"] = uvloop.run(local(folder / "local", options.seconds))
        idle = uvloop.run(idle_bytes(folder / "idle"))
    one_s = flush_s + echo_s
    rows: list[tuple[str, Figures, str]] = []
    for title, figures in found.items():
        if "1 callers" in title:
            ratio = f"p50 {figures.p50_ms / 1000 / one_s:.2f} x (flush + stream round trip)"
        elif "process" in title:
            ratio = f"{figures.rate / engine:.2f} x engine alone"
        else:
            ratio = f"{figures.rate / echo_128:.2f} x gRPC echo"
        rows.append((title, figures, ratio))
    if options.json:
        print(
            json.dumps(
                {
                    "flush_us": flush_s * 1e6,
                    "echo_us": echo_s * 1e6,
                    "echo_128_per_s": echo_128,
                    "engine_per_s": engine,
                    "idle_bytes": idle,
                    "rows": {t: vars(f) for t, f, _ in rows},
                }
            )
        )
        return 0
    console = Console(highlight=False, width=120)
    console.print(
        f"floors: flush {flush_s * 1e6:.0f} us, stream round trip {echo_s * 1e6:.0f} us, gRPC echo in "
        f"batches of 128 {echo_128:,.0f}/s, engine alone {engine:,.0f} calls/s"
    )
    table = Table(
        "work", "calls/s", "p50 ms", "p99 ms", "against the floor", box=None, header_style="bold"
    )
    for title, figures, ratio in rows:
        table.add_row(
            title, f"{figures.rate:,.0f}", f"{figures.p50_ms:.2f}", f"{figures.p99_ms:.2f}", ratio
        )
    console.print(table)
    console.print(f"an idle live object with two small fields: {idle:,.0f} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
