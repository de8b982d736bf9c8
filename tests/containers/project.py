"""The project of docker-compose.yml, running: its containers, what is done to them, what they say."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
from testcontainers.compose import DockerCompose

from containers.engine import compose_command

ROOT = Path(__file__).resolve().parents[2]
FILES = ["docker-compose.yml", "tests/containers/objects.yml"]
IMAGES = ROOT / "deploy" / "offline.env"
NAME = f"roost-test-{zlib.crc32(str(ROOT).encode()):08x}"
"""Of this checkout: another one may test on the same engine. A run that was cut off is cleared away by the next."""

WAIT_S = 120
SHARDS = 16


class Project(DockerCompose):
    """Three nodes and two routers by default, on loopback ports that were free."""

    def __init__(self, folder: Path) -> None:
        settings = {
            "COMPOSE_PROJECT_NAME": NAME,
            "ROOST_IMAGE": NAME,
            "ROOST_PORTS": _two_free_ports(),
            "ROOST_SHARDS": str(SHARDS),
        }
        written = folder / "settings.env"
        lines = [f"{name}={value}" for name, value in settings.items()]
        images = IMAGES.read_text() if IMAGES.exists() else ""  # else the public ones are pulled
        written.write_text("\n".join((*lines, images)))
        super().__init__(ROOT, FILES, build=True, env_file=str(written))
        self._docker = docker.from_env()
        self._ports = settings["ROOST_PORTS"].split("-")

    @cached_property
    def compose_command_property(self) -> list[str]:
        """Of either version: the class that we have this from knows the second alone."""
        files = [word for name in FILES for word in ("-f", name)]
        assert isinstance(self.env_file, list)
        return [*compose_command(), *files, "--env-file", self.env_file[0]]

    def run(self, *arguments: str) -> None:
        """`docker compose ...`; what it said is in the error where it fails."""
        command = [*self.compose_command_property, *arguments]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout}{ended.stderr}"

    def start(self) -> None:
        """Build and start, after throwing away what a run that was cut off left."""
        self.run("down", "--volumes")
        self.run("up", "--build", "--detach")

    def stop(self, down: bool = True) -> None:
        super().stop(down)
        self._docker.close()

    def addresses(self) -> list[str]:
        """Of the routers."""
        return [f"127.0.0.1:{port}" for port in self._ports]

    def containers(self, service: str) -> list[Any]:
        """Those of a service, in the order of their numbers."""
        labels = [f"com.docker.compose.project={NAME}", f"com.docker.compose.service={service}"]
        found = self._docker.containers.list(all=True, filters={"label": labels})
        return sorted(found, key=lambda one: int(one.labels["com.docker.compose.container-number"]))

    def network(self) -> Any:
        """Of all containers."""
        return self._docker.networks.get(f"{NAME}_default")

    def roost(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The `roost` command, over the routers."""
        program = str(Path(sys.executable).with_name("roost"))
        addresses = ("--address", ",".join(self.addresses()), "--timeout", "5")
        return subprocess.run(
            [program, *words, *addresses], capture_output=True, text=True, check=False
        )

    def status(self) -> dict[str, Any]:
        """What `roost status --json` shows; of a cluster without nodes when nobody answers."""
        ended = self.roost("status", "--json")
        return dict(json.loads(ended.stdout)) if ended.returncode == 0 else {"nodes": []}

    def live(self) -> dict[str, dict[str, Any]]:
        """The nodes that live, by their stores."""
        nodes = self.status()["nodes"]
        return {node["store_id"]: node for node in nodes if node["standing"] == "live"}

    def store_of(self, container: Any) -> str:
        """Of the node in it."""
        name = container.attrs["Config"]["Hostname"]
        return next(store for store, node in self.live().items() if name in node["address"])

    def wait_until_in_sync(self, nodes: int) -> None:
        """All these nodes live, every shard has all its copies, and none is on its way."""

        def settled() -> bool:
            status = self.status()
            live = [one for one in status["nodes"] if one["standing"] == "live"]
            return len(live) == nodes and status["states"] == {"in sync": SHARDS}

        wait_until(settled, lambda: f"{nodes} nodes in sync: {self.status()}")

    def logs(self) -> str:
        """The end of what each container said, but etcd, for a failure."""
        return "\n".join(
            f"-- {one.name} ({one.status})\n{one.logs(tail=40).decode(errors='replace')}"
            for service in ("node", "router")
            for one in self.containers(service)
        )


def wait_until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"not within {WAIT_S} s: {what()}"
        time.sleep(0.2)


def ip_of(container: Any) -> str:
    container.reload()
    networks = container.attrs["NetworkSettings"]["Networks"]
    return str(networks[f"{NAME}_default"]["IPAddress"])


def cut(container: Any, others: Iterable[Any]) -> None:
    """No packet passes between it and these any more; connections stay open."""
    for address in map(ip_of, others):
        _iptables(container, "-A", "INPUT", "-s", address, "-j", "DROP")
        _iptables(container, "-A", "OUTPUT", "-d", address, "-j", "DROP")


def mend(container: Any) -> None:
    _iptables(container, "-F", "INPUT")
    _iptables(container, "-F", "OUTPUT")


def _iptables(container: Any, *words: str) -> None:
    namespace = ("nsenter", "--target", str(container.attrs["State"]["Pid"]), "--net")
    subprocess.run([*namespace, "iptables", "--wait", *words], check=True, capture_output=True)


def _two_free_ports() -> str:
    """Side by side, as the compose file wants them."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return f"{port}-{port + 1}"
