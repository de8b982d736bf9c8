"""A node and its clients in one process, driven by one seed.

The host, the client, the cores between them are the real ones; simulated are time, the network
(delays, reordering, loss, duplicates, late duplicates), the disk (it keeps a prefix of what was not
flushed) and the wall clock (it steps). A crash may come between any two steps of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from roost import client as client_module
from roost import stub as stub_module
from roost.adapters.transport import NodeStatus, ObjectDetail, ObjectPage, Opened, Receiver
from roost.client import Cluster
from roost.errors import UnavailableError
from roost.wire.messages import Call, Cancel, Credit, Query, Skip, ToClient, ToServer
from roost_node.core.clock import ServerClock
from roost_node.host import keeper as keeper_module
from roost_node.host.call import ActiveCall, Cancelled
from roost_node.host.flusher import Done
from roost_node.host.host import Host
from roost_node.host.loader import specs_of
from roost_node.storage.memory import MemoryStore

CLOCK_OFFSET_MS = 1_700_000_000_000
TICK_S = 0.1  # coarser than in life: runs are minutes long


class Taste:
    """How often each fault comes in one run; every seed has its own."""

    def __init__(self, rng: random.Random) -> None:
        def often(most: float) -> float:
            return most * rng.choice((0, 0.1, 0.5, 1))

        self.lose_reply = often(0.2)
        self.lose_request = often(0.1)
        self.duplicate = often(0.3)
        self.late_duplicate = often(0.2)
        self.crash = often(1.0)
        self.clock_step = often(0.5)
        self.reset = often(0.5)
        self.delay_s = rng.choice((0.0005, 0.005, 0.05))
        self.flush_s = rng.choice((0.0002, 0.002, 0.03))


class SimulatedFlusher:
    """A flush takes its time, and may be cut by a crash at any moment."""

    def __init__(self, world: World, incarnation: int) -> None:
        self._world = world
        self._incarnation = incarnation

    def start(self, flush: Callable[[], None], done: Done) -> None:
        world = self._world

        def finish() -> None:
            if world.incarnation == self._incarnation:
                flush()
                done(None)

        delay = world.rng.random() * world.taste.flush_s
        asyncio.get_running_loop().call_later(delay, finish)

    def close(self) -> None:
        """Nothing to end."""


class CrashableStore(MemoryStore):
    """After its crash, the process that had it open can change nothing any more."""

    dead = False

    def write(self, ops: Any) -> bool:
        return True if self.dead else super().write(ops)

    def sync(self) -> None:
        if not self.dead:
            super().sync()


class World:
    """Build it inside `simulate`."""

    def __init__(self, seed: int, *classes: type[Any]) -> None:
        self.rng = random.Random(seed)
        self.taste = Taste(self.rng)
        self.classes = classes
        self.loop = asyncio.get_running_loop()
        self.store = CrashableStore()
        self.incarnation = 0
        self.crashes = 0
        self.host: Host
        self.links: list[SimulatedLink] = []
        self.clock_offset_ms = CLOCK_OFFSET_MS
        self._tasks: asyncio.TaskGroup | None = None
        self._runner: asyncio.Task[None] | None = None
        self._started = asyncio.Event()

    def _monotonic_ns(self) -> int:
        return int(self.loop.time() * 1e9)

    def _wall_ns(self) -> int:
        return self._monotonic_ns() + self.clock_offset_ms * 1_000_000

    async def start(self) -> None:
        """Start the node's process."""
        self.incarnation += 1
        self._runner = self.loop.create_task(self._process(self.incarnation))
        await self._started.wait()

    async def _process(self, incarnation: int) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as tasks:
                self.host = Host(
                    self.store,
                    specs_of(self.classes),
                    tasks,
                    ServerClock(self._wall_ns, self._monotonic_ns),
                    self._fatal,
                    flusher=SimulatedFlusher(self, incarnation),
                )
                tasks.create_task(self.host.keeper.run())
                self._started.set()
                await asyncio.get_running_loop().create_future()

    def _fatal(self, error: BaseException) -> None:
        raise AssertionError("the store failed in the simulation") from error

    async def crash(self) -> None:
        """The process ends here; what was not flushed survives up to some batch."""
        self.crashes += 1
        self.incarnation += 1
        self.store.dead = True
        self._started = asyncio.Event()
        survives = self.rng.randint(0, self.store.unflushed_count)
        after = self.store.crash(survives)
        assert self._runner is not None
        for link in self.links:
            link.cut()
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)
        fresh = CrashableStore(shards=after.shards, seed=after.seed)
        fresh.write([(k, v) for k, v in after.iterate(b"", b"\xff" * 9)])
        fresh.sync()
        self.store = fresh
        await asyncio.sleep(self.rng.random() * 0.2)
        await self.start()

    async def stop(self) -> None:
        """End the run."""
        self.incarnation += 1
        self.store.dead = True
        assert self._runner is not None
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Cluster]:
        """A real client over the simulated network."""
        link = SimulatedLink(self)
        self.links.append(link)
        async with Cluster(link, timeout_s=600.0) as cluster:
            yield cluster

    def step_clock(self) -> None:
        """The wall clock is set, by up to two minutes, forwards or back."""
        self.clock_offset_ms = CLOCK_OFFSET_MS + self.rng.randint(-60_000, 60_000)


