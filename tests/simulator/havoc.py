"""What goes wrong in a run of the whole cluster, in the taste of its seed; and how it ends well."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from roost.cluster.ids import ShardId
from roost_node.core.record import StoreId
from roost_node.host.host import Host
from roost_node.ownership.memory import MemoryCoordinator
from simulator.whole import EPOCH_MS, Machine, Whole

DOUBT_S = 3.0


class Taste:
    """How often each fault comes; every seed favours some and suppresses others."""

    KINDS = (
        "kill", "power", "stop", "freeze", "suspend", "expire", "cut_one", "cut_away", "cut_etcd",
        "etcd_down", "etcd_frozen", "slow_net", "slow_disk", "slow_etcd", "lossy_etcd", "move",
        "drain", "router", "router_cut", "clock", "evict",
    )  # fmt: skip
    RARE = ("flush_fails", "wipe", "handoff_in_doubt", "late_reads")

    def __init__(self, rng: random.Random) -> None:
        self.weights = {kind: rng.choice((0, 0, 0.1, 1, 1, 3, 6)) for kind in self.KINDS}
        if not any(self.weights.values()):
            self.weights["kill"] = 1
        self.every_s = rng.choice((0.3, 1.0, 2.5))
        self.nodes = rng.choice((3, 3, 4))
        self.routers = rng.choice((1, 2))
        self.net_s = rng.choice((0.0005, 0.002, 0.01))
        self.flush_s = rng.choice((0.0005, 0.003, 0.02))
        self.etcd_s = rng.choice((0.002, 0.02, 0.08))
        self.pauses_s = rng.choice(((0, 0.01), (0, 0.1, 1), (0.3, 1.5)))
        self.length_s = rng.choice((8.0, 15.0, 25.0))
        self.repeats = rng.choice((0, 0, 0.1, 0.5))  # how many requests come twice
        self.repeats_late_s = rng.choice(((0.01, 0.3), (0.3, 5.0), (0.3, 5.0), (5.0, 90.0)))
        self.is_restored = rng.random() < 0.05  # etcd, from an old backup (`restored.py`)
        self.weights |= {kind: rng.choice((0, 0, 0, 0.3, 2)) for kind in self.RARE}
        self.has_rot = rng.random() < 0.05  # (`rot.py`)


class Havoc:
    """One run's bad luck."""

    def __init__(self, whole: Whole, taste: Taste, rng: random.Random) -> None:
        self.whole = whole
        self.taste = taste
        self.rng = rng
        self.count = 0
        self.is_over = False

    async def run(self, must_go_on: Callable[[], bool]) -> None:
        await self.strike_for(self.taste.length_s, must_go_on)
        self.heal()

    async def strike_for(
        self, seconds: float, must_go_on: Callable[[], bool] = lambda: False
    ) -> None:
        rng, taste = self.rng, self.taste
        end = self.whole.loop.time() + seconds
        while self.whole.loop.time() < end or must_go_on():
            await asyncio.sleep(rng.random() * 2 * taste.every_s)
            kind = rng.choices(list(taste.weights), list(taste.weights.values()))[0]
            self.count += 1
            getattr(self, kind)()

    # -- choosing --------------------------------------------------------------------------

    def _length_s(self) -> float:
        return self.rng.choice((0.03, 0.3, 1.0, 2.5, 6.0)) * self.rng.uniform(0.3, 1)

    def _up(self) -> Machine | None:
        up = [
            m
            for m in self.whole.machines.values()
            if m.is_up and m.process is not None and not m.process.is_frozen and not m.stop.is_set()
        ]
        return self.rng.choice(up) if up else None

    def _later(self, do: object, *args: object, after_s: float | None = None) -> None:
        def act() -> None:
            if not self.is_over:
                do(*args)  # type: ignore[operator]  # a method of ours

        self.whole.loop.call_later(self._length_s() if after_s is None else after_s, act)

    # -- nodes -----------------------------------------------------------------------------

    def kill(self, *, power: bool = False) -> None:
        machine = self._up()
        if machine is not None:
            self.whole.kill(machine.name, power=power, proven=not power and self.rng.random() < 0.5)
            self._later(self.whole.boot, machine.name)

    def power(self) -> None:
        self.kill(power=True)

    def flush_fails(self) -> None:
        """One fsync: that process ends, and is started again."""
        machine = self._up()
        if machine is not None and machine.host is not None:
            self.whole.trace.note(f"the next flush of {machine.name} fails")
            machine.store.next_flush_fails = True
            self._restart(machine)

    def wipe(self) -> None:
        """A disk is lost. Perhaps an operator says so; else others wait for its store, for a while."""
        machine = self._up()
        if machine is not None and self.whole.may_wipe(machine):
            lost = machine.store_id
            self.whole.wipe(machine.name)
            self._later(self.whole.boot, machine.name)
            if self.rng.random() < 0.5:
                self.whole.trace.note(f"{lost} is drained: it will not come back")
                self.whole.etcd.change(lambda registry: registry.drain(lost, True))

    def stop(self) -> None:
        """SIGTERM: it hands its shards over, ends, and is started again (a deploy)."""
        machine = self._up()
        if machine is not None:
            self.whole.trace.note(f"{machine.name} is told to stop")
            machine.stop.set()
            self._restart(machine)

    def _restart(self, machine: Machine) -> None:
        if machine.is_up:
            self._later(self._restart, machine, after_s=0.2)
        else:
            self.whole.boot(machine.name)

    def freeze(self, *, asleep: bool = False) -> None:
        machine = self._up()
        if machine is not None:
            length_s = self._length_s()
            process = machine.process
            assert process is not None
            self.whole.freeze(machine.name, asleep=asleep)
            # A suspended machine's CLOCK_MONOTONIC stood still, which is what its process can see.
            self._later(self.whole.thaw, process, length_s if asleep else 0.0, after_s=length_s)

    def suspend(self) -> None:
        self.freeze(asleep=True)

    def clock(self) -> None:
        """A wall clock is set, to up to a minute from the right time."""
        machine = self.rng.choice(list(self.whole.machines.values()))
        machine.wall_offset_ms = EPOCH_MS + self.rng.randint(-60_000, 60_000)
        self.whole.trace.note(f"the wall clock of {machine.name} is set")

    def evict(self) -> None:
        """Objects leave memory, or lose it."""
        machine = self._up()
        if machine is not None and machine.host is not None and machine.process is not None:
            self.whole.trace.note(f"{machine.name} forgets objects")
            self.whole.loop.call_soon(self._forget, machine.host, context=machine.process.context)

    def _forget(self, host: Host) -> None:
        for activation in list(host.activations.values()):
            if self.rng.random() < 0.5:
                host.reset(activation, "havoc")
            elif activation.may_leave:
                host.deactivate(activation, "idle")

    # -- the network -----------------------------------------------------------------------

    def _cut(self, *pairs: tuple[str, str]) -> None:
        network = self.whole.network
        self.whole.trace.note(f"cut {' '.join('>'.join(p) for p in pairs)}")
        for pair in pairs:
            network.cut(*pair)

        def heal() -> None:
            self.whole.trace.note(f"healed {' '.join('>'.join(p) for p in pairs)}")
            for pair in pairs:
                network.heal(*pair)

        self._later(heal)

    def cut_one(self) -> None:
        """One way, between two nodes."""
        one, two = self.rng.sample(list(self.whole.machines), 2)
        self._cut((one, two))

    def cut_away(self) -> None:
        """A node from some or all others, both ways."""
        victim = self.rng.choice(list(self.whole.machines))
        others = [name for name in self.whole.machines if name != victim]
        chosen = self.rng.sample(others, self.rng.randint(1, len(others)))
        self._cut(*[(victim, o) for o in chosen], *[(o, victim) for o in chosen])

    def router_cut(self) -> None:
        """A router from a node, one way or both; or a client from a router."""
        router = self.rng.choice(list(self.whole.routers))
        other = self.rng.choice([*self.whole.machines, "client1", "client2"])
        pairs = [(router, other), (other, router)]
        self._cut(*(pairs if self.rng.random() < 0.5 else pairs[:1]))

    def router(self) -> None:
        """A router is killed and started again."""
        name = self.rng.choice(list(self.whole.routers))
        if self.whole.kill_router(name):
            self._later(self.whole.start_router, name)

    def slow_net(self) -> None:
        self.whole.network.slow = 30.0
        self._later(self._quick_net)

    def _quick_net(self) -> None:
        self.whole.network.slow = 1.0

    def slow_disk(self) -> None:
        self.whole.flush_s = self.taste.flush_s * 30
        self._later(self._quick_disk)

    def _quick_disk(self) -> None:
        self.whole.flush_s = self.taste.flush_s

    # -- etcd ------------------------------------------------------------------------------

    def expire(self) -> None:
        sessions = self.whole.etcd.registry.sessions
        if sessions and self.whole.etcd.is_up:
            info = sessions[self.rng.choice(sorted(sessions))]
            self.whole.trace.note(f"the session of {info.store} is lost")
            self.whole.etcd.end_session(info.session)

    def cut_etcd(self) -> None:
        machine = self._up()
        if machine is not None and machine.coordinator is not None:
            self._cut_etcd(machine.coordinator, machine.name)

    def _cut_etcd(self, coordinator: MemoryCoordinator, name: str) -> None:
        self.whole.trace.note(f"cut {name}>etcd")
        coordinator.is_cut = True

        def heal() -> None:
            coordinator.is_cut = False

        self._later(heal)

    def etcd_down(self) -> None:
        self.whole.trace.note("etcd is down")
        self.whole.etcd.stop()
        self._later(self._etcd_back)

    def etcd_frozen(self) -> None:
        """Requests are carried out when it goes on, whoever still waits (O2)."""
        self.whole.trace.note("etcd is frozen")
        self.whole.etcd.freeze()
        self._later(self._etcd_back)

    def _etcd_back(self) -> None:
        self.whole.trace.note("etcd is back")
        self.whole.etcd.resume()

    def slow_etcd(self) -> None:
        self.whole.etcd_late = 0.3
        self._later(self._good_etcd)

    def lossy_etcd(self) -> None:
        self.whole.etcd_lost = 0.3
        self._later(self._good_etcd)

    def _good_etcd(self) -> None:
        self.whole.etcd_late = self.whole.etcd_lost = 0.0

    def late_reads(self) -> None:
        """What a node reads in etcd is old when it comes: from before its own handoffs, perhaps (H1)."""
        machine = self._up()
        if machine is not None:
            machine.etcd_late_s = self.rng.uniform(0.1, 0.7)
            self.whole.trace.note(f"what {machine.name} reads in etcd comes late")
            for shard, versioned in sorted(self.whole.etcd.registry.shards.items()):
                if versioned.record.owner == machine.store_id:
                    self._pin(shard, self.rng.choice(versioned.record.in_sync))
            self._later(self._no_late_reads, machine)

    def _no_late_reads(self, machine: Machine) -> None:
        machine.etcd_late_s = 0.0

    def handoff_in_doubt(self) -> None:
        """A handoff is applied; its owner is not told, and cut off from etcd and the target (H1)."""
        whole = self.whole
        shard = ShardId(self.rng.randrange(whole.shards))
        versioned = whole.etcd.registry.shards.get(shard)
        owner = whole.machine_of(versioned.record.owner) if versioned is not None else None
        if versioned is not None and owner is not None and owner.coordinator is not None:
            others = [s for s in versioned.record.in_sync if s != owner.store_id]
            if others:
                self._pin(shard, self.rng.choice(others))
                owner.is_unanswered = True
                whole.act(self._cut_off_old_owner(shard, owner))

    async def _cut_off_old_owner(self, shard: ShardId, owner: Machine) -> None:
        etcd, coordinator = self.whole.etcd, owner.coordinator
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DOUBT_S):
                while (store := etcd.registry.shards[shard].record.owner) == owner.store_id:
                    await etcd.moved()
                target = self.whole.machine_of(store)
                if target is not None and coordinator is not None and not self.is_over:
                    self._cut_etcd(coordinator, owner.name)
                    self._cut((owner.name, target.name), (target.name, owner.name))
        owner.is_unanswered = False

    # -- operators -------------------------------------------------------------------------

    def move(self) -> None:
        """A shard is to be owned by another store."""
        shard = ShardId(self.rng.randrange(self.whole.shards))
        stores = [machine.store_id for machine in self.whole.machines.values()]
        self._pin(shard, self.rng.choice([None, *stores]))

    def _pin(self, shard: ShardId, store: StoreId | None) -> None:
        self.whole.trace.note(f"shard {shard} is pinned to {store}")
        self.whole.etcd.change(lambda registry: registry.pin(shard, store))

    def drain(self) -> None:
        """A store is to be emptied; not for long."""
        store = self.rng.choice(list(self.whole.machines.values())).store_id
        self.whole.trace.note(f"{store} is drained")
        self.whole.etcd.change(lambda registry: registry.drain(store, True))
        self._later(self._no_drain, store)

    def _no_drain(self, store: StoreId) -> None:
        self.whole.etcd.change(lambda registry: registry.drain(store, False))

    # -- the end ---------------------------------------------------------------------------

    def heal(self) -> None:
        """Faults are over."""
        self.is_over = True
        whole = self.whole
        whole.trace.note("faults are over")
        whole.network.heal_all()
        whole.network.slow = 1.0
        self._quick_disk()
        self._good_etcd()
        whole.etcd.resume()
        there = {machine.store_id for machine in whole.machines.values()}
        for store in sorted(whole.etcd.registry.drains & there):
            self._no_drain(store)
        for shard in list(whole.etcd.registry.pins):
            whole.etcd.change(lambda registry, shard=shard: registry.pin(shard, None))  # type: ignore[misc]
        for machine in whole.machines.values():
            machine.store.next_flush_fails = machine.is_unanswered = False
            machine.etcd_late_s = 0.0
            if machine.coordinator is not None:
                machine.coordinator.is_cut = False
            if machine.process is not None:
                whole.thaw(machine.process, 0.0)
            self._restart_if_down(machine)
        for name in whole.routers:
            if not whole.is_router_up(name):
                whole.start_router(name)

    def _restart_if_down(self, machine: Machine) -> None:
        if not machine.is_up:
            self.whole.boot(machine.name)
        elif machine.stop.is_set():
            self.whole.loop.call_later(0.2, self._restart_if_down, machine)
