"""`make bench`: what a call costs, as ratios to floors measured in the same run.

`python -m bench [--seconds S] [--json]`: one node; `python -m bench cluster`: see `cluster.py`. Client and
server share the machine; every write is flushed.

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
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

import roost
from bench import cluster, floors, routed
from bench.app import Counter
from bench.measure import KEYS, Figures, colds, increments, measure, reads
from roost_node.local_cluster import free_port

APP = Path(__file__).with_name("app.py")
DIRECT = "increments direct, 128 callers, again"


class Server:
    """`roost node` on the benchmark's classes."""

    def __init__(self, data: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
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
    parser.add_argument("what", nargs="?", choices=("node", "cluster"), default="node")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="a table for the docs (cluster)")
    parser.add_argument("--shards", type=int, default=64, help="of the cluster")
    options = parser.parse_args()
    if options.what == "cluster":
        return clustered(options)
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
    console.print(told(before, after), soft_wrap=True)
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


def clustered(options: argparse.Namespace) -> int:
    """The same for clusters."""
    with floors.folder() as name:
        before = floors.measure(Path(name))
        found = uvloop.run(cluster.rows(Path(name), options.seconds, options.shards))
        after = floors.measure(Path(name))
    if options.json:
        rows = msgspec.to_builtins(found)
        print(json.dumps({"floors": [vars(before), vars(after)], "rows": rows}))
        return 0
    lines = cluster.table(found, before.best(after))
    said = f"{options.shards} shards; {told(before, after)}"
    if options.markdown:
        print(f"{said}.\n\n{cluster.markdown(lines)}")
        return 0
    console = Console(highlight=False, width=200)
    console.print(said)
    table = Table(box=None, header_style="bold")
    for title in cluster.COLUMNS:
        table.add_column(title)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    return 0


def told(before: floors.Floors, after: floors.Floors) -> str:
    """What the machine did best, twice."""
    return (
        f"floors, before | after: flush {before.flush_us:.0f} | {after.flush_us:.0f} us, stream round "
        f"trip {before.echo_us:.0f} | {after.echo_us:.0f} us, gRPC echo in batches of 128 "
        f"{before.echo_128:,.0f} | {after.echo_128:,.0f}/s, engine alone {before.engine:,.0f} | "
        f"{after.engine:,.0f} calls/s"
    )


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
