"""Callers that never stop for what is done to the servers, and what must be true of all that they saw.

Counters: every answer once, without a gap. Registers: reads and compare-and-swaps, linearizable. Logs:
every post is there once, where its receipt says, and was counted once by another object. Lines: the calls
of one stub start in the order in which they were made, many at a time. Any error ends the test.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import roost
from crash.app import PAGE, Counter, Line, Log, Register
from simulator.checkers import Operation, is_linearizable

T = TypeVar("T")
COUNTERS, COUNTERS_EACH = 4, 4
REGISTERS, REGISTERS_EACH = 3, 3
LOGS = 2
POSTERS = ("ann", "bob")
LINES = 2
BURST = 8


class Clients:
    """Callers over some connections, that go on until told to stop."""

    def __init__(self, clusters: Sequence[roost.Cluster], seed: int, pause_s: float = 0.0) -> None:
        """`pause_s`: the mean of what a caller waits between two calls."""
        self._clusters = clusters
        self._random = random.Random(seed)
        self._pause_s = pause_s
        self._callers = 0
        self._done: dict[int, int] = {}  # calls answered, by caller
        self._chains: set[int] = set()  # callers whose objects call others
        self.stop = False
        self.slowest_s = 0.0  # the longest call since somebody set this to 0
        self.slowest_chain_s = 0.0  # of those in which objects call others
        self.counted: dict[int, list[int]] = {n: [] for n in range(COUNTERS)}
        self.history: dict[int, list[Operation]] = {n: [] for n in range(REGISTERS)}
        self.posted: dict[int, dict[int, str]] = {n: {} for n in range(LOGS)}

    @property
    def answers(self) -> int:
        """How many calls were answered."""
        return sum(self._done.values())

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """All of them."""
        for number in range(COUNTERS):
            for _ in range(COUNTERS_EACH):
                tasks.create_task(self._count(number, *self._caller()))
        for number in range(REGISTERS):
            for _ in range(REGISTERS_EACH):
                tasks.create_task(self._swap(number, *self._caller()))
        for number in range(LOGS):
            for name in POSTERS:
                tasks.create_task(self._post(number, name, *self._caller(chain=True)))
        for number in range(LINES):
            tasks.create_task(self._stand_in_line(number, *self._caller()))

    async def move_on(self) -> None:
        """Until every caller was answered a call that it began after this one."""
        before = self._done.copy()
        while any(self._done[caller] < done + 2 for caller, done in before.items()):
            await asyncio.sleep(0.01)

    def _caller(self, *, chain: bool = False) -> tuple[int, roost.Cluster]:
        number = self._callers
        self._callers += 1
        self._done[number] = 0
        if chain:
            self._chains.add(number)
        return number, self._clusters[number % len(self._clusters)]

    async def _timed(self, caller: int, call: Awaitable[T]) -> T:
        start = time.monotonic()
        result = await call
        took_s = time.monotonic() - start
        if caller in self._chains:
            self.slowest_chain_s = max(self.slowest_chain_s, took_s)
        else:
            self.slowest_s = max(self.slowest_s, took_s)
        self._done[caller] += 1
        return result

    async def _pause(self, shortest_s: float = 0.0) -> None:
        await asyncio.sleep(max(shortest_s, self._pause_s) * 2 * self._random.random())

    async def _count(self, number: int, caller: int, cluster: roost.Cluster) -> None:
        stub = cluster.object(Counter, f"{number}")
        while not self.stop:
            self.counted[number].append(await self._timed(caller, stub.add()))
            await self._pause()

    async def _swap(self, number: int, caller: int, cluster: roost.Cluster) -> None:
        stub = cluster.object(Register, f"{number}")
        value = 0
        while not self.stop:
            request: tuple[Any, ...]
            start = time.monotonic()
            if self._random.random() < 0.5:
                request = ("get",)
                result: Any = await self._timed(caller, stub.get())
                value = result
            else:
                request = ("swap", value, self._random.randrange(5))
                result = await self._timed(caller, stub.swap(*request[1:]))
            self.history[number].append(Operation(start, time.monotonic(), request, result))
            await self._pause(0.005)

    async def _post(self, number: int, name: str, caller: int, cluster: roost.Cluster) -> None:
        stub = cluster.object(Log, f"{number}")
        count = 0
        while not self.stop:
            count += 1
            text = f"{name} {count}"
            self.posted[number][await self._timed(caller, stub.post(text))] = text
            await self._pause()

    async def _stand_in_line(self, number: int, caller: int, cluster: roost.Cluster) -> None:
        stub = cluster.object(Line, f"{number}")
        last = 0
        while not self.stop:
            calls = [stub.step_up(f"{caller}", last + n) for n in range(1, BURST + 1)]
            found = await asyncio.gather(*(self._timed(caller, call) for call in calls))
            assert list(found) == list(range(last, last + BURST)), f"out of order: {found}"
            last += BURST
            await self._pause(0.005)

    async def check(self) -> None:
        """When all have stopped: nothing is lost, doubled or out of order."""
        cluster = self._clusters[0]
        for number, answers in self.counted.items():
            assert sorted(answers) == list(range(1, len(answers) + 1)), f"counter {number}"
            assert await cluster.object(Counter, f"{number}").get() == len(answers)
        for number, history in self.history.items():
            assert is_linearizable(history, register, 0), f"register {number}"
        posts = 0
        for number, posted in self.posted.items():
            found = await _all_of(cluster.object(Log, f"{number}"))
            assert dict(enumerate(found, 1)) == posted, f"log {number}"
            posts += len(found)
        assert await cluster.object(Counter, "posts").get() == posts  # children: once each


async def _all_of(log: Log) -> list[str]:
    found: list[str] = []
    while page := await log.read(len(found)):
        found += page
        if len(page) < PAGE:
            break
    return found


def register(state: Any, request: Any) -> tuple[Any, Any]:
    """The sequential model of a `Register`."""
    if request[0] == "get":
        return state, state
    return (request[2], True) if state == request[1] else (state, False)
