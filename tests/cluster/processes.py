"""A cluster of real processes: etcd, nodes, routers, on loopback ports of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from coordination.etcd_process import Etcd
from roost_node.local_cluster import free_port

APP = Path(__file__).with_name("app.py")
END_S = 40


class Processes:
    """Started one by one; `running_cluster` ends what is left."""

    def __init__(self, folder: Path, etcd: Etcd, shards: int, supervised: bool) -> None:
        self.folder = folder
        self._how = "--supervise" if supervised else "--no-supervise"
        self.etcd = etcd
        self._shards = shards
        self._ports: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self._ports.setdefault(name, free_port())}"

    def start_node(self, name: str, *flags: str) -> None:
        """A node; the same name again is the same store on the same port."""
        port = self.address(name).split(":")[1]
        self._start(
            name,
            [
                "roost_node", "node", str(APP), "--data", str(self.folder / name), "--port", port,
                "--etcd", self.etcd.endpoint, "--shards", str(self._shards), self._how,
                *flags,
            ],
        )  # fmt: skip

    def start_router(self, name: str, *nodes: str) -> None:
        port = self.address(name).split(":")[1]
        known = ",".join(map(self.address, nodes))
        self._start(name, ["roost_router", "router", "--port", port, "--nodes", known])

    def _start(self, name: str, arguments: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments], stderr=log, stdout=log
            )

    def signal(self, name: str, number: int) -> None:
        self._processes[name].send_signal(number)

    def end(self, name: str, number: int) -> int:
        """Send a signal and wait for the end; the exit status."""
        process = self._processes.pop(name)
        process.send_signal(number)
        return process.wait(timeout=END_S)

    def wait(self, name: str) -> int:
        """For the end of a process that ends by itself; the exit status."""
        return self._processes.pop(name).wait(timeout=END_S)

    def worker(self, name: str) -> int:
        """The pid of a supervised node, as it runs now."""
        return int(re.findall(r"node started  pid=(\d+)", self.log(name))[-1])

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        """End all at once: a node whose supervisor is killed would stop in order, so it is frozen first."""
        frozen = []
        for name in self._processes:
            for pid in map(int, re.findall(r"node started  pid=(\d+)", self.log(name))[-1:]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    frozen.append(pid)
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def running_cluster(
    folder: Path, *nodes: str, shards: int = 16, supervised: bool = False
) -> Iterator[Processes]:
    """An etcd and these nodes."""
    (folder / "etcd").mkdir()
    etcd = Etcd(folder / "etcd").start()
    processes = Processes(folder, etcd, shards, supervised)
    try:
        for node in nodes:
            processes.start_node(node)
        yield processes
    finally:
        processes.close()
        etcd.kill()
