"""Routers between clients and nodes, in one process, driven by one seed.

The cores are the real ones: the callers' `CallSession`, the routers' `Forwarder` and map, the nodes'
`CallerOrder`. Simulated are time, links (late, broken at any moment, with what was under way lost)
and the nodes: they execute calls of the shards they own in truth, remember answers by request id,
crash, freeze, drain, refuse, and hand shards over. News of the map comes late, twice, from nodes that
are behind. What really happened is in `Truth`, beyond all of them.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from roost.cluster.ids import HASH_NAME, shard_of
from roost.cluster.shard_map import Shape, ShardRecord
from roost.errors import RoostError
from roost.stub import Order
from roost.wire.messages import (
    Call,
    Cancel,
    ErrorInfo,
    Item,
    Outcome,
    Reply,
    Skip,
    Status,
    ToServer,
)
from roost.wire.session import CallSession, Waiting
from roost.wire.status import to_error
from roost_node.core.caller_order import Admission as Turn
from roost_node.core.caller_order import CallerOrder
from roost_router.core.admission import Admission
from roost_router.core.calls import Client, Forwarded, Kind, Link, Sent
from roost_router.core.forward import Forwarder
from roost_router.core.table import Table

SHARDS = 4
SHAPE = Shape("c", HASH_NAME, b"seed", SHARDS)
ORDER_WAIT_MS = 1_000
TICK_MS = 20
DEADLINE_MS = 60_000
FOREVER_MS = 10_000_000


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


@dataclass
class Truth:
    """What took effect."""

    owner: list[int]
    epoch: list[int]
    answers: dict[bytes, int] = field(default_factory=dict)  # by request id
    effects: dict[bytes, int] = field(default_factory=dict)  # how often
    started: dict[tuple[str, int], list[int]] = field(default_factory=dict)  # by object and stub


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


class SimulatedWords:
    def reply(self, status: Status, info: ErrorInfo) -> bytes:
        return msgspec.msgpack.encode(Reply(0, int(status), b"", 0, info))

    def outcome(self, status: Status, info: ErrorInfo) -> bytes:
        return msgspec.msgpack.encode(Outcome(0, 0, status=int(status), error=info))


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


class Asked(Waiting):
    """A call, and how it ended."""

    def __init__(self, call: Call, order: Order, on_end: Callable[[Asked], None]) -> None:
        super().__init__(call, order)
        self._on_end = on_end
        self.result = 0
        self.error: RoostError | None = None

    def end(self, reply: Reply | Outcome) -> None:
        assert isinstance(reply, Reply)
        if reply.status:
            self.error = to_error(reply.status, reply.error)
        else:
            self.result = int(reply.payload)
        self._on_end(self)

    def fail(self, error: RoostError) -> None:
        self.error = error
        self._on_end(self)

    def item(self, item: Item) -> None:
        raise AssertionError("no stream here")


class ClientEnd:
    """A router's end of a client's session."""

    def __init__(self, router: Router, caller: Caller) -> None:
        self.router = router
        self.client = Client(lambda: router._world.time.after(0.1, lambda: self._flush(caller)))
        self.pipe: Pipe

    def _flush(self, caller: Caller) -> None:
        messages = self.client.take()
        self.client.unread_bytes = 0
        if messages and not self.client.is_gone:

            def deliver() -> None:
                answers = []
                for _, number, body, _ in messages:
                    reply = msgspec.msgpack.decode(body, type=Reply)
                    reply.id = number
                    answers.append(reply)
                caller.session.on_messages(list(answers), int(self.router._world.time.now_ms))

            self.pipe.send(1, deliver)

    def take(self, message: ToServer) -> None:
        core = self.router.core
        if isinstance(message, Cancel):
            core.on_cancel(self.client, message.id)
        elif isinstance(message, Skip):
            body = msgspec.msgpack.encode(message)
            shard = place(message.key)
            core.on_skip(self.client, shard, message.stub_id, message.sequence, body)
        elif isinstance(message, Call):
            core.on_call(
                Forwarded(
                    self.client, Kind.CALL, message.id, msgspec.msgpack.encode(message),
                    place(message.key), message.deadline_ms, message.stub_id, message.sequence,
                    message.oldest,
                )
            )  # fmt: skip


class Caller:
    """A client with some stubs, each with some calls open at once; it uses one router at a time."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self.session = CallSession(world.rng.random, self._flush_soon)
        self._end: ClientEnd | None = None
        self._at = number
        self.ended: list[Asked] = []
        self.open_count = 0
        self._connect()
        self._tick()

    def _tick(self) -> None:
        self.session.on_tick(int(self._world.time.now_ms))
        self._world.time.after(TICK_MS, self._tick)

    def _connect(self) -> None:
        world = self._world
        router = world.routers[self._at % len(world.routers)]
        self._at += 1
        if not router.is_up:
            world.time.after(20, self._connect)
            return
        end = ClientEnd(router, self)

        def lost_here() -> None:
            self._end = None
            self.session.on_lost()
            self._connect()

        def lost_there() -> None:
            if router.is_up and end in router.sessions:
                router.core.on_client_gone(end.client)
                router.sessions.remove(end)

        end.pipe = Pipe(world, [lost_here, lost_there])
        router.sessions.append(end)
        self._end = end
        self._flush_soon()

    def _flush_soon(self) -> None:
        self._world.time.after(0.1, self._flush)

    def _flush(self) -> None:
        if self._end is not None and self.session.outgoing:
            messages, self.session.outgoing = self.session.outgoing, []
            end = self._end
            raw = msgspec.msgpack.encode(messages)
            kinds = [type(message) for message in messages]

            def deliver() -> None:
                for kind, one in zip(
                    kinds, msgspec.msgpack.decode(raw, type=list[msgspec.Raw]), strict=True
                ):
                    end.take(msgspec.msgpack.decode(one, type=kind))

            end.pipe.send(0, deliver)

    def call(self, key: str, order: Order, on_end: Callable[[Asked], None]) -> None:
        world = self._world
        self.open_count += 1

        def ended(asked: Asked) -> None:
            self.open_count -= 1
            self.ended.append(asked)
            on_end(asked)

        call = Call(
            0, "Cell", key, "add", b"", world.rng.randbytes(16), 0,
            int(world.time.now_ms) + DEADLINE_MS, order.stub_id, order.begin(),
        )  # fmt: skip
        self.session.start(Asked(call, order, ended))


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
