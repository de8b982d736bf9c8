"""Whether a run of the whole cluster kept every promise; asked when its faults are over."""

from __future__ import annotations

import asyncio
from typing import Any

import roost
from roost.cluster.ids import ShardId
from roost_node.core.placement.roster import GRACE_MS
from roost_node.core.record import StoreId
from roost_node.storage import layout
from simulator.checkers import Operation, is_linearizable
from simulator.clients import Client
from simulator.history import ViolationError
from simulator.rot import no_false_alarms
from simulator.whole import Whole
from simulator.workload import KEYS, Journal, Workload, initial, link, model, told

HEALED_S = 60.0


async def all_is_well(whole: Whole, workload: Workload, client: Client) -> None:
    """Raises ViolationError."""
    await copies_agree(whole)
    no_false_alarms(whole)
    try:
        final = await _final(whole, workload, client)
        for key, value in final.items():
            history = workload.histories[key]
            if not is_linearizable(history, model, initial(key[0])):
                raise ViolationError(f"{key[0]}/{key[1]} is not linearizable: {story(history)}")
            if key[0] == "Journal":
                await _rows_are_the_state(client, key[1], value)
        await _told_once(workload, client)
    except roost.RoostError as error:
        raise ViolationError(f"at the end: {error!r}") from error
    highest = max(told.values(), default=0)
    counts = [value for key, value in final.items() if key[0] == "Counter"]
    if counts and highest > max(counts):
        raise ViolationError(f"a witness was told {highest}, and no counter came so far: {counts}")


def story(history: list[Operation]) -> str:
    """A short one."""
    last = sorted(history, key=lambda o: o.start)[-40:]
    return "; ".join(f"[{o.start:.3f}-{o.end or 0:.3f}] {o.request} -> {o.result}" for o in last)


async def _final(whole: Whole, workload: Workload, client: Client) -> dict[tuple[str, str], Any]:
    final = {}
    for key, history in sorted(workload.histories.items()):
        start = whole.loop.time()
        value = await client.cluster.object(*key).get()
        value = tuple(value) if isinstance(value, list) else value
        history.append(Operation(start, whole.loop.time(), ("get",), value))
        final[key] = value
    return final


async def _rows_are_the_state(client: Client, key: str, value: tuple[int, str]) -> None:
    items = await client.cluster.object(Journal, key).items()
    digest = ""
    for item in items:
        digest = link(digest, item)
    if (len(items), digest) != value:
        raise ViolationError(f"Journal/{key} says {value}, its rows say {len(items)}, {digest}")


async def _told_once(workload: Workload, client: Client) -> None:
    for key in KEYS:
        tells = workload.tells.get(key, 0)
        seen = await client.cluster.object("Witness", key).get()
        if seen != tells:
            raise ViolationError(f"{tells} calls told witness {key} once each, {seen} were counted")


async def copies_agree(whole: Whole) -> None:
    """Every shard has all its copies again, and they are the same."""
    within_s = HEALED_S + (GRACE_MS / 1000 if whole.is_short_of_a_store else 0)
    end = whole.loop.time() + within_s
    while True:
        wrong = [why for shard in range(whole.shards) if (why := _unequal(whole, ShardId(shard)))]
        if not wrong:
            return
        if whole.loop.time() > end:
            raise ViolationError(f"{within_s:.0f} s after all faults: {'; '.join(wrong)}")
        await asyncio.sleep(0.25)


def _unequal(whole: Whole, shard: ShardId) -> str:
    versioned = whole.etcd.registry.shards.get(shard)
    if versioned is None:
        return f"shard {shard} does not exist"
    record = versioned.record
    if len(record.in_sync) < whole.replicas:
        return f"shard {shard} has {record.in_sync} in sync, {record.learners} learning"
    copies: dict[StoreId, Any] = {}
    for store in record.in_sync:
        machine = whole.machine_of(store)
        if machine is None or machine.member is None:
            return f"{store} is down"
        kept = machine.member.replicas.kept_of(shard)
        state = list(machine.store.iterate(*layout.state_range(shard)))
        state = [row for row in state if row[0] != layout.replica_key(shard)]
        copies[store] = kept.shape.end, kept.hash, state
    first = copies[record.owner]
    for store, copy in copies.items():
        if copy[:2] != first[:2]:
            return (
                f"the logs of shard {shard} end at {copy[0]} ({store}), {first[0]} ({record.owner})"
            )
        if copy[2] != first[2]:
            return f"the states of shard {shard} differ between {store} and {record.owner}"
    return ""
