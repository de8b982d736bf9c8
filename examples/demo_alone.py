"""The demo without etcd: one node alone is killed in the middle of work, starts again, and nothing is missing."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

import roost
from roost_node.local_cluster import free_port
from story import CALLERS, COUNTERS, POSTERS, Figures, Story

HERE = Path(__file__).resolve().parent
BEFORE_S = AFTER_S = 2.0
console = Console(highlight=False)


class Server:
    """`roost node` as a process of its own."""

    def __init__(self, data: Path) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self._command = [
            sys.executable, "-m", "roost_node", "node", str(HERE / "chat.py"), "--no-supervise",
            "--data", str(data), "--port", str(port), "--log-level", "warning",
        ]  # fmt: skip

    def start(self) -> None:
        """Run it."""
        self._process = subprocess.Popen(self._command)

    def stop(self, number: signal.Signals) -> int:
        """Send a signal and wait; the exit status."""
        self._process.send_signal(number)
        return self._process.wait(timeout=30)


async def play(server: Server) -> bool:
    """Run the story; was everything there, once?"""
    story = Story()
    async with roost.connect(server.address, timeout=60.0, connect_timeout=20.0) as cluster:
        console.print(f"{CALLERS} clients count on {COUNTERS} counters, {POSTERS} chat in one room")
        figures = Figures(story)
        async with asyncio.TaskGroup() as clients:
            for client in story.clients([cluster]):
                clients.create_task(client)
            await asyncio.sleep(BEFORE_S)
            figures.end("quiet")
            figures.begin()
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            killed = time.perf_counter()
            server.start()
            await story.all_answered()
            back_s = time.perf_counter() - killed
            console.print(
                f"[green]✔[/] [red]kill -9[/]: it answers again after [bold]{back_s:.2f} s[/]"
            )
            await asyncio.sleep(AFTER_S)
            figures.end("kill -9")
            story.done = True
        well = await story.check(cluster, console)
        figures.show(console)
        return well


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
    well = well and status == 0
    console.print(
        "[bold green]nothing was lost, nothing was doubled[/]" if well else "[bold red]FAILED[/]"
    )
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
