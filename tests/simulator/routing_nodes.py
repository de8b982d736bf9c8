"""Nodes as routers see them: they execute what they own, remember it, and go wrong in many ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from roost.cluster.ids import shard_of
from roost.cluster.shard_map import ShardRecord
from roost.wire.messages import Call, ErrorInfo, Reply, Skip, Status
from roost_node.core.caller_order import Admission as Turn
from roost_node.core.caller_order import CallerOrder
from roost_router.core.calls import Kind, Link, Sent
from simulator.routing_links import SHAPE, SHARDS, Pipe

if TYPE_CHECKING:
    from simulator.routing import World
    from simulator.routing_routers import Router

ORDER_WAIT_MS = 1_000


class Node:
    """Executes what it owns."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self.number = number
        self.address = f"node:{number}"
        self.life = 0
        self.is_up = True
        self.is_draining = False
        self.frozen_until_ms = 0.0
        # Of one epoch: an owner that was deposed has forgotten all when it comes back.
        self._orders: dict[tuple[str, int, int], CallerOrder[tuple[Call, NodeEnd]]] = {}
        self._running: dict[tuple[bytes, int], list[tuple[int, NodeEnd]]] = {}
        self._free_ms: dict[str, float] = {}
        self._waiting: list[Callable[[], None]] = []
        self.ends: list[NodeEnd] = []

    def crash(self) -> None:
        world = self._world
        self.is_up = False
        self.is_draining = False
        self.life += 1
        self._orders, self._running, self._free_ms = {}, {}, {}
        self._waiting, self.frozen_until_ms = [], 0.0
        for end in self.ends:
            end.pipe.cut()
        self.ends = []
        world.time.after(world.rng.random() * 300, self._start)

    def _start(self) -> None:
        self.is_up = True
        for shard, owner in enumerate(self._world.truth.owner):
            if owner == self.number:  # a new session is a new epoch
                self._world.move(shard, self.number)

    def drain(self) -> None:
        """Say it, hand over, end, come back."""
        world = self._world
        self.is_draining = True
        for end in self.ends:
            end.say_leaving()
        for shard, owner in enumerate(world.truth.owner):
            if owner == self.number:
                world.time.after(world.rng.random() * 100, lambda s=shard: world.move(s))  # type: ignore[misc]
        world.time.after(200, self.crash)

    @property
    def is_well(self) -> bool:
        return self.is_up and not self.is_draining and not self.frozen_until_ms

    def freeze(self, for_ms: float) -> None:
        """It does nothing for a while, and then goes on as if nothing had been."""
        until_ms = max(self.frozen_until_ms, self._world.time.now_ms + for_ms)
        self.frozen_until_ms = until_ms
        self._world.time.at(
            until_ms, lambda: self.thaw() if self.frozen_until_ms == until_ms else None
        )

    def thaw(self) -> None:
        self.frozen_until_ms = 0.0
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()

    def thawed(self, then: Callable[[], None]) -> None:
        """Now, or when it is no longer frozen."""
        life = self.life

        def go() -> None:
            if self.is_up and life == self.life:
                then()

        if self.frozen_until_ms:
            self._waiting.append(go)
        else:
            go()

    def arrive(self, call: Call, end: NodeEnd) -> None:
        world = self._world
        shard = place(call.key)
        if world.truth.owner[shard] != self.number:
            if world.rng.random() < 0.5:
                end.say_moved(world.record(shard))
            end.refuse(call.id, Status.NOT_OWNER)
            return
        answer = world.truth.answers.get(call.request_id)
        epoch = world.truth.epoch[shard]
        order = self._orders.setdefault((call.key, call.stub_id, epoch), CallerOrder())
        if answer is not None:
            order.skip(call.sequence)
            end.reply(call.id, answer, world.truth.epoch[shard])
            self._enter_ready(order, epoch)
            return
        running = self._running.get((call.request_id, epoch))
        if running is not None:
            running.append((call.id, end))
            return
        if call.deadline_ms <= world.time.now_ms:
            end.refuse(call.id, Status.DEADLINE_EXCEEDED)
            return
        busy = world.faulty and world.rng.random() < world.taste.refuse
        if self.is_draining or busy:
            order.refuse(call.sequence)
            full = busy and world.rng.random() < 0.5
            end.refuse(call.id, Status.OVERLOADED if full else Status.UNAVAILABLE)
            return
        turn = order.arrive((call, end), call.sequence, call.oldest)
        if turn is Turn.REFUSE:
            end.refuse(call.id, Status.UNAVAILABLE)
            return
        self._running[call.request_id, epoch] = [(call.id, end)]
        if turn is Turn.START:
            self._start_call(call, epoch)
            self._enter_ready(order, epoch)
        else:
            world.time.after(
                min(ORDER_WAIT_MS, call.deadline_ms - world.time.now_ms),
                lambda: self.thawed(lambda: self._give_up_order(order, epoch)),
            )

    def _enter_ready(self, order: CallerOrder[tuple[Call, NodeEnd]], epoch: int) -> None:
        while (held := order.ready()) is not None:
            if (held[0].request_id, epoch) in self._running:
                self._start_call(held[0], epoch)

    def _give_up_order(self, order: CallerOrder[tuple[Call, NodeEnd]], epoch: int) -> None:
        for call, _ in order.take_held():
            for call_id, end in self._running.pop((call.request_id, epoch), []):
                end.refuse(call_id, Status.UNAVAILABLE)

    def _start_call(self, call: Call, epoch: int) -> None:
        """Objects are serial: it runs when those before it have."""
        world = self._world
        begins = max(self._free_ms.get(call.key, 0.0), world.time.now_ms)
        ends = self._free_ms[call.key] = begins + world.rng.random() * world.taste.work_ms
        life = self.life
        world.time.at(ends, lambda: self.thawed(lambda: self._execute(call, epoch, life)))

    def _execute(self, call: Call, epoch: int, life: int) -> None:
        if life != self.life or (call.request_id, epoch) not in self._running:
            return
        world, truth = self._world, self._world.truth
        shard = place(call.key)
        waiting = self._running.pop((call.request_id, epoch))
        if truth.epoch[shard] != epoch:
            for call_id, end in waiting:
                end.refuse(call_id, Status.NOT_OWNER)  # deposed: it releases nothing
            return
        truth.effects[call.request_id] = truth.effects.get(call.request_id, 0) + 1
        truth.started.setdefault((call.key, call.stub_id), []).append(call.sequence)
        truth.answers[call.request_id] = number = len(truth.answers) + 1
        for call_id, end in waiting:
            end.reply(call_id, number, truth.epoch[shard])
        world.check_order(call)

    def cancel(self, call_id: int, end: NodeEnd) -> None:
        for which, waiting in list(self._running.items()):
            if (call_id, end) in waiting:
                waiting.remove((call_id, end))
                if not waiting:
                    del self._running[which]
                return

    def skip(self, skip: Skip) -> None:
        epoch = self._world.truth.epoch[place(skip.key)]
        order = self._orders.get((skip.key, skip.stub_id, epoch))
        if order is not None:
            order.skip(skip.sequence)
            self._enter_ready(order, epoch)


