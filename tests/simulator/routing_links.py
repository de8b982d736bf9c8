"""Time and links in the simulation of routers."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

from roost.cluster.ids import HASH_NAME
from roost.cluster.shard_map import Shape

if TYPE_CHECKING:
    from simulator.routing import World

SHARDS = 4
SHAPE = Shape("c", HASH_NAME, b"seed", SHARDS)
TICK_MS = 20
DEADLINE_MS = 60_000


class Time:
    """Events in the order of their time."""

    def __init__(self) -> None:
        self.now_ms = 1_000.0
        self._count = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, delay_ms: float, then: Callable[[], None]) -> None:
        self.at(self.now_ms + delay_ms, then)

    def at(self, when_ms: float, then: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when_ms, self._count, then))

    def run(self, until: Callable[[], bool], end_ms: float) -> bool:
        """Until it is so; False: the time was over before."""
        while self._events and not until():
            when_ms, _, then = heapq.heappop(self._events)
            if when_ms > end_ms:
                return False
            self.now_ms = when_ms
            then()
        return until()


class Pipe:
    """A stream between two: in order, late; it breaks as a whole."""

    def __init__(self, world: World, on_lost: list[Callable[[], None]]) -> None:
        self._world = world
        self._on_lost = on_lost
        self._last_ms = [0.0, 0.0]
        self.is_alive = True
        self.frozen_until_ms = 0.0

    def send(self, way: int, deliver: Callable[[], None]) -> None:
        world = self._world
        arrives = world.time.now_ms + world.rng.random() * world.taste.delay_ms
        self._last_ms[way] = max(self._last_ms[way], arrives)
        world.time.at(self._last_ms[way], lambda: deliver() if self.is_alive else None)
        if world.rng.random() < world.taste.break_link and world.faulty:
            world.time.after(world.rng.random() * 5, self.cut)

    def cut(self) -> None:
        """Both ends notice, each in its own time; what is under way is gone."""
        if self.is_alive:
            self.is_alive = False
            for on_lost in self._on_lost:
                self._world.time.after(self._world.rng.random() * 30, on_lost)
