"""The story behind `make demo`: a server is killed in the middle of work, and nothing is missing.

Clients talk in one chat room and count on one counter. The server, a real process, is killed with
`kill -9` while their calls are in flight, and started again. The clients notice a pause, no error.
Then every acknowledged increment and message is looked for: each must be there, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

import roost
from chat import Counter, Message, Room

HERE = Path(__file__).resolve().parent
CLIENTS = 32
POSTERS = 8
BEFORE_S = 2.0
AFTER_S = 2.0
console = Console(highlight=False)


class Server:
    """`roost node` as a process of its own."""

    def __init__(self, data: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._command = [
            sys.executable, "-m", "roost_node", "node", str(HERE / "chat.py"),
            "--data", str(data), "--port", str(self.port), "--log-level", "warning", "--no-supervise",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it."""
        self._process = subprocess.Popen(self._command)

    def stop(self, number: signal.Signals) -> int:
        """Send a signal and wait; the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(timeout=30)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[roost.Cluster]:
    """Connect as soon as the server answers."""
    end = time.monotonic() + 20
    while True:
        try:
            async with roost.connect(f"127.0.0.1:{port}", timeout=60.0) as cluster:
                yield cluster
                return
        except roost.UnavailableError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.1)


class Story:
    """What the clients did, and what they were told."""

    def __init__(self) -> None:
        self.counted: list[int] = []
        self.posted: dict[int, str] = {}
        self.took: list[float] = []
        self.errors: list[BaseException] = []
        self.done = False

    async def count(self, cluster: roost.Cluster) -> None:
        """Increment, one call after another."""
        counter = cluster.object(Counter, "visits")
        while not self.done:
            started = time.perf_counter()
            try:
                self.counted.append(await counter.increment())
            except roost.RoostError as error:
                self.errors.append(error)
            self.took.append(time.perf_counter() - started)

    async def chat(self, cluster: roost.Cluster, name: str) -> None:
        """Post, one message after another."""
        room = cluster.object(Room, "lobby")
        number = 0
        while not self.done:
            number += 1
            text = f"{name} says {number}"
            started = time.perf_counter()
            try:
                self.posted[await room.post(name, text)] = text
            except roost.RoostError as error:
                self.errors.append(error)
            self.took.append(time.perf_counter() - started)


async def play(server: Server) -> bool:
    """Run the story; was everything there, once?"""
    story = Story()
    async with connected(server.port) as cluster, asyncio.TaskGroup() as clients:
        console.print(
            f"[bold]{CLIENTS} clients[/] count on Counter/visits, {POSTERS} chat in Room/lobby"
        )
        for number in range(CLIENTS):
            clients.create_task(story.count(cluster))
        for number in range(POSTERS):
            clients.create_task(story.chat(cluster, f"guest-{number}"))
        await asyncio.sleep(BEFORE_S)
        before = len(story.took)
        console.print(f"{before:,} calls answered; now [red]kill -9[/] with calls in flight")
        server.stop(signal.SIGKILL)
        killed = time.perf_counter()
        server.start()
        while len(story.took) <= before + CLIENTS + POSTERS:
            await asyncio.sleep(0.005)
        recovery_s = time.perf_counter() - killed
        console.print(f"it answers again after [bold]{recovery_s:.2f} s[/]")
        resumed = time.perf_counter()
        resumed_calls = len(story.took)
        await asyncio.sleep(AFTER_S)
        story.done = True
        rate = (len(story.took) - resumed_calls) / (time.perf_counter() - resumed)
    async with connected(server.port) as cluster:
        value = await cluster.object(Counter, "visits").value()
        messages = [m async for m in cluster.object(Room, "lobby").history()]
    return report(story, value, messages, rate, recovery_s)


def report(
    story: Story, value: int, messages: list[Message], rate: float, recovery_s: float
) -> bool:
    """Compare what was promised with what is there; print the figures."""
    there = {message.number: message.text for message in messages}
    checks = {
        f"{len(story.counted):,} acknowledged increments, counter at {value:,}": (
            value == len(story.counted)
        ),
        "every increment got a number of its own": len(set(story.counted)) == len(story.counted),
        f"{len(story.posted):,} acknowledged messages, {len(messages):,} in the room": (
            len(messages) == len(story.posted)
        ),
        "every message is there as it was posted": all(
            there.get(number) == text for number, text in story.posted.items()
        ),
        "no message is there twice": len(set(there.values())) == len(messages),
        f"{len(story.errors)} errors reached a client": not story.errors,
    }
    for text, holds in checks.items():
        console.print(f"{'[green]yes[/]' if holds else '[red]NO [/]'}  {text}")
    took = sorted(story.took)
    table = Table("figure", "value", box=None, header_style="bold")
    table.add_row("calls/s after recovery", f"{rate:,.0f}")
    table.add_row("p50", f"{took[len(took) // 2] * 1000:.2f} ms")
    table.add_row("p99", f"{took[int(len(took) * 0.99)] * 1000:.2f} ms")
    table.add_row("recovery", f"{recovery_s:.2f} s")
    console.print(table)
    return all(checks.values())


def main() -> int:
    """Play it; the exit status."""
    with tempfile.TemporaryDirectory(prefix="roost-demo-") as data:
        server = Server(Path(data) / "store")
        server.start()
        try:
            well = asyncio.run(play(server))
        finally:
            status = server.stop(signal.SIGTERM)
    if status != 0:
        console.print(f"[red]the server ended with status {status} when asked to stop[/]")
    console.print(
        "[bold green]nothing was lost, nothing was doubled[/]" if well else "[bold red]FAILED[/]"
    )
    return 0 if well and status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
