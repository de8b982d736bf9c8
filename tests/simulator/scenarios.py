"""One run of the replication cores under one seed: the usual one, and those aimed at deep rules."""

from __future__ import annotations

import functools
from collections.abc import Callable

from roost_node.core.record import StoreId, Wish
from simulator import endings
from simulator.history import ViolationError
from simulator.nemesis import Nemesis
from simulator.replication import World

START_MS = 2_500
FAULTS_MS = 12_000
CLIENTS = 3
TRACE_LINES = 400


def usual(world: World) -> endings.Claim:
    """Faults of all kinds at random, then one of the endings."""
    nemesis = Nemesis(world)
    nemesis.start()
    world.run_until(world.now + world.rng.random() * FAULTS_MS)
    claim = world.rng.choice(endings.ENDINGS)(world, nemesis)
    return claim or endings.all_healed(world, nemesis)


class Usurpers:
    """Owners are deposed one after another, faster than promises run out (P).

    Each is cut off from etcd only, so it goes on as long as others keep their promises to it. What is
    done to its successors is drawn for each of them: they die, are proven dead, restart at once, lose
    their sessions, are told to change replicas or to hand off. Links to the first may be cut as well.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        taste = world.taste
        taste.net_ms, taste.fsync_ms, taste.etcd_ms, taste.watch_ms = 1, 1, 2, 30
        world.net_ms = world.fsync_ms = 1.0
        self.nemesis = Nemesis(world)
        self.shard = world.rng.choice(world.shards)

    def owner(self) -> StoreId:
        return self.world.registry.shards[self.shard].record.owner

    def step(self, low: float, high: float) -> None:
        world = self.world
        world.run_until(world.now + world.rng.uniform(low, high))

    def depose(self, store: StoreId) -> None:
        """Cut off from etcd, its session gone; it does not know."""
        world = self.world
        world.cut.add((store, "etcd"))
        info = world.registry.sessions.get(store)
        if info is not None:
            world.registry.expire(store, info.session)
            world.note(f"{store} is cut off from etcd, session {info.session} is lost")

    def wish(self) -> None:
        world, rng = self.world, self.world.rng
        replicas = tuple(rng.sample(world.stores, 3))
        world.wishes[self.shard] = Wish(rng.choice(replicas), replicas, go=True)
        world.note(f"wish for shard {self.shard}: {world.wishes[self.shard]}")

    def trouble(self, store: StoreId) -> None:
        world, rng = self.world, self.world.rng
        kind = rng.choice(("restart", "proven", "expire", "depose", "wish", "nothing", "suspend"))
        if kind in ("restart", "proven") and store in world.processes:
            world.crash(store, proven=kind == "proven")
            world.later(rng.choice((10, 60, 300)), lambda: self.nemesis._boot(store))
        elif kind == "expire":
            info = world.registry.sessions.get(store)
            if info is not None:
                world.registry.expire(store, info.session)
                world.note(f"session {info.session} of {store} is lost")
        elif kind == "depose":
            self.depose(store)
        elif kind == "wish":
            self.wish()
        elif kind == "suspend" and store in world.processes:
            process = world.processes[store]
            self.nemesis.sleep(process, rng.uniform(500, 2_500))

    def play(self) -> endings.Claim:
        world, rng = self.world, self.world.rng
        for _ in range(rng.randint(1, 3)):
            self.shard = rng.choice(world.shards)
            first = self.owner()
            if rng.random() < 0.5:  # one of the others hears nothing of it
                other = rng.choice([s for s in world.stores if s != first])
                world.cut |= {(first, other), (other, first)}
                world.note(f"cut {first} and {other}")
                self.step(0, 2_000)
                self.wish()
            if rng.random() < 0.3:
                self.trouble(rng.choice(world.stores))
            if rng.random() < 0.3 and first in world.processes:
                self.nemesis.sleep(world.processes[first], rng.uniform(800, 3_500))
            self.depose(first)
            for _ in range(rng.randint(1, 4)):
                self.step(20, 350)
                self.trouble(self.owner() if rng.random() < 0.7 else rng.choice(world.stores))
            self.step(0, 2_500)
            world.cut.clear()
            self.step(0, 3_000)
        return endings.all_healed(world, self.nemesis)


def usurpers(world: World) -> endings.Claim:
    return Usurpers(world).play()


def doubtful_changes(world: World) -> endings.Claim:
    """Changes of the record are applied, late or never, and nobody is told (O2).

    Meanwhile those whom they concern are cut off, and the owner's session is lost.
    """
    aim = Usurpers(world)
    rng = world.rng
    world.taste.lose_answer, world.taste.late_apply = 0.8, rng.choice((0.3, 0.8))
    for _ in range(rng.randint(1, 3)):
        first = aim.owner()
        member = rng.choice([s for s in world.stores if s != first])
        aim.wish()
        aim.step(100, 1_500)
        world.cut |= {(first, member), (member, first)}
        world.note(f"cut {first} and {member}")
        aim.step(900, 3_500)
        if rng.random() < 0.7:
            aim.depose(first)
        aim.step(100, 2_500)
        if rng.random() < 0.5:
            world.cut.clear()
        aim.step(0, 2_000)
    world.taste.lose_answer = 0.3
    claim = rng.choice((endings.all_healed, endings.one_store_gone))(world, aim.nemesis)
    return claim or endings.all_healed(world, aim.nemesis)


def in_doubt(world: World) -> endings.Claim:
    """A join or a handoff is applied, its owner is not told, and is cut off at that very moment.

    From etcd and from whom it concerns; it still has the promises of others (M1, P3, H1).
    """
    aim = Usurpers(world)
    rng, shard = world.rng, aim.shard
    world.taste.lose_answer = 1.0
    handoff = rng.random() < 0.5
    first = aim.owner()
    others = [s for s in world.stores if s != first]
    if handoff:
        world.wishes[shard] = Wish(rng.choice(others[:2]), tuple(world.stores[:3]), go=True)
    else:
        world.wishes[shard] = Wish(first, (first, *rng.sample(others, 2)), go=True)
    before = world.registry.shards[shard].record
    for _ in range(4_000):
        world.run_until(world.now + 1)
        record = world.registry.shards[shard].record
        joined = set(record.in_sync) - set(before.in_sync)
        if (record.owner != first) if handoff else joined:
            break
        before = record
    else:
        return endings.all_healed(world, aim.nemesis)
    gone = set(others) if handoff else joined
    world.cut |= {(first, s) for s in gone} | {(s, first) for s in gone} | {(first, "etcd")}
    world.note(f"{first} is cut off from etcd and {sorted(gone)}")
    aim.step(*((0, 100) if handoff else (1_400, 2_200)))
    if not handoff:
        aim.depose(first)
    aim.step(1_200, 2_500)
    world.taste.lose_answer = 0.0
    return endings.all_healed(world, aim.nemesis)


def pair(world: World, aim: Usurpers) -> StoreId | None:
    """Let the shard have two members, the owner first; the other one, or None."""
    shard, owner = aim.shard, aim.owner()
    fellow = world.rng.choice([s for s in world.stores if s != owner])
    for each in world.shards:
        world.wishes[each] = Wish(owner, (owner, fellow), go=True)
    aim.step(3_000, 5_000)
    record = world.registry.shards[shard].record
    if set(record.in_sync) != {owner, fellow} or record.owner != owner:
        return None
    return fellow


def owner_of_a_pair_is_cut_off(world: World) -> endings.Claim:
    """It reaches etcd and nobody else, and must not be left alone in the set (M3, F2)."""
    aim = Usurpers(world)
    fellow, owner = pair(world, aim), aim.owner()
    if fellow is None or world.taste.min_in_sync < 2:
        return endings.all_healed(world, aim.nemesis)
    aim.nemesis.over = world.healing = True
    world.note(f"{owner} is cut off from all stores for good")
    others = [s for s in world.stores if s != owner]
    for other in others:
        world.cut |= {(owner, other), (other, owner)}
    world.wishes[aim.shard] = Wish(fellow, tuple(others), go=True)  # the plan repairs it
    aim.step(2_500, 3_500)
    return endings.Claim([aim.shard])


def old_owner_meets_a_restart(world: World) -> endings.Claim:
    """The successor restarts while its predecessor still believes that it owns the shard (O7)."""
    aim = Usurpers(world)
    fellow, owner = pair(world, aim), aim.owner()
    if fellow is None:
        return endings.all_healed(world, aim.nemesis)
    aim.depose(owner)
    aim.step(1_700, 2_500)
    if fellow in world.processes:
        world.cut.add((fellow, "etcd"))
        world.crash(fellow)
        world.boot(fellow)
    aim.step(300, 1_500)
    return endings.all_healed(world, aim.nemesis)


def half_is_left(world: World) -> endings.Claim:
    """Of two members the owner dies for good, and no other store lives: reads go on (M3)."""
    aim = Usurpers(world)
    fellow = pair(world, aim)
    if fellow is None:
        return endings.all_healed(world, aim.nemesis)
    aim.nemesis.over = world.healing = True
    world.note(f"only {fellow} is left")
    for store in world.stores:
        if store != fellow:
            world.crash(store)
    return endings.Claim([aim.shard], writes=False)


def the_last_two(world: World) -> endings.Claim:
    """The owner restarts and owns again; its only fellow member dies for good.

    A learner that has everything must be taken in before the dead one is let go (M4).
    """
    aim = Usurpers(world)
    rng, shard = world.rng, aim.shard
    fellow, owner = pair(world, aim), aim.owner()
    if fellow is None:
        return endings.all_healed(world, aim.nemesis)
    learner = rng.choice([s for s in world.stores if s not in (owner, fellow)])
    world.wishes[shard] = Wish(owner, (owner, fellow, learner), go=True)
    world.crash(fellow)
    info = world.registry.sessions.get(fellow)
    if info is not None:  # or the dead one might be promoted
        world.registry.expire(fellow, info.session)
    world.note(f"{fellow} is gone for good")
    world.crash(owner, proven=rng.random() < 0.5)
    world.boot(owner)
    aim.nemesis.over = world.healing = True
    return endings.Claim([shard])


def lost_tail(world: World) -> endings.Claim:
    """A disk drops a synced tail without a word, and its store is promoted (L3).

    Others may have cut their logs behind what it lost.
    """
    aim = Usurpers(world)
    rng = world.rng
    aim.step(500, 1_500)
    shard, owner = aim.shard, aim.owner()
    record = world.registry.shards[shard].record
    members = [m for m in record.in_sync if m != owner and m in world.processes]
    if len(members) < 2:
        return endings.all_healed(world, aim.nemesis)
    victim = rng.choice(members)
    world.note(f"{victim} loses the tail of its log")
    world.crash(victim)
    world.disks[victim].lose_tail(shard, rng.randint(1, 3))
    world.history.excused.add(victim)
    if rng.random() < 0.5:
        for process in world.processes.values():
            process.run(functools.partial(process.trim, shard))
    world.boot(victim)
    aim.step(30, 200)
    aim.depose(owner)
    aim.step(1_000, 3_000)
    world.cut.clear()
    return endings.all_healed(world, aim.nemesis)


def half_a_snapshot(world: World) -> endings.Claim:
    """Logs are cut often, replicas come and go, and nodes die while they take a snapshot (M7)."""
    aim = Usurpers(world)
    rng = world.rng
    world.net_ms = 40.0
    for _ in range(rng.randint(3, 8)):
        for _ in range(4):
            aim.nemesis.trim()
        aim.wish()
        for _ in range(rng.randint(10, 120)):
            aim.step(5, 5)
            installing = [
                process.store
                for process in world.processes.values()
                if any(kept.incoming for kept in process.replicas.kept.values())
            ]
            if installing and rng.random() < 0.3:
                victim = installing[0]
                world.crash(victim)
                world.later(rng.choice((20, 400)), functools.partial(aim.nemesis._boot, victim))
                break
        if rng.random() < 0.6:
            aim.nemesis.crash(down_ms=rng.choice((20, 400, 1_500)))
        if rng.random() < 0.3:
            aim.nemesis.expire()
        aim.step(0, 1_200)
    return endings.all_healed(world, aim.nemesis)


SCENARIOS: tuple[Callable[[World], endings.Claim], ...] = (
    usual,
    usurpers,
    usual,
    doubtful_changes,
    in_doubt,
    usurpers,
    half_a_snapshot,
    the_last_two,
    half_is_left,
    owner_of_a_pair_is_cut_off,
    old_owner_meets_a_restart,
    lost_tail,
)


def run(seed: int) -> World:
    """Start a cluster and clients, play a scenario, ask for answers. Raises ViolationError."""
    world = World(seed)
    try:
        world.start()
        world.run_until(START_MS)
        for number in range(CLIENTS):
            world.start_client(number)
        world.run_until(START_MS + 800)
        claim = SCENARIOS[seed % len(SCENARIOS)](world)
        endings.check(world, claim)
    except (ViolationError, AssertionError) as error:
        error.add_note("\n".join(world.trace[-TRACE_LINES:]))
        raise
    return world
