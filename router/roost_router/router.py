"""The composition root: builds a router's parts, starts and stops them.

A router needs no disk and no coordination store: all that it knows it has from nodes, and all that it
forgets with its end its clients and the nodes still know.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from roost.adapters.direct import Identity
from roost.cluster.shard_map import ShardMap, ShardRecord
from roost_router.config import Limits
from roost_router.core.admission import Admission
from roost_router.core.calls import Link
from roost_router.core.clock import ServerTime
from roost_router.core.forward import Forwarder
from roost_router.core.table import Table
from roost_router.frames import PlainWords
from roost_router.links import LinkRunner, MapWatch
from roost_router.telemetry import Telemetry

NO_NODE = "the router runs, but reaches no node"
TICK_S = 0.005
WATCHES = 2


class Router:
    """`async with Router(...) as router`; how clients reach it is the server's business."""

    def __init__(
        self,
        nodes: Sequence[str],
        *,
        limits: Limits | None = None,
        trusted: bool = True,
        who: Identity | None = None,
    ) -> None:
        """`trusted`: whoever can reach this router may see tracebacks. `who`: the node it is part of."""
        self._who = who
        self._nodes = tuple(nodes)
        self._trusted = trusted
        self.limits = limits or Limits()
        self.monotonic_s = time.monotonic
        self.clock = ServerTime()
        self.table = Table()
        self.core = Forwarder(
            self.table,
            Admission(self.limits.open_calls_max, self.limits.open_bytes_max),
            PlainWords(),
            random.SystemRandom().random,
            self._new_link,
        )
        self.telemetry = Telemetry(self.core.counts)
        self.ready = asyncio.Event()  # a node has told the map and the time
        self.closing = False
        self.on_map: Callable[[ShardMap, Sequence[ShardRecord]], None] = lambda *_: None
        self.on_tick: Callable[[], None] = lambda: None
        self._tasks = asyncio.TaskGroup()
        self._runners: dict[str, LinkRunner] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._own: list[asyncio.Task[None]] = []
        self._gauges()

    async def __aenter__(self) -> Router:
        await self._tasks.__aenter__()
        watch = MapWatch(
            self._nodes,
            self._straight,
            self.table.on_shape,
            self._on_news,
            keepalive_s=self.limits.keepalive_s,
        )
        self._own = [self._tasks.create_task(watch.run(number)) for number in range(WATCHES)]
        self._own.append(self._tasks.create_task(self._tick()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in (*self._own, *self._running.values()):
            task.cancel()
        await self._tasks.__aexit__(None, None, None)

    def now_ms(self) -> int:
        """Server time."""
        return self.clock.now_ms(int(self.monotonic_s() * 1000))

    def behind(self, backlog_max: int) -> LinkRunner | None:
        """A link whose node has not taken what it was sent."""
        for runner in self._runners.values():
            if len(runner.link.outgoing) > backlog_max:
                return runner
        return None

    def _new_link(self, address: str) -> Link:
        runner = LinkRunner(
            address,
            self.core,
            self.clock,
            self.monotonic_s,
            self._straight,
            self._who,
            keepalive_s=self.limits.keepalive_s,
            trusted=self._trusted,
        )
        self._runners[address] = runner
        self._running[address] = self._tasks.create_task(runner.run())
        return runner.link

    def _straight(self) -> list[str]:
        """Nodes that are reached straight: by their way others may be."""
        links, own = self.core.links.values(), self._who.address if self._who is not None else ""
        return [
            link.address for link in links if link.is_open and not link.via and link.address != own
        ]

    def _on_news(self, news: Sequence[ShardRecord]) -> None:
        changed = self.core.on_news(news)
        if changed:
            self.on_map(self.table.map, changed)
            self._drop_unused()

    def _drop_unused(self) -> None:
        """Links to addresses that the map names no more; what is under way on them ends first."""
        used = self.table.map.addresses()
        for address, link in list(self.core.links.items()):
            if address not in used and not link.attempts:
                self.core.forget_link(link)
                self._running.pop(address).cancel()
                del self._runners[address]

    async def _tick(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(TICK_S)
            if self.clock.is_known and self.table.is_known:
                self.ready.set()
            self.core.on_tick(self.now_ms())
            count += 1
            if count % 20 == 0:
                self.on_tick()
                if self.table.is_known:
                    self._drop_unused()

    def _gauges(self) -> None:
        core = self.core
        self.telemetry.gauges.update(
            {
                "roost_router_parked_calls": ("wait for an owner", lambda: core.parked_count),
                "roost_router_open_calls": ("no final answer yet", lambda: core.open_calls),
                "roost_router_open_bytes": ("of these calls", lambda: core.open_bytes),
                "roost_router_links_open": (
                    "nodes that can be sent to",
                    lambda: sum(link.is_open for link in core.links.values()),
                ),
                "roost_router_links_detoured": (
                    "of the open ones, over another node",
                    lambda: sum(link.is_open and bool(link.via) for link in core.links.values()),
                ),
                "roost_router_links": ("nodes that the map names", lambda: len(core.links)),
            }
        )
