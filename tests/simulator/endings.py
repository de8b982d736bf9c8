"""What stays broken at the end of a run while everything else heals, and what must be possible then.

The claims are those of the model: with all healed; with one store gone and an in-sync one left; with
the owner cut off from every other store but not from etcd; with only the serving owner, or only the
last in-sync store left (reads); with etcd down and all stores up.
"""

from __future__ import annotations

from collections.abc import Callable

from roost.cluster.ids import ShardId
from roost_node.core.record import StoreId
from simulator.history import ViolationError
from simulator.nemesis import Nemesis
from simulator.replication import World

HEAL_MS = 30_000
Ending = Callable[[World, Nemesis], "Claim | None"]


class Claim:
    """These shards must answer again: writes and reads, or reads alone."""

    def __init__(self, shards: list[ShardId], *, writes: bool = True) -> None:
        self.shards = shards
        self.writes = writes


def all_healed(world: World, nemesis: Nemesis) -> Claim:
    nemesis.heal()
    return Claim(world.shards)


def one_store_gone(world: World, nemesis: Nemesis) -> Claim | None:
    """For good: the others go on, where one of them is in sync."""
    victim = world.rng.choice(world.stores)
    nemesis.heal()
    world.run_until(world.now + 50)
    shards = [
        shard
        for shard in world.shards
        if _is_owned(world, shard) and _sets_without(world, shard, victim)
    ]
    world.note(f"{victim} is gone for good")
    world.crash(victim)
    return Claim(shards)


def owner_cut_off(world: World, nemesis: Nemesis) -> Claim | None:
    """It reaches etcd, and nobody else: F2."""
    shard = world.rng.choice(world.shards)
    nemesis.heal()
    world.run_until(world.now + 50)
    record = world.registry.shards[shard].record
    if not _is_owned(world, shard) or any(len(s) < 2 for s in _sets(world, shard)):
        return Claim(world.shards)
    others = [s for s in world.stores if s != record.owner]
    world.note(f"{record.owner} is cut off from all stores for good")
    world.cut.update((record.owner, o) for o in others)
    if world.rng.random() < 0.5:
        world.cut.update((o, record.owner) for o in others)
    return Claim([shard])


def only_the_owner_is_left(world: World, nemesis: Nemesis) -> Claim | None:
    """All others die while it serves and has nothing uncommitted: reads go on (R4)."""
    shard = world.rng.choice(world.shards)
    nemesis.heal()
    _settle(world)
    record = world.registry.shards[shard].record
    process = world.processes[record.owner]
    owner = process.replicas.owners.get(shard)
    if owner is None or not _is_settled(world, shard):
        return Claim(world.shards)
    world.note(f"all but {record.owner} die for good")
    for store in world.stores:
        if store != record.owner:
            world.crash(store)
    return Claim([shard], writes=False)


def only_the_last_member_is_left(world: World, nemesis: Nemesis) -> Claim | None:
    """in_sync is one store: it restarts alone, and reads go on."""
    shard = world.rng.choice(world.shards)
    members = {s for found in _sets(world, shard) for s in found}
    if len(members) != 1:
        return None
    nemesis.heal()
    (last,) = members
    world.note(f"only {last} is left")
    for store in world.stores:
        if store != last:
            world.crash(store)
    world.crash(last)
    world.boot(last)
    return Claim([shard], writes=False)


def etcd_down(world: World, nemesis: Nemesis) -> Claim | None:
    """Everything goes on (promise 7)."""
    nemesis.heal()
    _settle(world)
    shards = [shard for shard in world.shards if _is_settled(world, shard)]
    world.etcd_up = False
    world.note("etcd is down for good")
    return Claim(shards)


ENDINGS: tuple[Ending, ...] = (
    all_healed,
    one_store_gone,
    owner_cut_off,
    only_the_owner_is_left,
    only_the_last_member_is_left,
    etcd_down,
)


def check(world: World, claim: Claim) -> None:
    """I6: every open call on those shards is answered, and a fresh one."""
    if not claim.shards:
        return
    for client, op in list(world.pending.items()):
        if op.shard not in claim.shards or (op.request and not claim.writes):
            del world.pending[client]
            del world.history.floors[client]
    for number, shard in enumerate(claim.shards):
        world.ask(100 + 2 * number, shard, write=False)
        if claim.writes:
            world.ask(101 + 2 * number, shard, write=True)
    end = world.now + HEAL_MS
    while world.pending and world.now < end:
        world.run_until(world.now + 200)
    if world.pending:
        raise ViolationError(f"I6 not answered after healing: {list(world.pending.values())}")


def _sets(world: World, shard: ShardId) -> list[set[StoreId]]:
    """The in-sync set of etcd, and those of changes that may still be applied."""
    found = [set(world.registry.shards[shard].record.in_sync)]
    for process in world.processes.values():
        owner = process.replicas.owners.get(shard)
        if owner is not None:
            found += [set(proposed.in_sync) for proposed in owner.members.in_doubt]
    return found


def _sets_without(world: World, shard: ShardId, gone: StoreId) -> bool:
    """Is somebody left in each of them? One who lives, or it might be promoted dead."""
    live = {
        store
        for store, info in world.registry.sessions.items()
        if store != gone and world.processes[store].replicas.session == info.session
    }
    if world.registry.shards[shard].record.owner == gone:
        return all(s - {gone} and s - {gone} <= live for s in _sets(world, shard))
    return all(s & live for s in _sets(world, shard))


def _is_owned(world: World, shard: ShardId) -> bool:
    """The owner of the record lives, and knows."""
    record = world.registry.shards[shard].record
    info = world.registry.sessions.get(record.owner)
    process = world.processes[record.owner]
    return (
        info is not None
        and info.session == record.session == process.replicas.session
        and shard in process.replicas.owners
    )


def _settle(world: World) -> None:
    """Wait until every shard is served, by whom the plan wants."""
    end = world.now + 8_000
    while world.now < end and not all(_is_settled(world, s) for s in world.shards):
        world.run_until(world.now + 100)


def _is_settled(world: World, shard: ShardId) -> bool:
    record = world.registry.shards[shard].record
    process = world.processes.get(record.owner)
    owner = process.replicas.owners.get(shard) if process is not None else None
    return (
        process is not None
        and owner is not None
        and _is_owned(world, shard)
        and world.wishes[shard].owner == record.owner
        and owner.epoch == record.epoch
        and owner.is_serving(process.now())
        and owner.members.is_settled
        and owner.admits_writes()
        and owner.commit == owner.shape.end
        and not _is_accused(world, record.owner)
    )


def _is_accused(world: World, store: StoreId) -> bool:
    """Does a report stand that it cannot be reached? If those who made it die now, it is still acted on (F2)."""
    return any(store in info.unreachable for info in world.registry.sessions.values())