def place(key: str) -> int:
    return shard_of("Cell", key, seed=SHAPE.seed, shards=SHARDS)


class NodeEnd:
    """A node's end of the stream to a router."""

    def __init__(self, node: Node, router: Router, link: Link) -> None:
        self.node = node
        self.router = router
        self.link = link
        self.pipe: Pipe

    def reply(self, call_id: int, number: int, epoch: int) -> None:
        self._answer(Reply(call_id, 0, b"%d" % number, epoch))

    def refuse(self, call_id: int, status: Status) -> None:
        self._answer(Reply(call_id, int(status), b"", 0, ErrorInfo(status.name)))

    def _answer(self, reply: Reply) -> None:
        body = msgspec.msgpack.encode(reply)
        core, link = self.router.core, self.link
        self.pipe.send(
            1,
            lambda: core.on_reply(
                link, reply.id, reply.status, reply.epoch, body, self.router.now_ms()
            ),
        )

    def say_moved(self, record: ShardRecord) -> None:
        self.pipe.send(1, lambda: self.router.hear([record]))

    def say_leaving(self) -> None:
        self.pipe.send(1, lambda: self.router.core.on_link_leaving(self.link))

    def take(self, messages: list[Sent]) -> None:
        """What the router sent arrives here, when the node is not frozen."""

        def deliver() -> None:
            if not self.pipe.is_alive:
                return
            for kind, number, body, oldest in messages:
                if kind is Kind.CALL:
                    call = msgspec.msgpack.decode(body, type=Call)
                    call.id = number
                    call.oldest = oldest or call.oldest
                    self.node.arrive(call, self)
                elif kind is Kind.CANCEL:
                    self.node.cancel(number, self)
                elif kind is Kind.SKIP:
                    self.node.skip(msgspec.msgpack.decode(body, type=Skip))

        self.pipe.send(0, lambda: self.node.thawed(deliver))
