"""The two places where the contract is tested, behind one face."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from coordination.etcd_process import Etcd
from roost_node.core.record import SessionId
from roost_node.ownership.coordinator import Coordinator
from roost_node.ownership.etcd import EtcdCoordinator
from roost_node.ownership.etcd_link import EtcdOptions
from roost_node.ownership.faulty_registry import FaultyRegistry
from roost_node.ownership.memory import MemoryCoordinator
from simulator.loop import simulate

Story = Coroutine[Any, Any, None]


class Place(Protocol):
    def run(self, story: Story) -> None:
        """To the end, on a loop of its own."""

    def connect(self) -> Coordinator:
        """Another node's view of the same cluster."""

    async def compact(self) -> None: ...

    async def end_session(self, session: SessionId) -> None:
        """Let its lease run out at once."""


class Memory:
    def __init__(self) -> None:
        self.store = FaultyRegistry()

    def run(self, story: Story) -> None:
        simulate(story)

    def connect(self) -> Coordinator:
        return MemoryCoordinator(self.store)

    async def compact(self) -> None:
        self.store.compact()

    async def end_session(self, session: SessionId) -> None:
        self.store.end_session(session)


_prefixes = (f"/roost/test-{n}" for n in itertools.count())


class RealEtcd:
    """A prefix of its own on an etcd that other tests use too."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self._prefix = next(_prefixes)
        self._open: list[Coordinator] = []

    def run(self, story: Story) -> None:
        async def to_the_end() -> None:
            try:
                async with asyncio.timeout(60):
                    await story
            finally:
                for coordinator in self._open:
                    await coordinator.close()

        asyncio.run(to_the_end())

    def connect(self) -> Coordinator:
        options = EtcdOptions((self._etcd.endpoint,), prefix=self._prefix)
        coordinator = EtcdCoordinator(options)
        self._open.append(coordinator)
        return coordinator

    async def compact(self) -> None:
        revision = (await self.connect().read()).revision
        await asyncio.to_thread(self._etcd.ctl, "compact", str(revision))

    async def end_session(self, session: SessionId) -> None:
        await asyncio.to_thread(self._etcd.ctl, "lease", "revoke", f"{session:x}")


async def until(condition: Callable[[], Coroutine[Any, Any, bool]], within_s: float = 20) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.02)
