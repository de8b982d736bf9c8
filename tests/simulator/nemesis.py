"""Picks faults, in the taste of the seed, and puts everything right at the end."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from roost_node.core.record import Wish

if TYPE_CHECKING:
    from simulator.process import Process
    from simulator.replication import World


class Taste:
    """How often each fault comes; every seed favours some and suppresses others."""

    KINDS = (
        "crash", "crash_proven", "pause", "suspend", "expire", "cut_both", "cut_one", "cut_etcd",
        "break_stream", "etcd_outage", "slow_disk", "slow_net", "wish", "trim", "restart_fast",
    )  # fmt: skip

    def __init__(self, rng: random.Random) -> None:
        self.weights = {kind: rng.choice((0, 0.05, 0.3, 1, 1, 3, 6)) for kind in self.KINDS}
        if not any(self.weights.values()):
            self.weights["crash"] = 1
        self.every_ms = rng.choice((150, 400, 1_000, 3_000))
        self.net_ms = rng.choice((1, 5, 20))
        self.fsync_ms = rng.choice((1, 5, 40))
        self.etcd_ms = rng.choice((2, 10, 60))
        self.lose_answer = rng.choice((0, 0, 0.05, 0.3))  # of etcd
        self.late_apply = rng.choice((0, 0, 0.1, 0.5))  # of what was not answered
        self.lease_ms = rng.choice((700, 1_500, 3_000))  # of sessions: no promise depends on it
        self.watch_ms = rng.choice((30, 300))  # how soon nodes and controller see news
        self.repeat = rng.choice((0, 0, 0.1))  # appends that come again, late
        self.drift = rng.choice((0, 0.01, 0.03))
        self.min_in_sync = rng.choice((1, 2, 2))
        self.start_in_sync = rng.choice((2, 3, 3))
        self.read_share = rng.choice((0.2, 0.5, 0.8))


class Nemesis:
    """One run's bad luck."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng
        self.over = False

    def start(self) -> None:
        taste = self.world.taste
        self.world.later(self.rng.random() * 2 * taste.every_ms, self._strike)

    def _strike(self) -> None:
        if self.over:
            return
        weights = self.world.taste.weights
        kind = self.rng.choices(list(weights), list(weights.values()))[0]
        getattr(self, kind)()
        self.start()

    def _some(self) -> Process | None:
        up = [p for p in self.world.processes.values() if not p.paused]
        return self.rng.choice(up) if up else None

    def _length(self) -> float:
        return self.rng.choice((20, 300, 1_000, 2_500, 6_000)) * self.rng.uniform(0.3, 1)

    def crash(self, *, proven: bool = False, down_ms: float | None = None) -> None:
        process = self._some()
        if process is not None:
            self.world.crash(process.store, proven=proven)
            self.world.later(
                self._length() if down_ms is None else down_ms,
                lambda: self._boot(process.store),
            )

    def crash_proven(self) -> None:
        self.crash(proven=True)

    def restart_fast(self) -> None:
        self.crash(down_ms=self.rng.random() * 50)

    def _boot(self, store: str) -> None:
        for known in self.world.stores:
            if known == store and known not in self.world.processes:
                self.world.note(f"{store} starts")
                self.world.boot(known)

    def pause(self) -> None:
        process = self._some()
        if process is not None:
            process.paused = True
            self.world.note(f"{process.store} is paused")
            self.world.later(self._length(), lambda: self.thaw(process))

    def suspend(self) -> None:
        """The machine sleeps: CLOCK_MONOTONIC stands still, CLOCK_BOOTTIME does not."""
        process = self._some()
        if process is not None:
            self.sleep(process, self._length())

    def sleep(self, process: Process, length_ms: float) -> None:
        """That machine, for so long."""
        if process.paused:
            return
        process.paused = True
        self.world.note(f"{process.store}'s machine is suspended for {length_ms:.0f} ms")

        def wake() -> None:
            process.sleep(length_ms)
            self.thaw(process)

        self.world.later(length_ms, wake)

    def thaw(self, process: Process) -> None:
        if process.dead or not process.paused:
            return
        process.paused = False
        self.world.note(f"{process.store} goes on")
        deferred, process.deferred = process.deferred, []
        for event in deferred:
            process.run(event)

    def expire(self) -> None:
        process = self._some()
        if process is not None and self.world.etcd_up:
            info = self.world.registry.sessions.get(process.store)
            if info is not None:
                self.world.registry.expire(info.store, info.session)
                self.world.note(f"session {info.session} of {info.store} is lost")

    def _cut(self, *pairs: tuple[str, str]) -> None:
        world = self.world
        world.cut.update(pairs)
        world.note(f"cut {', '.join('->'.join(p) for p in pairs)}")
        world.later(self._length(), lambda: world.cut.difference_update(pairs))

    def cut_one(self) -> None:
        one, two = self.rng.sample(self.world.stores, 2)
        self._cut((one, two))

    def cut_both(self) -> None:
        victim = self.rng.choice(self.world.stores)
        others = [s for s in self.world.stores if s != victim]
        chosen = self.rng.sample(others, self.rng.randint(1, len(others)))
        self._cut(*[(victim, o) for o in chosen], *[(o, victim) for o in chosen])

    def cut_etcd(self) -> None:
        self._cut((self.rng.choice(self.world.stores), "etcd"))

    def break_stream(self) -> None:
        process = self._some()
        if process is not None and process.links:
            self.rng.choice(list(process.links.values())).lose()

    def etcd_outage(self) -> None:
        world = self.world
        world.etcd_up = False
        world.note("etcd is down")
        world.later(self._length(), self._etcd_back)

    def _etcd_back(self) -> None:
        self.world.etcd_up = True

    def slow_disk(self) -> None:
        self.world.fsync_ms = self.world.taste.fsync_ms * 30
        self.world.later(self._length(), self._fast)

    def slow_net(self) -> None:
        self.world.net_ms = self.world.taste.net_ms * 30
        self.world.later(self._length(), self._fast)

    def _fast(self) -> None:
        self.world.net_ms = self.world.taste.net_ms
        self.world.fsync_ms = self.world.taste.fsync_ms

    def wish(self) -> None:
        """The plan changes its mind."""
        world = self.world
        replicas = tuple(self.rng.sample(world.stores, 3))
        shard = self.rng.choice(world.shards)
        world.wishes[shard] = Wish(self.rng.choice(replicas), replicas, go=True)
        world.note(f"wish for shard {shard}: {world.wishes[shard]}")

    def trim(self) -> None:
        process = self._some()
        if process is not None:
            for shard in self.world.shards:
                process.run(lambda shard=shard, p=process: p.trim(shard))  # type: ignore[misc]

    def heal(self) -> None:
        """Faults are over."""
        self.over = True
        world = self.world
        world.healing = True
        world.note("faults are over")
        world.cut.clear()
        world.etcd_up = True
        world.net_ms = world.fsync_ms = 2.0
        for process in list(world.processes.values()):
            self.thaw(process)
        for store in world.stores:
            self._boot(store)