@contextlib.contextmanager
def seeded(rng: random.Random) -> Any:
    """Take all randomness of client and stubs from the seed."""
    before = client_module._random, client_module._ids, stub_module._random
    client_module._random = rng  # type: ignore[assignment]
    client_module._ids = rng
    stub_module._random = rng  # type: ignore[assignment]
    ticks = client_module.TICK_S, keeper_module.TICK_S
    client_module.TICK_S = keeper_module.TICK_S = TICK_S
    try:
        yield
    finally:
        client_module._random, client_module._ids, stub_module._random = before
        client_module.TICK_S, keeper_module.TICK_S = ticks


class SimulatedLink:
    """A `Transport` over a network that loses, delays, reorders and repeats."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._receiver: Receiver | None = None
        self._connection = 0

    async def open(self, receiver: Receiver) -> Opened:
        world = self._world
        await asyncio.sleep(world.rng.random() * 0.01)
        if world.store.dead or not world._started.is_set():
            raise UnavailableError("down")
        self._receiver = receiver
        self._connection += 1
        return Opened(world.host.now_ms(), "simulation")

    def cut(self) -> None:
        """The link breaks; messages under way may still arrive."""
        self._connection += 1
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self._world.loop.call_soon(receiver.on_lost, "cut")

    def send(self, messages: list[ToServer]) -> None:
        world = self._world
        rng, taste = world.rng, world.taste
        connection = _Connection(self, self._connection)
        for message in messages:
            raw = msgspec.msgpack.encode(message)
            kind = type(message)
            if rng.random() < taste.lose_request:
                world.loop.call_later(0.05, self._break, self._connection)
                return  # a stream does not lose messages, it breaks
            delays = [rng.random() * taste.delay_s]
            if kind is Call and rng.random() < taste.duplicate:
                delays.append(rng.random() * taste.delay_s)
            if kind is Call and rng.random() < taste.late_duplicate:
                delays.append(rng.random() * 90)
            for delay in delays:
                world.loop.call_later(
                    delay, self._arrive, msgspec.msgpack.decode(raw, type=kind), connection
                )

    def _break(self, connection: int) -> None:
        if connection == self._connection:
            self.cut()

    def _arrive(self, message: ToServer, connection: _Connection) -> None:
        world = self._world
        if not world._started.is_set() or connection.incarnation != world.incarnation:
            return  # it was sent to a process that has ended
        host = world.host
        if isinstance(message, Call):
            active = host.submit(message, connection)
            if active is not None:
                connection.calls[message.id] = active
        elif isinstance(message, Cancel):
            found = connection.calls.get(message.id)
            if found is not None:
                host.cancel(found, connection, message.id, Cancelled.CALLER)
        elif isinstance(message, Skip):
            host.skip(message)
        elif isinstance(message, Query):
            host.query(message, connection)
        elif isinstance(message, Credit):
            found = connection.calls.get(message.id)
            if found is not None:
                host.add_credit(found, message.items)

    def deliver(self, message: ToClient, number: int, incarnation: int) -> None:
        """An answer under way."""
        world = self._world
        if incarnation != world.incarnation:
            return  # the process ended before it had sent it
        if world.rng.random() < world.taste.lose_reply:
            world.loop.call_later(0.01, self._break, number)
            return

        def arrive() -> None:
            if number == self._connection and self._receiver is not None:
                self._receiver.on_messages([message])

        world.loop.call_later(world.rng.random() * world.taste.delay_s, arrive)

    async def close(self) -> None:
        self._receiver = None

    async def list_objects(
        self, class_name: str, prefix: str, limit: int, page_token: bytes
    ) -> ObjectPage:
        raise NotImplementedError

    async def show_object(self, class_name: str, key: str) -> ObjectDetail | None:
        raise NotImplementedError

    async def delete_object(self, class_name: str, key: str) -> bool:
        raise NotImplementedError

    async def status(self) -> NodeStatus:
        raise NotImplementedError


class _Connection:
    """The server's end of one connection (a `Sink`)."""

    def __init__(self, link: SimulatedLink, number: int) -> None:
        self._link = link
        self._number = number
        self.incarnation = link._world.incarnation
        self.calls: dict[int, ActiveCall] = {}

    def taken(self, call_id: int, active: ActiveCall) -> None:
        self.calls[call_id] = active

    def room(self) -> None:
        """The client's credit bounds what it is sent."""

    def send(self, message: ToClient) -> None:
        self._link.deliver(message, self._number, self.incarnation)
