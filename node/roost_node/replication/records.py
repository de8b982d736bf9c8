"""Reading and changing the coordination store's records, for the replicator.

Reads are of everything, one at a time, and shared: whoever wants news gets the next read that begins
after it asked. Hints of the store (O3) and a timer ask as well.

Changes that were asked for in one turn of the loop under the same conditions go out as one transaction
(M5): when a follower falls silent, or a node stops, that is all shards of a pair of nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from roost.cluster.ids import ShardId, ranges
from roost_node.core.record import OPERATIONS_MAX, Guard, Map, SessionId, Transaction
from roost_node.ownership.coordinator import (
    Coordinator,
    CoordinatorDownError,
    CoordinatorRefusedError,
    UnansweredError,
)
from roost_node.replication.announcements import SHOWN

log = logging.getLogger(__name__)

READ_EVERY_S = 0.5  # also keeps "answered within the last second" true (O6)
RETRY_S = 0.1


class Listener(Protocol):
    """The node's part in the cluster."""

    def on_map(self, found: Map, begun_ms: int, as_of: SessionId) -> None:
        """A read that was begun under that session."""

    def session_now(self) -> SessionId:
        """Our session."""

    def on_change_answered(
        self, shard: ShardId, token: int, succeeded: bool | None, revision: int
    ) -> None:
        """An answer, or none."""


class _Asked(msgspec.Struct):
    """One change: of a shard, by a number of its owner's."""

    shard: ShardId
    token: int
    transaction: Transaction


class Records:
    """One node's dealings with the records."""

    def __init__(
        self, coordinator: Coordinator, tasks: asyncio.TaskGroup, now_ms: Callable[[], int]
    ) -> None:
        self._coordinator = coordinator
        self._tasks = tasks
        self._now_ms = now_ms
        self._wanted = asyncio.Event()
        self._begun = 0  # reads
        self.finished = 0
        self.map: Map | None = None
        self._asked: list[_Asked] = []  # in this turn of the loop
        self.listener: Listener

    def read_soon(self) -> int:
        """Ask for a read that begins from now on; its number, for `finished`."""
        self._wanted.set()
        return self._begun + 1

    def change(self, shard: ShardId, token: int, transaction: Transaction) -> None:
        """Carry a change out and report its answer."""
        if not self._asked:
            asyncio.get_running_loop().call_soon(self._send_asked)
        self._asked.append(_Asked(shard, token, transaction))

    def _send_asked(self) -> None:
        asked, self._asked = self._asked, []
        for together in _together(asked):
            self._tasks.create_task(self._change(together))

    async def _change(self, together: list[_Asked]) -> None:
        swaps = tuple(swap for one in together for swap in one.transaction.swaps)
        wanted = Transaction(swaps, together[0].transaction.guards)
        succeeded: bool | None = None
        revision = 0
        try:
            applied = await self._coordinator.apply(wanted)
            succeeded, revision = applied.succeeded, applied.revision
            if not succeeded and len(together) > 1:
                for one in together:  # a shard that has moved on must not hold up the others
                    self._tasks.create_task(self._change([one]))
                return
        except UnansweredError:
            pass  # O2
        except (CoordinatorDownError, CoordinatorRefusedError) as error:
            succeeded = False  # certainly not carried out
            shards = ranges((one.shard for one in together), SHOWN)
            log.info("records not changed", extra={"shards": shards, "error": error.message})
        for one in together:
            self.listener.on_change_answered(one.shard, one.token, succeeded, revision)

    async def run(self) -> None:
        """Read when asked, hinted, or a while has passed."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_EVERY_S):
                    await self._wanted.wait()
            self._wanted.clear()
            self._begun += 1
            number, begun_ms = self._begun, self._now_ms()
            as_of = self.listener.session_now()
            try:
                found = await self._coordinator.read()
            except (CoordinatorDownError, CoordinatorRefusedError) as error:
                log.info("map not read", extra={"error": error.message})
                self._wanted.set()
                await asyncio.sleep(RETRY_S)
                continue
            self.finished = number
            self.map = found
            self.listener.on_map(found, begun_ms, as_of)

    async def watch(self) -> None:
        """Hints: something has changed (O3)."""
        async for _ in self._coordinator.changes(self.map.revision if self.map else 0):
            self.read_soon()


def _together(asked: list[_Asked]) -> list[list[_Asked]]:
    """Those under the same conditions, of different shards, as many as the store takes at once."""
    groups: dict[tuple[Guard, ...], list[list[_Asked]]] = {}
    for one in asked:
        guards = one.transaction.guards
        same = groups.setdefault(guards, [[]])
        is_full = len(same[-1]) + len(guards) >= OPERATIONS_MAX
        if is_full or any(one.shard == other.shard for other in same[-1]):
            same.append([])
        same[-1].append(one)
    return [group for same in groups.values() for group in same]
