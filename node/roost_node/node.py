"""The composition root: builds a node's parts, starts and stops them in order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from roost import __version__
from roost.adapters.transport import NodeStatus
from roost.cluster.ids import HASH_NAME
from roost.cluster.shard_map import Shape, ShardMap, ShardRecord
from roost.errors import StoreError
from roost.object import ClassSpec
from roost.wire.status import to_error
from roost_node.config import Limits
from roost_node.core.clock import ServerClock
from roost_node.host import life
from roost_node.host.call import Waiter
from roost_node.host.host import Host
from roost_node.replication.generation import read_generation
from roost_node.storage.engine import Store
from roost_node.storage.rocks import RocksStore
from roost_node.telemetry import Telemetry

EPOCH_ALONE = 1  # of a shard that has never had another owner
Fatal = Callable[[BaseException], None]


def _boot_time_ns() -> int:
    """Goes on while the machine sleeps, and is never set."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Node:
    """One store and the host of its objects; how callers reach it is its owner's business.

    `async with Node(...) as node: node.host.submit(...)`. Leaving drains: running calls may finish.
    """

    def __init__(
        self,
        path: Path,
        classes: Mapping[str, ClassSpec],
        on_fatal: Fatal,
        *,
        limits: Limits | None = None,
        check_effects: bool = False,
        clock: ServerClock | None = None,
        store: Store | None = None,
    ) -> None:
        self._path = path
        self._classes = classes
        self.on_fatal = on_fatal
        self._limits = limits or Limits()
        self._check_effects = check_effects
        self.clock = clock or ServerClock(time.time_ns, _boot_time_ns)
        self._given = store
        self.telemetry = Telemetry()
        self._tasks = asyncio.TaskGroup()
        self.started_ms = 0
        self._deletes = 0
        self._drained = False
        self._random = random.SystemRandom()

    async def __aenter__(self) -> Node:
        self.store: Store = self._given or RocksStore.open(self._path)
        try:
            if self._given is None and read_generation(self.store):
                raise StoreError(
                    f"{self._path} is a store of cluster {self.store.cluster_id}: what it wrote alone no other copy"
                    f" would get. Start it with --etcd"
                )
            await self._tasks.__aenter__()
            self.host = Host(
                self.store,
                self._classes,
                self._tasks,
                self.clock,
                self.on_fatal,
                limits=self._limits,
                telemetry=self.telemetry,
                check_effects=self._check_effects,
            )
            self._keeper = self._tasks.create_task(self.host.keeper.run())
        except BaseException:
            self.store.close()
            raise
        self.started_ms = self.clock.now_ms()
        self._gauges()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.drain()
            self.host.workers.close()
            self._keeper.cancel()
            await self._tasks.__aexit__(None, None, None)
        finally:
            await self.host.committer.close()
            self.store.close()

    async def drain(self) -> None:
        """Stop taking calls; what runs may finish within the grace period. May be called twice."""
        if not self._drained:
            self._drained = True
            await life.drain(self.host)

    async def reload(self, classes: Mapping[str, ClassSpec]) -> None:
        """Serve other classes from now on."""
        await life.reload(self.host, classes)

    async def delete_object(self, class_name: str, key: str) -> bool:
        """Delete all that an object stores; was there anything?"""
        waiter = Waiter(asyncio.get_running_loop())
        self._deletes += 1
        self.host.delete(class_name, key, waiter, self._deletes)
        reply = await waiter.future
        if reply.status:
            raise to_error(reply.status, reply.error)
        return reply.payload == b"1"

    def status(self) -> NodeStatus:
        """What it says of itself."""
        host = self.host
        return NodeStatus(
            self.store.store_id,
            self.store.cluster_id,
            __version__,
            self.clock.now_ms(),
            self.started_ms,
            tuple(sorted(host.classes)),
            len(host.activations),
            host.admission.open_calls,
            len(host.workers.ready),
            self.store.shards,
        )

    def shard_map(self, address: str) -> ShardMap:
        """Who owns what: this node everything, for as long as it is alone."""
        store = self.store
        shards = ShardMap(Shape(store.cluster_id, HASH_NAME, store.seed, store.shards))
        owner = store.store_id
        shards.merge(
            # A restart may have moved to another port, so a later start is later news.
            ShardRecord(shard, EPOCH_ALONE, owner, address, (owner,), change=self.started_ms)
            for shard in range(store.shards)
        )
        return shards

    def random_bits(self) -> int:
        """74 of them, for a request id."""
        return self._random.getrandbits(74)

    def _gauges(self) -> None:
        host = self.host
        self.telemetry.gauges.update(
            {
                "roost_activations": ("live objects", lambda: len(host.activations)),
                "roost_live_bytes": ("encoded size of live objects", lambda: host.size_bytes),
                "roost_open_calls": ("calls not ended", lambda: host.admission.open_calls),
                "roost_open_bytes": ("their arguments", lambda: host.admission.open_bytes),
                "roost_ready_calls": ("could run, have not", lambda: len(host.workers.ready)),
                "roost_commit_queue": (
                    "entries not flushed",
                    lambda: host.committer.pending_count,
                ),
                "roost_disk_free_bytes": ("of the store's disk", self.store.free_bytes),
            }
        )
