"""Routers between clients and nodes, in one process, driven by one seed.

The cores are the real ones: the callers' `CallSession`, the routers' `Forwarder` and map, the nodes'
`CallerOrder`. Simulated are time, links (late, broken at any moment, with what was under way lost)
and the nodes: they execute calls of the shards they own in truth, remember answers by request id,
crash, freeze, drain, refuse, and hand shards over. News of the map comes late, twice, from nodes that
are behind. What really happened is in `Truth`, beyond all of them.

Beside `World`: `routing_nodes.py`, `routing_routers.py`, `routing_callers.py`, and `routing_links.py` between them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from roost.cluster.shard_map import ShardRecord
from roost.wire.messages import Call
from simulator.routing_links import SHARDS, Time
from simulator.routing_nodes import Node
from simulator.routing_routers import Router

FOREVER_MS = 10_000_000


@dataclass
class Truth:
    """What took effect."""

    owner: list[int]
    epoch: list[int]
    answers: dict[bytes, int] = field(default_factory=dict)  # by request id
    effects: dict[bytes, int] = field(default_factory=dict)  # how often
    started: dict[tuple[str, int], list[int]] = field(default_factory=dict)  # by object and stub


class Taste:
    """How often each fault comes; every seed has its own."""

    def __init__(self, rng: random.Random) -> None:
        self.delay_ms = rng.choice((0.2, 2, 20))
        self.work_ms = rng.choice((0.1, 1, 5))
        self.break_link = rng.choice((0, 0.001, 0.01))
        self.refuse = rng.choice((0, 0.02, 0.2))
        self.fault_every_ms = rng.choice((50, 200, 1000))
        self.favour = rng.choice(("crash", "freeze", "drain", "move", "router", "mixed"))


class World:
    """Routers, nodes, callers."""

    def __init__(
        self, seed: int, *, nodes: int = 3, routers: int = 2, calls_max: int = 10_000
    ) -> None:
        self.rng = random.Random(seed)
        self.taste = Taste(self.rng)
        self.time = Time()
        self.calls_max = calls_max
        self.faulty = True
        self.truth = Truth([s % nodes for s in range(SHARDS)], [1] * SHARDS)
        self.nodes = [Node(self, number) for number in range(nodes)]
        self.routers = [Router(self, number) for number in range(routers)]
        self.failures: list[str] = []
        for router in self.routers:
            self.tell(router)
        self._nemesis()

    def record(self, shard: int) -> ShardRecord:
        owner = self.truth.owner[shard]
        return ShardRecord(shard, self.truth.epoch[shard], f"s{owner}", f"node:{owner}")

    def tell(self, router: Router) -> None:
        """The map, after a while, perhaps twice; what comes late is old by then."""
        news = [self.record(shard) for shard in range(SHARDS)]
        for _ in range(self.rng.choice((1, 1, 2))):
            late_ms = self.rng.random() * 100
            self.time.after(late_ms, lambda: router.hear(news) if router.is_up else None)

    def move(self, shard: int, to: int | None = None) -> None:
        """A shard gets another owner, or its owner another session."""
        up = [n.number for n in self.nodes if n.is_well]
        if to is None:
            if not up:
                self.time.after(500, lambda: self.move(shard))
                return
            to = self.rng.choice(up)
        self.truth.owner[shard] = to
        self.truth.epoch[shard] += 1
        for router in self.routers:
            self.tell(router)

    def _nemesis(self) -> None:
        rng = self.rng
        self.time.after(rng.random() * 2 * self.taste.fault_every_ms, self._nemesis)
        if not self.faulty:
            return
        fault = self.taste.favour
        if fault == "mixed" or rng.random() < 0.3:
            fault = rng.choice(("crash", "freeze", "drain", "move", "router"))
        node = rng.choice(self.nodes)
        if fault == "crash" and node.is_up:
            node.crash()
        elif fault == "freeze" and node.is_up:
            if sum(n.is_well for n in self.nodes) < 2:
                return
            node.freeze(rng.choice((100, 2_000, FOREVER_MS)))
            for shard, owner in enumerate(self.truth.owner):
                if owner == node.number:  # a live replica is promoted after a while
                    self.time.after(1_500, lambda s=shard: self.move(s))  # type: ignore[misc]
        elif fault == "drain" and node.is_up and not node.is_draining:
            node.drain()
        elif fault == "move":
            self.move(rng.randrange(SHARDS))
        elif fault == "router":
            router = rng.choice(self.routers)
            if router.is_up:
                router.crash()

    def check_order(self, call: Call) -> None:
        started = self.truth.started[call.key, call.stub_id]
        if len(started) > 1 and started[-1] < started[-2]:
            self.failures.append(f"{call.key}: stub {call.stub_id} started {started[-2:]}")
        if self.truth.effects[call.request_id] > 1:
            self.failures.append(f"{call.key}: sequence {call.sequence} took effect twice")
