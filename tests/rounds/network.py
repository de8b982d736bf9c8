"""Machines on one machine: a network namespace each, joined by a bridge, with links that can be cut.

`sealed` puts a program into namespaces of its own (network, mounts, processes). What it makes there,
interfaces, namespaces and processes, ends with it, even by `kill -9`; nothing in it can reach, or be reached
by, anything outside. It needs root, or a kernel that lets users have namespaces; `why_not` says what is missing.

A cut goes one way: the sender is told a hardware address for the other that nobody has. Its packets leave and
vanish, nobody gets an error or a reset, and what comes the other way arrives. So connections stay open, as
when a cable is cut or a rule of a firewall is wrong.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BRIDGE = "roost-br"
NOBODY = "02:00:00:00:00:99"
PROBE = (
    "mount -t tmpfs tmpfs /run && ip link add roost-br type bridge && ip netns add roost-a"
    " && nsenter --net=/run/netns/roost-a true"
)
MAY = (1 << 21) | (1 << 12)  # CAP_SYS_ADMIN, CAP_NET_ADMIN


def sealed(*command: str) -> list[str]:
    """The command that runs this one in a network of its own, and ends it with its caller."""
    rootless = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return [
        *("setpriv", "--pdeathsig", "KILL", "unshare", *rootless, "--net", "--mount"),
        *("--pid", "--fork", "--kill-child", "--mount-proc", *command),
    ]


def why_not() -> str:
    """What keeps `sealed` programs from building a network here; empty: nothing."""
    for tool in ("setpriv", "unshare", "nsenter", "mount", "ip"):
        if shutil.which(tool) is None:
            return f"the program {tool} is missing (packages util-linux, iproute2)"
    done = subprocess.run(sealed("sh", "-c", PROBE), capture_output=True, text=True, check=False)
    return done.stderr.strip().replace("\n", "; ") if done.returncode else ""


def is_administrator() -> bool:
    """Whether this process may make network namespaces, whatever tools there are."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith("CapEff"))
    return int(found.split()[1], 16) & MAY == MAY


class Network:
    """Machines by name. This process sits at the bridge and reaches all of them."""

    def __init__(self) -> None:
        assert os.getpid() == 1, "to be made by a sealed program: elsewhere it would be in the way"
        self._numbers = itertools.count(1)
        self.addresses: dict[str, str] = {}
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        _ip("link", "set", "lo", "up")
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("addr", "add", "10.77.0.254/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")

    def add(self, name: str) -> str:
        """A machine; its address."""
        space, address = f"roost-{name}", f"10.77.0.{next(self._numbers)}"
        _ip("netns", "add", space)
        _ip("link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", space, "master", BRIDGE, "up")
        _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", space, "link", "set", device, "up")
        self.addresses[name] = address
        return address

    def inside(self, name: str, *command: str) -> list[str]:
        """The command that runs this one on a machine, under the same process id."""
        return ["nsenter", f"--net=/run/netns/roost-{name}", *command]

    def pids(self, name: str) -> list[int]:
        """The processes on a machine."""
        return [int(pid) for pid in _ip("netns", "pids", f"roost-{name}").split()]

    def signal(self, name: str, number: int) -> None:
        """To every one of them."""
        for pid in self.pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def cut(self, sender: str, to: str) -> None:
        """From now on nothing that `sender` sends reaches `to`."""
        lost = ("lladdr", NOBODY, "dev", "eth0", "nud", "permanent")
        _ip("-n", f"roost-{sender}", "neigh", "replace", self.addresses[to], *lost)

    def mend(self, sender: str, to: str) -> None:
        """It does again."""
        _ip("-n", f"roost-{sender}", "neigh", "del", self.addresses[to], "dev", "eth0")


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def run_sealed(module: str, arguments: Sequence[str]) -> int:
    """Run a module of these tests as a sealed program; the exit status."""
    folders = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        sealed(sys.executable, "-m", module, *arguments),
        env={**os.environ, "PYTHONPATH": folders},
        check=False,
    ).returncode
