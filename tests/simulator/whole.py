"""A whole cluster in one process, driven by one seed: nodes, routers, clients, etcd, disks, network.

Nodes, routers and clients are the real programs, put together as their composition roots do it; they
differ from those that users start in nothing but what is plugged in: an event loop whose time jumps
(`machines.py`), gRPC over a simulated network (`wire.py`, `network.py`), disks that lose what was not
flushed (`storage/memory.py`), a coordination store with bad days (`ownership/memory.py`).

`Whole` builds it and lets things happen to it; `plugs.py` plugs the simulated parts in; `havoc.py`
chooses what happens, `workload.py` calls, and `verdict.py` says whether every promise was kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from roost.cluster.ids import HASH_NAME, ShardId
from roost.errors import RoostError
from roost_node import cluster as member_module
from roost_node.config import Limits
from roost_node.core.clock import ServerClock
from roost_node.core.record import ClusterConfig, DeathRecord, StoreId
from roost_node.core.replication.owner import Owner
from roost_node.host import host as host_module
from roost_node.host.loader import specs_of
from roost_node.node import Node
from roost_node.ownership.faulty_registry import FaultyRegistry
from roost_node.ownership.memory import Fate, MemoryCoordinator
from roost_node.program import reachable
from roost_node.server import Server
from roost_node.storage.memory import LostFlushError, MemoryStore
from roost_router.router import Router
from roost_router.server import Server as RouterServer
from simulator.clients import Client
from simulator.history import ViolationError
from simulator.machines import MachineLoop, Process, seeded
from simulator.network import Network
from simulator.trace import Trace

EPOCH_MS = 1_700_000_000_000
SHARDS = 4


class Machine:
    """A computer with a disk, and the node that runs on it, if one does."""

    def __init__(self, name: str, store: MemoryStore) -> None:
        self.name = name
        self.store = store
        self.process: Process | None = None
        self.member: member_module.Member | None = None
        self.host: host_module.Host | None = None
        self.coordinator: MemoryCoordinator | None = None
        self.stop = asyncio.Event()
        self.wall_offset_ms = EPOCH_MS
        self.disks = 1  # how many it has had
        self.etcd_late_s = 0.0  # answers to its reads are on the way for longer by so much
        self.owners: dict[ShardId, tuple[int, Owner]] = {}  # the latest, with the generation
        self.is_unanswered = False  # its changes are carried out, and it is not told

    @property
    def is_up(self) -> bool:
        return self.process is not None and not self.process.is_dead

    @property
    def address(self) -> str:
        return f"{self.name}:7400"

    @property
    def store_id(self) -> StoreId:
        return StoreId(self.store.store_id)


class Whole:
    """Build it inside `simulate_machines`."""

    def __init__(
        self, loop: MachineLoop, seed: int, nodes: int, routers: int, *classes: type[Any]
    ) -> None:
        self.loop = loop
        self.seed = seed
        self.rng = seeded(seed, "world")
        self.trace = Trace(loop.time)
        self.network = Network(loop, seeded(seed, "network"))
        self.etcd = FaultyRegistry()
        self.flush_s = 0.002
        self.etcd_s = 0.005
        self.etcd_late = self.etcd_lost = 0.0
        self.classes = classes
        self.replicas = min(3, nodes)
        self.shards = SHARDS
        self.machines: dict[str, Machine] = {}
        for number in range(nodes):
            name = "abcdefgh"[number]
            store = MemoryStore(shards=SHARDS, seed=b"whole", store_id=name)
            self.machines[name] = Machine(name, store)
        self.routers: dict[str, Process | None] = {f"r{n}": None for n in range(routers)}
        self.rotten: set[tuple[ShardId, StoreId]] = set()  # copies with a row changed at rest
        self.failed: asyncio.Future[None] = loop.create_future()
        self._outside = contextvars.copy_context()  # of all processes
        self._clients = 0
        loop.set_exception_handler(self._on_loop_error)
        loop.after_step = self._after_step

    # -- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        config = ClusterConfig(
            "memory",
            SHARDS,
            b"whole",
            HASH_NAME,
            replicas=self.replicas,
            min_in_sync=max(1, self.replicas - 1),
            secret=b"known to nodes",
        )
        self.etcd.change(lambda registry: registry.create(config))
        for name in self.machines:
            self.boot(name)
        for name in self.routers:
            self.start_router(name)

    def boot(self, name: str) -> None:
        """Start the node of that machine."""
        machine = self.machines[name]
        if machine.is_up:
            return
        self.trace.note(f"{name} starts")
        process = machine.process = Process(name, self.loop)
        process.drift = 1 + self.rng.uniform(-0.01, 0.01)
        machine.stop = asyncio.Event()
        self._watch(process, process.start(self._node(machine, process)))

    async def _node(self, machine: Machine, process: Process) -> None:
        """What `roost_node.program` puts together, of other parts."""

        def wall_ns() -> int:
            return int((self.loop.time() * 1000 + machine.wall_offset_ms) * 1_000_000)

        def fatal(error: BaseException) -> None:
            if not isinstance(error, LostFlushError):
                self.fail(f"{process.name} ends itself", error)
            elif not process.is_dead:  # `os._exit`: no step more
                self.trace.note(f"a flush of {process.name} has failed")
                self.kill(machine.name, power=False, proven=self.rng.random() < 0.5)

        weather = functools.partial(self._weather, machine=machine)
        coordinator = machine.coordinator = MemoryCoordinator(self.etcd, weather)
        async with contextlib.AsyncExitStack() as stack:
            agreed = self.etcd.registry.config
            assert agreed is not None
            node = await stack.enter_async_context(
                Node(
                    None,  # type: ignore[arg-type]  # the store is given
                    specs_of(self.classes),
                    fatal,
                    limits=Limits(grace_s=0.5, hook_s=1, cancel_s=1),
                    clock=ServerClock(wall_ns, lambda: process.boot_ms() * 1_000_000),
                    store=machine.store,
                )
            )
            member = await stack.enter_async_context(
                member_module.Member(node, coordinator, agreed, "", 100)
            )
            server = Server(
                node, machine.name, 7400, insecure=True, view=coordinator, secret=agreed.secret
            )
            machine.member, machine.host = member, node.host
            await stack.enter_async_context(reachable(node, member, server, leave_s=5.0))
            await machine.stop.wait()
        machine.member = machine.host = None
        self.trace.note(f"{process.name} has stopped")
        process.kill()
        self.network.reset(process, silently=False)

    def start_router(self, name: str) -> None:
        process = self.routers[name] = Process(name, self.loop)
        self.trace.note(f"{name} starts")
        self._watch(process, process.start(self._router(name)))

    async def _router(self, name: str) -> None:
        router = Router([m.address for m in self.machines.values()])
        server = RouterServer(router, name, 7500, insecure=True)
        async with router:
            router.on_tick = server.hang_up_on_hoarders
            await server.start()
            await server.serve_when_ready()
            await asyncio.get_running_loop().create_future()

    def is_router_up(self, name: str) -> bool:
        process = self.routers[name]
        return process is not None and not process.is_dead

    def kill_router(self, name: str) -> bool:
        """Whether it ran."""
        process = self.routers[name]
        if process is None or process.is_dead:
            return False
        self.trace.note(f"{name} is killed")
        process.kill()
        self.network.reset(process, silently=False)
        return True

    @contextlib.asynccontextmanager
    async def client(self, *, direct: bool = False) -> AsyncIterator[Client]:
        """A client in a process of its own."""
        self._clients += 1
        process = Process(f"client{self._clients}", self.loop)
        client = Client(self, process, direct=direct)
        self._watch(process, process.start(client.run()))
        either: list[asyncio.Future[Any]] = [
            self.loop.create_task(client.ready.wait()),
            self.failed,
        ]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self.failed.done():
            self.failed.result()
        try:
            yield client
        finally:
            process.kill()

    # -- what happens to it ----------------------------------------------------------------

    def _on_owner(self, machine: Machine, shard: ShardId, owner: Owner) -> None:
        assert machine.host is not None, "owners are of nodes that run"
        generation = machine.host.ownership.generation()
        told, before = machine.owners.get(shard, (0, owner))
        if told == generation and owner.epoch <= before.epoch:
            raise ViolationError(
                f"{machine.name} begins epoch {owner.epoch} of shard {shard} after {before.epoch}"
            )
        machine.owners[shard] = generation, owner

    def act(self, doing: Coroutine[Any, Any, None]) -> None:
        """Something happens outside of all processes."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.fail("the simulation failed", error)

        self.loop.create_task(doing, context=self._outside).add_done_callback(ended)

    def machine_of(self, store: StoreId) -> Machine | None:
        """None: its disk was lost."""
        return next((m for m in self.machines.values() if m.store_id == store), None)

    def kill(self, name: str, *, power: bool, proven: bool) -> None:
        """`kill -9`, or the machine loses its power; `proven`: a supervisor saw it."""
        machine = self.machines[name]
        process = machine.process
        assert process is not None
        session = self.etcd.registry.sessions.get(machine.store_id)
        unflushed = machine.store.unflushed_count
        survives = self.rng.randint(0, unflushed) if power else unflushed
        self.trace.note(f"{name} {'loses power' if power else 'is killed'}, keeps {survives}")
        process.kill()
        machine.member = machine.host = None
        machine.store = machine.store.crash(survives)
        self.network.reset(process, silently=power)
        if proven and session is not None:
            death = DeathRecord(session.store, session.session)
            supervisor = MemoryCoordinator(self.etcd, self._weather)
            self.act(_tell_death(supervisor, death))

    def may_wipe(self, machine: Machine) -> bool:
        """Would every shard keep two copies that count, and can the lost one's session be ended for good?

        It can where etcd answers, and where no new session of that store is on its way there.
        """
        if not self.etcd.is_up or self.etcd.is_frozen or not self.is_registered(machine):
            return False
        there = {one.store_id for one in self.machines.values()} - {machine.store_id}
        records = [versioned.record for versioned in self.etcd.registry.shards.values()]
        return all(len(there.intersection(record.in_sync)) >= 2 for record in records)

    def is_registered(self, machine: Machine) -> bool:
        """Does its node run, in a session that etcd has?"""
        if machine.member is None:
            return False
        info = self.etcd.registry.sessions.get(machine.store_id)
        return info is not None and info.session == machine.member.replicas.session

    def wipe(self, name: str) -> None:
        """The machine's disk is lost. It comes back with an empty one, and that is another store.

        Its session ends at once. While a lost store looks alive it may be promoted, and where the sessions of
        the others are lost in that time it is in the end the only copy that counts: the shard waits for it for
        good (M8). Those are three losses in three seconds, of which nobody promises to survive two.
        """
        machine = self.machines[name]
        session = self.etcd.registry.sessions[machine.store_id].session
        self.kill(name, power=True, proven=False)
        self.etcd.end_session(session)
        machine.disks += 1
        machine.owners.clear()  # it remembers nothing, and others do not know it
        machine.store = MemoryStore(shards=SHARDS, seed=b"whole", store_id=f"{name}{machine.disks}")
        self.trace.note(f"the disk of {name} is lost, the next one is {machine.store_id}")

    def freeze(self, name: str, *, asleep: bool) -> None:
        """SIGSTOP, or the machine is suspended."""
        process = self.machines[name].process
        assert process is not None
        self.trace.note(f"{name} {'is suspended' if asleep else 'is frozen'}")
        process.freeze()
        self.network.changed()

    def thaw(self, process: Process, slept_s: float) -> None:
        if process.is_frozen:
            self.trace.note(f"{process.name} goes on")
            process.slept_ms += int(slept_s * 1000)
            process.thaw()
            self.network.changed()

    def _weather(self, kind: str, machine: Machine | None = None) -> Fate:
        rng = self.rng
        slow_s = self.etcd_s * (100 if rng.random() < self.etcd_late else 1)
        there_s, back_s = rng.random() * slow_s, rng.random() * slow_s
        loses = rng.random()
        lost = self.etcd_lost
        if machine is not None and machine.is_unanswered and kind == "apply":
            return Fate(there_s, back_s, answer_lost=True)
        if machine is not None and kind == "read":
            back_s += machine.etcd_late_s
        return Fate(there_s, back_s, loses < lost / 2, lost / 2 <= loses < lost)

    # -- watching --------------------------------------------------------------------------

    def fail(self, what: str, error: BaseException | None = None) -> None:
        """A promise is broken; the run ends."""
        if not self.loop.is_running():
            return  # what is closed at the end of a run is none of its acts
        self.trace.note(f"FAILED: {what}: {error!r}")
        if not self.failed.done():
            violation = ViolationError(f"{what}: {error!r}" if error is not None else what)
            violation.__cause__ = error
            self.failed.set_exception(violation)

    def _watch(self, process: Process, task: asyncio.Task[Any]) -> None:
        def ended(task: asyncio.Task[Any]) -> None:
            if not process.is_dead and not task.cancelled() and (error := task.exception()):
                if isinstance(error, LostFlushError):  # the last one, when it had been told to stop
                    self.kill(process.name, power=False, proven=False)
                else:
                    self.fail(f"{process.name} ended", error)

        task.add_done_callback(ended)

    def _on_loop_error(self, _: object, context: dict[str, Any]) -> None:
        self.fail(str(context.get("message")), context.get("exception"))

    def on_handler_error(self, process: Process, error: BaseException) -> None:
        self.fail(f"a handler of {process.name} failed", error)

    def _after_step(self, process: Process) -> None:
        """P3: whatever just happened there, nobody else may be able to release what it may.

        And nobody begins an epoch twice: its second beginning would be made of old news (H1).
        """
        machine = self.machines.get(process.name)
        if machine is None or machine.member is None:
            return
        now_ms = process.boot_ms()
        for shard, owner in machine.member.replicas.owners.items():
            if owner is not machine.owners.get(shard, (0, None))[1]:
                self._on_owner(machine, shard, owner)
            if owner.may_release_read(now_ms):
                for other in self.machines.values():
                    if other is not machine and self.may_release(other, shard):
                        raise ViolationError(
                            f"{process.name} and {other.name} may both release for shard {shard}"
                        )

    @property
    def is_short_of_a_store(self) -> bool:
        """Do records still name a store whose disk is lost?"""
        there = {machine.store_id for machine in self.machines.values()}
        records = [versioned.record for versioned in self.etcd.registry.shards.values()]
        return any(set(record.in_sync + record.learners) - there for record in records)

    def may_release(self, machine: Machine, shard: ShardId) -> bool:
        """Could it, now, if it had a step to do?"""
        member, process = machine.member, machine.process
        if member is None or process is None:
            return False
        owner = member.replicas.owners.get(shard)
        return owner is not None and owner.may_release_read(process.boot_ms())


async def _tell_death(coordinator: MemoryCoordinator, death: DeathRecord) -> None:
    for _ in range(5):
        with contextlib.suppress(RoostError):
            await coordinator.write_death(death)
            return
        await asyncio.sleep(0.2)
