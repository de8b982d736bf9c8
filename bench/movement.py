"""`python -m bench.movement`: what callers notice when shards move, nodes stop, die and join.

Three nodes, a router and etcd as processes; callers increment counters, each its own, one call after
another. A shard's *pause* is the longest time in which none of its callers was answered, from an event
until some time after it. How long that is when nothing happens is measured first, in windows as long:
a busy machine has pauses of its own, and they are in every figure. `direct`: callers keep a link to
each node instead of using the router.

The aims are those of three quiet cores; nothing here fails by time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

import roost
from bench.app import Counter
from bench.processes import Processes, running
from roost.adapters.operators import ask
from roost.cluster.ids import shard_of
from roost.v1 import admin_pb2, shard_map_pb2, shard_map_pb2_grpc

NODES = ("a", "b", "c")
SETTLE_S = 4.0  # no event's effect is looked for longer, but for a kill's
KILL_SETTLE_S = 8.0
UP_S = 60.0
BUCKETS_MS = (10, 25, 50, 100, 250, 500, 1_000, 2_000, 4_000)
AIMS = {
    "planned handoff, the shard": "p99 < 50 ms",
    "SIGTERM of a node, all shards": "p99 < 250 ms",
    "kill -9 of a supervised node, all shards": "<= 500 ms",
    "kill -9 of a node, its shards": "<= 4 s",
}


class Load:
    """Callers at work, and when each shard's were answered."""

    def __init__(self) -> None:
        self.answered: dict[int, list[float]] = defaultdict(list)  # by shard
        self.errors: list[str] = []
        self._done = False

    @contextlib.asynccontextmanager
    async def on(
        self, cluster: roost.Cluster, callers: int, shard: Callable[[str], int]
    ) -> AsyncIterator[None]:
        """While the block runs."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(callers):
                key = f"key-{number}"
                tasks.create_task(
                    self._call(cluster.object(Counter, key), self.answered[shard(key)])
                )
            yield
            self._done = True

    async def _call(self, counter: Counter, answered: list[float]) -> None:
        count = 0
        while not self._done:
            try:
                value = await counter.increment()
            except roost.RoostError as error:
                self.errors.append(repr(error))
                return
            if count and value != count + 1:
                self.errors.append(f"{value} after {count}")
            count = value
            answered.append(time.perf_counter())

    def pauses(self, since: float, until: float) -> dict[int, float]:
        """Of each shard, in seconds."""
        found: dict[int, float] = {}
        for shard, moments in self.answered.items():
            last, longest = since, 0.0
            for moment in (*(m for m in moments if since < m < until), until):
                longest = max(longest, moment - last)
                last = moment
            found[shard] = longest
        return found


class Rig:
    """The cluster as an operator sees it, and the load on it."""

    def __init__(self, processes: Processes, load: Load) -> None:
        self.processes = processes
        self.load = load

    async def shards(self) -> list[admin_pb2.ShardInfo]:
        """As they are."""
        reply = await ask(
            [self.processes.address("router")],
            UP_S,
            lambda stub, left_s: stub.Shards(admin_pb2.ShardsRequest(), timeout=left_s),
        )
        return list(reply.shards)

    async def move(self, shard: int, store: str) -> None:
        """Order a shard to a store; empty: the order is taken back."""
        await ask(
            [self.processes.address("router")],
            UP_S,
            lambda stub, left_s: stub.Move(
                admin_pb2.MoveRequest(shard=shard, store_id=store), timeout=left_s
            ),
        )

    async def store(self, node: str) -> str:
        """A node's store."""
        reply = await ask(
            [self.processes.address(node)],
            UP_S,
            lambda stub, left_s: stub.Status(admin_pb2.StatusRequest(), timeout=left_s),
        )
        return str(reply.store_id)

    async def at_rest(self, stores: int) -> list[admin_pb2.ShardInfo]:
        """Wait until all shards are in sync and so many stores own some."""
        async with asyncio.timeout(UP_S):
            while True:
                shards = await self.shards()
                if all(s.state == "in sync" for s in shards) and (
                    len({s.owner for s in shards}) == stores
                ):
                    return shards
                await asyncio.sleep(0.05)

    async def owned_by(self, shard: int, store: str) -> None:
        """Wait until it is."""
        async with asyncio.timeout(UP_S):
            while True:
                if (await self.shards())[shard].owner == store:
                    return
                await asyncio.sleep(0.02)

    async def window(
        self, settle_s: float, event: Callable[[], Awaitable[None]]
    ) -> dict[int, float]:
        """The pauses from an event on."""
        since = time.perf_counter()
        await event()
        await asyncio.sleep(settle_s)
        return self.load.pauses(since, time.perf_counter())


