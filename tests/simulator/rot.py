"""A story of the whole cluster: a row changes on a disk without a word, and the auditor finds it (A1 to A3).

After some faults all copies are in sync. Then one of them, the owner's or a follower's, has another value in a row
of an object that nobody calls, while others of its shard are called as in any run. The auditor must name that copy, and
no other, and it must be made anew.

Not here: rot while copies are missing. Of two copies that differ nobody knows which is right, and one that is
made from a bad copy is as bad.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from roost.cluster.ids import ShardId
from roost_node.core.record import StoreId
from roost_node.storage import layout
from simulator.clients import Client
from simulator.havoc import Havoc
from simulator.history import ViolationError
from simulator.machines import seeded
from simulator.whole import Machine, Whole
from simulator.workload import Counter

RESTING = tuple(f"resting{number}" for number in range(8))
SETTLED_S = 60.0
FOUND_S = 60.0
MADE_ANEW_S = 60.0
LOOK_S = 0.1
BAD = "a bad copy was found"
UNDECIDED = "copies differ"

Rotten = tuple[ShardId, StoreId]


async def a_row_rots(whole: Whole, havoc: Havoc, caller: Client) -> None:
    """Goes in the place of a run's usual faults."""
    rng = seeded(whole.seed, "rot")
    havoc.taste.weights["wipe"] = 0  # a minute more until all copies are in sync
    await caller.process.start(_call_once(caller))
    await havoc.strike_for(1 + rng.random() * 4)
    havoc.heal()
    await _until(lambda: _is_whole(whole) and bool(_rows(whole)), SETTLED_S, "copies are not equal")
    shard, key = rng.choice(_rows(whole))
    machine = rng.choice(list(_copies(whole, shard).values()))
    right = machine.store.get(key)
    machine.store.rot(key)
    rotten = shard, machine.store_id
    whole.rotten.add(rotten)
    whole.trace.note(f"a row of shard {shard} rots at {machine.store_id}")
    await _until(lambda: rotten in _named_bad(whole), FOUND_S, f"nobody found {rotten}")
    await _until(
        lambda: _is_whole(whole) and machine.store.get(key) == right,
        MADE_ANEW_S,
        f"the copy of {rotten} was not made anew",
    )


def no_false_alarms(whole: Whole) -> None:
    """Raises ViolationError: an auditor has accused a copy that did not rot."""
    shards = {shard for shard, _ in whole.rotten}
    stores = {store for _, store in whole.rotten}
    false = _named_bad(whole) - whole.rotten
    for event in whole.etcd.registry.events.values():
        if event.what.startswith(UNDECIDED):
            is_known = shards.issuperset(event.shards) and stores.intersection(event.stores)
            false |= set() if is_known else {(event.shards[0], event.stores[0])}
    if false:
        raise ViolationError(f"the auditor accuses {sorted(false)}, and {whole.rotten} are rotten")


def _named_bad(whole: Whole) -> set[Rotten]:
    return {
        (shard, store)
        for event in whole.etcd.registry.events.values()
        if event.what.startswith(BAD)
        for shard in event.shards
        for store in event.stores
    }


async def _call_once(caller: Client) -> None:
    for key in RESTING:
        await caller.cluster.object(Counter, key).add()


def _is_whole(whole: Whole) -> bool:
    """Has every shard all its copies, and are they trusted?"""
    records = [versioned.record for versioned in whole.etcd.registry.shards.values()]
    return all(
        len(record.in_sync) >= whole.replicas and not record.learners and not record.suspects
        for record in records
    )


def _copies(whole: Whole, shard: ShardId) -> dict[StoreId, Machine]:
    in_sync = whole.etcd.registry.shards[shard].record.in_sync
    return {m.store_id: m for m in whole.machines.values() if m.store_id in in_sync}


def _rows(whole: Whole) -> list[tuple[ShardId, bytes]]:
    """Rows of resting objects that all copies have alike."""
    return [
        (shard, key)
        for shard in sorted(whole.etcd.registry.shards)
        for key, value in next(iter(_copies(whole, shard).values())).store.iterate(
            *layout.objects_range(shard)
        )
        if any(name.encode() in key for name in RESTING)
        and all(copy.store.get(key) == value for copy in _copies(whole, shard).values())
    ]


async def _until(condition: Callable[[], bool], within_s: float, otherwise: str) -> None:
    try:
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(LOOK_S)
    except TimeoutError:
        raise ViolationError(f"{within_s:.0f} s later {otherwise}") from None
