"""Routers: the real core, over simulated links to nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from roost.cluster.shard_map import ShardRecord
from roost.wire.messages import MAYBE_EFFECT, ErrorInfo, Outcome, Reply, Status
from roost_router.core.admission import Admission
from roost_router.core.calls import Link
from roost_router.core.forward import Forwarder
from roost_router.core.table import Table
from simulator.routing_links import SHAPE, TICK_MS, Pipe
from simulator.routing_nodes import NodeEnd

if TYPE_CHECKING:
    from simulator.routing import World
    from simulator.routing_callers import ClientEnd


class SimulatedWords:
    def reply(self, status: Status, info: ErrorInfo) -> bytes:
        return msgspec.msgpack.encode(Reply(0, int(status), b"", 0, info))

    def outcome(self, status: Status, info: ErrorInfo) -> bytes:
        return msgspec.msgpack.encode(Outcome(0, 0, status=int(status), error=info))

    def name(self, body: bytes) -> str:
        return "a call"

    def unsure(self, refusal: bytes) -> bytes:
        reply = msgspec.msgpack.decode(refusal, type=Reply)
        assert reply.error is not None, "a refusal says why"
        reply.error = msgspec.structs.replace(reply.error, took_effect=MAYBE_EFFECT)
        return msgspec.msgpack.encode(reply)


class Router:
    """The real core, with simulated links; a crash forgets everything."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self.number = number
        self.is_up = True
        self.life = 0
        self.sessions: list[ClientEnd] = []
        self._begin()

    def _begin(self) -> None:
        world = self._world
        self.life += 1
        self.table = Table()
        self.table.on_shape(SHAPE)
        self.core = Forwarder(
            self.table,
            Admission(world.calls_max, 2**30),
            SimulatedWords(),
            world.rng.random,
            self._new_link,
        )
        self._pipes: dict[str, Pipe] = {}
        self._tick(self.life)

    def now_ms(self) -> int:
        return int(self._world.time.now_ms)

    def _tick(self, life: int) -> None:
        if life == self.life and self.is_up:
            self.core.on_tick(self.now_ms())
            self._world.time.after(TICK_MS, lambda: self._tick(life))

    def hear(self, news: list[ShardRecord]) -> None:
        self.core.on_news(news)

    def _new_link(self, address: str) -> Link:
        life = self.life
        link = Link(address, lambda: self._world.time.after(0.1, lambda: self._flush(link, life)))
        self._connect(link, life)
        return link

    def _connect(self, link: Link, life: int) -> None:
        world = self._world
        node = world.nodes[int(link.address.split(":")[1])]

        def connect() -> None:
            if life != self.life or not self.is_up:
                return
            if not node.is_up or node.frozen_until_ms:
                world.time.after(50, connect)
                return
            end = NodeEnd(node, self, link)
            node.ends.append(end)

            def lost() -> None:
                if life == self.life and self.is_up:
                    self.core.on_link_lost(link)
                    self._connect(link, life)

            end.pipe = self._pipes[link.address] = Pipe(world, [lost])
            self._ends[link.address] = end
            self.core.on_link_open(link)

        world.time.after(world.rng.random() * 10, connect)

    @property
    def _ends(self) -> dict[str, NodeEnd]:
        ends: dict[str, NodeEnd] = self.__dict__.setdefault("_ends_by_address", {})
        return ends

    def _flush(self, link: Link, life: int) -> None:
        if life == self.life and self.is_up and link.outgoing:
            self._ends[link.address].take(link.take())

    def crash(self) -> None:
        world = self._world
        self.is_up = False
        for pipe in self._pipes.values():
            pipe.is_alive = False
        for session in self.sessions:
            session.pipe.cut()
        self.sessions = []

        def restart() -> None:
            self.is_up = True
            self._begin()
            world.tell(self)

        world.time.after(world.rng.random() * 200, restart)
