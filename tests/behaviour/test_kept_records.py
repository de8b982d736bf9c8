"""Records of finished calls are bounded: beyond the bound a shard takes no call that may write."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import roost
from behaviour.conftest import Run
from roost import DurableObject, method
from roost.client import Cluster
from roost_node.config import Limits
from roost_node.core.clock import ServerClock
from roost_node.embedded import Embedded
from roost_node.host.host import Host
from roost_node.host.loader import specs_of
from roost_node.node import Node
from roost_node.storage.memory import MemoryStore

BOUND = 20_000


class Echo(DurableObject):
    count: int = 0

    async def echo(self, text: str) -> str:
        self.count += 1
        return text

    @method(read_only=True)
    async def get(self) -> int:
        return self.count


async def fill(cluster: Cluster) -> int:
    """Write until the shard is full; how many calls it took."""
    echo = cluster.object(Echo, "e")
    for done in range(BOUND):
        refused: roost.OverloadedError | None = None
        try:
            await roost.options(echo, timeout=0.05).echo("x" * 1000)
        except roost.OverloadedError as error:
            refused = error
        if refused is not None:
            assert "kept_bytes_max" in str(refused)
            assert refused.took_effect == "no"
            assert refused.retry_after_s > 60  # buckets are dropped after ten minutes
            return done
    raise AssertionError("the bound was never reached")


def test_beyond_the_bound_of_kept_records_only_readers_are_taken(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        echo = cluster.object(Echo, "e")
        rid = roost.new_request_id()
        assert await roost.options(echo, request_id=rid).echo("first") == "first"
        done = await fill(cluster)
        assert BOUND / 1300 < done < BOUND / 1000
        assert await echo.get() == done + 1
        assert await roost.options(echo, request_id=rid).echo("first") == "first"  # known already
        others = [roost.options(cluster.object(Echo, f"{n}"), timeout=1.0) for n in range(20)]
        answers = await asyncio.gather(*(o.echo("") for o in others), return_exceptions=True)
        assert answers.count("") >= 15  # other shards have room

    run(scenario, Echo, kept_bytes_max=BOUND)


class Life:
    """A node over one store in memory, whose clock can be moved."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.ahead_ns = 0
        self.link = Embedded(None)

    async def __aenter__(self) -> Cluster:
        import time

        clock = ServerClock(lambda: time.time_ns() + self.ahead_ns, time.monotonic_ns)
        self.link.node = Node(
            Path("unused"),
            specs_of([Echo]),
            self.link.on_fatal,
            limits=Limits(kept_bytes_max=BOUND),
            clock=clock,
            store=self.store,
        )
        await self.link.node.__aenter__()
        self.cluster = await Cluster(self.link).__aenter__()
        return self.cluster

    async def __aexit__(self, *_: object) -> None:
        await self.cluster.__aexit__(None, None, None)

    @property
    def host(self) -> Host:
        return self.link.node.host

    def kept(self) -> int:
        return sum(shard.kept.size_bytes for shard in self.host.objects.shards())


def stored(store: MemoryStore) -> int:
    rows = store.iterate(b"", b"\xff" * 9)
    return sum(len(key) + len(value) for key, value in rows if key[2:3] == b"\x30")


def test_what_an_earlier_process_kept_counts_after_a_restart() -> None:
    store = MemoryStore()

    async def first() -> int:
        async with Life(store) as cluster:
            return await fill(cluster)

    async def second(written: int) -> None:
        life = Life(store)
        async with life as cluster:
            echo = cluster.object(Echo, "e")
            assert await echo.get() == written
            while life.kept() < stored(store):
                await asyncio.sleep(0.005)
            assert life.kept() == stored(store)
            with pytest.raises(roost.OverloadedError, match="kept_bytes_max"):
                await roost.options(echo, timeout=0.05).echo("y")

    written = asyncio.run(first())
    asyncio.run(asyncio.wait_for(second(written), 30))


def test_buckets_that_are_dropped_give_their_bytes_back() -> None:
    store = MemoryStore()

    async def scenario() -> None:
        life = Life(store)
        async with life as cluster:
            await fill(cluster)
            assert life.kept() == stored(store) > 0
        life = Life(store)
        async with life as cluster:  # a new client: server time jumps
            await cluster.object(Echo, "e").get()
            life.ahead_ns = 3600 * 10**9
            while life.kept() or stored(store):
                await asyncio.sleep(0.01)
        async with Life(store) as cluster:
            assert await cluster.object(Echo, "e").echo("again") == "again"

    asyncio.run(asyncio.wait_for(scenario(), 30))
