"""What the clients of the demo do, what they are told, and whether all of it is there in the end.

Guests count on some counters and chat in one room, one call after another, without a break. Each notes
what it was told: which number its increment or its message got. Afterwards every acknowledged
increment and message must be there, once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

import roost
from chat import Counter, Message, Room

COUNTERS = 8
CALLERS = 24  # some on each counter
POSTERS = 8


class Story:
    """The clients. `longest` and `rate` are of the calls that ended since some mark."""

    def __init__(self) -> None:
        self.counted: dict[str, list[int]] = {f"page-{n}": [] for n in range(COUNTERS)}
        self.posted: dict[int, str] = {}
        self.errors: list[BaseException] = []
        self.took: list[float] = []
        self.answers = [0] * (CALLERS + POSTERS)
        self.done = False

    def clients(self, clusters: list[roost.Cluster]) -> list[Coroutine[Any, Any, None]]:
        """All of them, spread over some connections."""
        names = list(self.counted)
        return [
            *(
                self._count(clusters[n % len(clusters)], names[n % COUNTERS], n)
                for n in range(CALLERS)
            ),
            *(self._chat(clusters[n % len(clusters)], CALLERS + n) for n in range(POSTERS)),
        ]

    async def _count(self, cluster: roost.Cluster, name: str, me: int) -> None:
        counter = cluster.object(Counter, name)
        while not self.done:
            await self._timed(me, counter.increment(), self.counted[name].append)

    async def _chat(self, cluster: roost.Cluster, me: int) -> None:
        room = cluster.object(Room, "lobby")
        number = 0
        while not self.done:
            number += 1
            text = f"guest {me} says {number}"
            await self._timed(me, room.post(f"guest-{me}", text), partial(self._note, text))

    def _note(self, text: str, number: int) -> None:
        self.posted[number] = text

    async def _timed(
        self, me: int, call: Coroutine[Any, Any, int], note: Callable[[int], None]
    ) -> None:
        started = time.perf_counter()
        try:
            note(await call)
        except roost.RoostError as error:
            self.errors.append(error)
        self.took.append(time.perf_counter() - started)
        self.answers[me] += 1

    async def all_answered(self) -> None:
        """Wait until every client was answered anew: none hangs."""
        before = list(self.answers)
        while any(now <= was for now, was in zip(self.answers, before, strict=True)):
            await asyncio.sleep(0.005)

    async def check(self, cluster: roost.Cluster, console: Console) -> bool:
        """Compare what was promised with what is there."""
        room: list[Message] = [m async for m in cluster.object(Room, "lobby").history()]
        there = {message.number: message.text for message in room}
        values = {name: await cluster.object(Counter, name).value() for name in self.counted}
        counted = sum(map(len, self.counted.values()))
        checks = {
            f"{counted:,} acknowledged increments, {sum(values.values()):,} in {COUNTERS} counters": (
                all(values[name] == len(told) for name, told in self.counted.items())
            ),
            "every increment got a number of its own": all(
                len(set(told)) == len(told) for told in self.counted.values()
            ),
            f"{len(self.posted):,} acknowledged messages, {len(room):,} in the room": (
                len(room) == len(self.posted)
            ),
            "every message is there as it was posted, and once": (
                all(there.get(number) == text for number, text in self.posted.items())
                and len(set(there.values())) == len(room)
            ),
            f"{len(self.errors)} errors reached a client": not self.errors,
        }
        for text, holds in checks.items():
            console.print(f"  {'[green]yes[/]' if holds else '[bold red]NO [/]'}  {text}")
        return all(checks.values())


class Figures:
    """A line for each event: what happened, calls/s, p50, p99 and the longest call meanwhile."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._table = Table(box=None, header_style="bold", padding=(0, 2))
        self._table.add_column("")
        for name in ("calls/s", "p50", "p99", "longest call"):
            self._table.add_column(name, justify="right")
        self.begin()

    def begin(self) -> None:
        """From here on."""
        self._from, self._began = len(self._story.took), time.perf_counter()

    def end(self, what: str) -> str:
        """Until here; the longest call, in words."""
        took = sorted(self._story.took[self._from :])
        rate = len(took) / (time.perf_counter() - self._began)
        p50, p99, longest = (_words(took[int((len(took) - 1) * part)]) for part in (0.5, 0.99, 1))
        self._table.add_row(what, f"{rate:,.0f}", p50, p99, longest)
        return longest

    def show(self, console: Console) -> None:
        """The table."""
        console.print(self._table)


def _words(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
