"""What a cluster costs: the hop through routers, and each write on three disks before it is answered.

`python -m bench cluster [--seconds S] [--shards N] [--json | --markdown]`: increments by 128 callers on 1 to 4 nodes
with one copy of each shard, and on 3 and 4 with three; direct, through one router, through two. Everything
is on this machine, so more nodes share the same cores: what counts are ratios between rows of one run, and
CPU time a call of all servers together.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

import roost
from bench import floors
from bench.app import Counter
from bench.measure import Figures, increments, measure
from bench.processes import Processes
from bench.routed import shared
from roost.adapters.operators import ask
from roost.v1 import admin_pb2

CALLERS = 128
LAYOUTS = ((1, 1), (2, 1), (3, 1), (4, 1), (3, 3), (4, 3))
"""(nodes, copies of each shard)."""

SETTLE_S = 120.0


class Row(msgspec.Struct, frozen=True):
    """One measurement."""

    nodes: int
    copies: int
    way: str  # direct, one router, two routers
    callers: int
    rate: float
    p50_ms: float
    p99_ms: float
    server_us: float  # of nodes and routers, a call
    client_us: float


async def _settle(processes: Processes, nodes: list[str], shards: int) -> None:
    """Until every shard is where it belongs."""
    request = admin_pb2.ClusterStatusRequest()
    at = [processes.address(node) for node in nodes]
    async with asyncio.timeout(SETTLE_S):
        while True:
            found = await ask(at, SETTLE_S, lambda s, t: s.ClusterStatus(request, timeout=t))
            owners = [node.owners for node in found.nodes]
            is_even = len(owners) == len(nodes) and max(owners) - min(owners) <= 1
            if is_even and dict(found.states) == {"in sync": shards}:
                return
            await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def _clients(
    processes: Processes, nodes: list[str], routers: int
) -> AsyncIterator[list[roost.Cluster]]:
    """One for each router; without routers, one that goes straight to the owners."""
    async with contextlib.AsyncExitStack() as stack:
        if not routers:
            addresses = map(processes.address, nodes)
            connecting = [roost.connect(*addresses, direct=True, connect_timeout=30.0)]
        else:
            doors = [processes.address(f"router-{n}") for n in range(routers)]
            connecting = [roost.connect(door, connect_timeout=30.0) for door in doors]
        yield [await stack.enter_async_context(one) for one in connecting]


async def rows(folder: Path, seconds: float, shards: int) -> list[Row]:
    """All of them."""
    found: list[Row] = []
    for count, copies in LAYOUTS:
        nodes = [f"node-{n}" for n in range(count)]
        with tempfile.TemporaryDirectory(dir=folder) as name:
            processes = Processes(
                Path(name), shards, "--replicas", str(copies), "--log-level=error"
            )
            try:
                processes.start_etcd()
                for node in nodes:
                    processes.start_node(node)
                await _settle(processes, nodes, shards)
                found += await _on(processes, nodes, copies, seconds)
            finally:
                processes.close()
    return found


async def _on(processes: Processes, nodes: list[str], copies: int, seconds: float) -> list[Row]:
    """All ways to one cluster."""
    found: list[Row] = []
    busy = [processes.pid(node) for node in nodes]
    for routers, way in enumerate(("direct", "one router", "two routers")):
        if routers:
            processes.start_router(f"router-{routers - 1}", *nodes)
            busy.append(processes.pid(f"router-{routers - 1}"))
        async with _clients(processes, nodes, routers) as clients:
            work = shared([increments(client) for client in clients])
            await _warm(clients[0])
            many = await measure(CALLERS, seconds, work, *busy)
            found.append(_row(len(nodes), copies, way, CALLERS, many))
            if routers < 2 and len(nodes) == 3:
                one = await measure(1, seconds, work, *busy)
                found.append(_row(len(nodes), copies, way, 1, one))
    return found


async def _warm(client: roost.Cluster) -> None:
    for start in range(0, 1000, 100):
        stubs = [client.object(Counter, f"key-{n}") for n in range(start, start + 100)]
        await asyncio.gather(*(stub.increment() for stub in stubs))


def _row(nodes: int, copies: int, way: str, callers: int, figures: Figures) -> Row:
    return Row(
        nodes,
        copies,
        way,
        callers,
        figures.rate,
        figures.p50_ms,
        figures.p99_ms,
        figures.server_us,
        figures.client_us,
    )


COLUMNS = (
    *("nodes", "copies", "way", "callers", "calls/s", "p50 ms", "p99 ms"),
    *("CPU us a call: servers", "client", "against the floor", "the hop", "the copies"),
)


def table(found: list[Row], floor: floors.Floors) -> list[tuple[str, ...]]:
    """As text, with the ratios: to the floor, of a hop (to direct), of replication (to one copy)."""
    rate = {(row.nodes, row.copies, row.way, row.callers): row.rate for row in found}
    lines: list[tuple[str, ...]] = []
    for row in found:
        direct = rate.get((row.nodes, row.copies, "direct", row.callers))
        single = rate.get((row.nodes, 1, row.way, row.callers))
        if row.callers == 1:
            least_us = floor.flush_us + floor.echo_us
            against = f"p50 {row.p50_ms * 1000 / least_us:.1f} x (flush + round trip)"
        else:
            against = f"{row.rate / floor.echo_128:.3f} x gRPC echo"
        lines.append(
            (
                *(f"{row.nodes}", f"{row.copies}", row.way, f"{row.callers}"),
                *(f"{row.rate:,.0f}", f"{row.p50_ms:.2f}", f"{row.p99_ms:.1f}"),
                *(f"{row.server_us:.0f}", f"{row.client_us:.0f}", against),
                f"{row.rate / direct:.2f} x direct" if direct and row.way != "direct" else "",
                f"{row.rate / single:.2f} x one copy" if single and row.copies > 1 else "",
            )
        )
    return lines


def markdown(lines: list[tuple[str, ...]]) -> str:
    """For docs/performance.md."""
    rule = ("---",) * len(COLUMNS)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (COLUMNS, rule, *lines))