async def measure(rig: Rig, handoffs: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """All of it: pauses of shards in seconds, and single figures."""
    found: dict[str, list[float]] = defaultdict(list)
    processes = rig.processes

    async def nothing() -> None:
        return

    found["nothing happens"] += (await rig.window(SETTLE_S, nothing)).values()

    for number in range(handoffs):
        shards = await rig.at_rest(len(NODES))
        shard = number % len(shards)
        target = next(s for s in shards[shard].in_sync if s != shards[shard].owner)

        async def hand_off(shard: int = shard, target: str = target) -> None:
            await rig.move(shard, target)
            await rig.owned_by(shard, target)

        pauses = await rig.window(0.5, hand_off)
        if shard in pauses:
            found["planned handoff, the shard"].append(pauses.pop(shard))
        await rig.move(shard, "")

    await rig.at_rest(len(NODES))

    async def stop() -> None:
        assert await end(processes, "b", signal.SIGTERM) == 0

    found["SIGTERM of a node, all shards"] += (await rig.window(SETTLE_S, stop)).values()
    processes.start_node("b", supervised=True)
    await rig.at_rest(len(NODES))

    async def kill_supervised() -> None:
        os.kill(processes.worker("b"), signal.SIGKILL)

    found["kill -9 of a supervised node, all shards"] += (
        await rig.window(KILL_SETTLE_S, kill_supervised)
    ).values()
    shards = await rig.at_rest(len(NODES))
    victim = await rig.store("c")
    theirs = {s.shard for s in shards if s.owner == victim}

    async def kill() -> None:
        await end(processes, "c", signal.SIGKILL)

    for shard, pause in (await rig.window(KILL_SETTLE_S, kill)).items():
        whose = "its shards" if shard in theirs else "shards of others"
        found[f"kill -9 of a node, {whose}"].append(pause)
    processes.start_node("c")
    before = await rig.at_rest(len(NODES))

    since = time.perf_counter()
    processes.start_node("d")
    joined = await rig.store("d")
    after = await rig.at_rest(len(NODES) + 1)
    took_s = time.perf_counter() - since
    await asyncio.sleep(0.5)
    found["a fourth node joins, all shards"] += rig.load.pauses(since, time.perf_counter()).values()
    moved = sum(a.owner != b.owner for a, b in zip(after, before, strict=True))
    single = {
        "join: seconds until all is in sync": took_s,
        "join: owners moved": moved,
        "join: copies made": sum(joined in s.in_sync for s in after),
        "join: MiB on the new node's disk": processes.size_bytes("d") / 2**20,
        "errors": len(rig.load.errors),
    }
    return found, single


async def end(processes: Processes, name: str, number: int) -> int:
    """Send a signal and wait for the end; the exit status."""
    processes.signal(name, number)
    return await asyncio.to_thread(processes.wait, name)


async def shape(address: str) -> shard_map_pb2.MapShape:
    """How names become shards."""
    import grpc.aio

    async with grpc.aio.insecure_channel(address) as channel:
        stub = shard_map_pb2_grpc.MapStub(channel)
        async for update in stub.Watch(shard_map_pb2.WatchRequest()):
            return update.shape
    raise AssertionError("a watch begins with the whole map")


async def run(options: argparse.Namespace, processes: Processes) -> dict[str, object]:
    """Fill the cluster, load it, measure."""
    load = Load()
    doors = NODES if options.direct else ("router",)
    async with roost.connect(
        *map(processes.address, doors),
        connect_timeout=UP_S,
        timeout=UP_S,
        direct=options.direct,
    ) as cluster:
        rig = Rig(processes, load)
        await rig.at_rest(len(NODES))
        for first in range(0, options.objects, 100):
            await asyncio.gather(
                *(
                    cluster.object(Counter, f"full-{n}").fill(options.object_bytes)
                    for n in range(first, min(first + 100, options.objects))
                )
            )
        names = await shape(processes.address("router"))

        def shard(key: str) -> int:
            return shard_of("Counter", key, seed=names.seed, shards=names.shard_count)

        async with load.on(cluster, options.callers, shard):
            await asyncio.sleep(1.0)
            pauses, single = await measure(rig, options.handoffs)
    for error in load.errors[:5]:
        print(error, file=sys.stderr)
    return {"pauses_s": pauses, "single": single}


def show(console: Console, pauses: dict[str, list[float]], single: dict[str, float]) -> None:
    """Tables."""
    table = Table(box=None, header_style="bold")
    table.add_column("pauses of shards")
    for title in ("count", "p50 ms", "p99 ms", "most ms", "aim"):
        table.add_column(title, justify="right")
    for bucket in BUCKETS_MS:
        table.add_column(f"<{bucket}", justify="right")
    for title, found in pauses.items():
        took = sorted(1000 * pause for pause in found)
        counts = [sum(pause < bucket for pause in took) for bucket in BUCKETS_MS]
        table.add_row(
            title,
            f"{len(took)}",
            f"{took[len(took) // 2]:.0f}",
            f"{took[int(len(took) * 0.99)]:.0f}",
            f"{took[-1]:.0f}",
            AIMS.get(title, ""),
            *(f"{now - was or ''}" for was, now in zip((0, *counts), counts, strict=False)),
        )
    console.print(table)
    for title, figure in single.items():
        console.print(f"{title}: {figure:.4g}")


def main() -> int:
    """Print the tables; the exit status says only whether calls failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=40)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--handoffs", type=int, default=16)
    parser.add_argument("--objects", type=int, default=2_000, help="what a join has to copy")
    parser.add_argument("--object-bytes", type=int, default=1_000)
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="an empty directory for data and logs")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = stack.enter_context(running(folder, *NODES, shards=options.shards))
        found = uvloop.run(run(options, processes))
    if options.json:
        print(json.dumps(found))
    else:
        show(Console(highlight=False, width=160), found["pauses_s"], found["single"])  # type: ignore[arg-type]  # as `run` made them
    return int(found["single"]["errors"] > 0)  # type: ignore[index]  # likewise


if __name__ == "__main__":
    sys.exit(main())
