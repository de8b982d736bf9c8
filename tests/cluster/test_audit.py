"""A row that changed on a disk, without a word: found, told, and made anew, at a follower and at an owner."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from cluster.app import Counter
from cluster.processes import Processes, running_cluster
from cluster.test_operators import ask
from cluster.test_processes import UP_S, connected, whole_again
from roost.adapters.operators import ask as ask_server
from roost.cluster.ids import ShardId
from roost.v1 import admin_pb2
from roost_node.replication.bodies import merged
from roost_node.storage import layout
from roost_node.storage.replica_log import ReplicaLog
from roost_node.storage.rocks import RocksStore

SHARDS = 8
KEYS = 40
QUICK = "--audit-bytes-per-s=4000000"
OFF = "--audit-bytes-per-s=0"

Rows = dict[bytes, bytes]


def flip_a_row_of_each_shard(path: Path) -> Rows:
    """What was there before. A row that the log would write again is not taken."""
    store = RocksStore.open(path, create=False)
    before: Rows = {}
    for shard in map(ShardId, range(SHARDS)):
        log = ReplicaLog(store)
        younger = merged(log.entries(shard, log.head(shard).index + 1, 2**32, 2**20))
        written = {op[0] for op in younger if isinstance(op, tuple)}
        for key, value in store.iterate(*layout.objects_range(shard)):
            if key not in written:
                before[key] = value
                store.write([(key, value[:-1] + bytes([value[-1] ^ 1]))])
                break
    store.close()
    return before


def read(path: Path, rows: Rows) -> Rows:
    store = RocksStore.open(path, create=False)
    found = {key: store.get(key) or b"" for key in rows}
    store.close()
    return found


async def shards(processes: Processes) -> list[admin_pb2.ShardInfo]:
    request = admin_pb2.ShardsRequest()
    found = await ask_server(
        [processes.address("b")], UP_S, lambda s, t: s.Shards(request, timeout=t)
    )
    return list(found.shards)


async def events(processes: Processes) -> list[admin_pb2.Event]:
    """Not those of copies that differ while the third is not there to say which is right."""
    request = admin_pb2.EventsRequest()
    found = await ask_server(
        [processes.address("b")], UP_S, lambda s, t: s.Events(request, timeout=t)
    )
    return [event for event in found.events if event.what.startswith("a bad copy")]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(UP_S):
        while not await condition():
            await asyncio.sleep(0.2)


async def count(processes: Processes) -> None:
    async with connected(processes, "a", "b", "c", direct=True) as cluster:
        for name in ("key", "other"):  # the first are applied everywhere when the others are made
            for number in range(KEYS):
                await cluster.object(Counter, f"{name}-{number}").increment()


async def values(processes: Processes) -> set[int]:
    async with connected(processes, "a", "b", direct=True) as cluster:
        return {await cluster.object(Counter, f"key-{number}").get() for number in range(KEYS)}


def test_a_copy_that_went_bad_at_rest_is_found_and_made_anew(tmp_path: Path) -> None:
    async def story(processes: Processes) -> None:
        await whole_again(processes)
        await count(processes)
        processes.end("c", signal.SIGKILL)
        rows = flip_a_row_of_each_shard(tmp_path / "c")
        flipped = {int.from_bytes(key[:2], "big") for key in rows}
        assert len(flipped) > SHARDS // 2, "nearly every shard has an object that was applied"
        processes.start_node("c", QUICK)
        await whole_again(processes)
        for name in ("a", "b"):  # now they answer, and ask
            processes.end(name, signal.SIGTERM)
            processes.start_node(name, QUICK)
            await whole_again(processes)

        async def are_found() -> bool:
            return {shard for e in await events(processes) for shard in e.shards} == flipped

        async def are_whole() -> bool:
            return all(
                shard.state == "in sync" and not shard.suspects for shard in await shards(processes)
            )

        await eventually(are_found)
        await eventually(are_whole)
        found = await events(processes)
        (bad,) = {tuple(event.stores) for event in found}
        assert {event.what for event in found} == {"a bad copy was found, and is made anew"}
        by_owners = [event for event in found if (event.by,) == bad]
        assert by_owners, "it owned some of them"
        assert len(by_owners) < len(found), "and followed others"
        assert await values(processes) == {1}
        shown = await asyncio.to_thread(ask, processes, "b", "cluster", "events")
        assert bad[0][:8] in str(shown)
        processes.end("c", signal.SIGTERM)
        assert read(tmp_path / "c", rows) == rows

    with running_cluster(tmp_path, shards=SHARDS) as processes:
        for name, flag in (("a", OFF), ("b", OFF), ("c", QUICK)):
            processes.start_node(name, flag)
        try:
            asyncio.run(story(processes))
        except BaseException as error:
            for name in ("a", "b", "c"):
                error.add_note(f"-- {name}\n{processes.log(name)[-6000:]}")
            raise
