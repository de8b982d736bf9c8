"""A process that touches many objects, lets them go, and prints its resident memory as it goes.

A process of its own, so that resident memory means something: `python tests/memory/touch_many.py DIR N`.

All objects are live at the peak, and leave together. Only what they took is to count, so the first
figure is taken when what every process takes once is there: a small round has loaded the code and
opened all shards, and RocksDB's cache, whose size is fixed, has been filled with other rows. Its
memtables, bounded too, hold anything up to 64 MiB at any moment: they are flushed before each figure.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path

import msgspec

import roost
from roost import DurableObject
from roost_node.embedded import Embedded
from roost_node.host.host import Host
from roost_node.host.memory import return_large_blocks
from roost_node.storage.rocks import CACHE_BYTES, RocksStore

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CALLERS = 64
OPENING = 10_000  # objects enough to open each of 1,024 shards
CHANCE = 0.04  # of the growth at the peak
ROWS = 256  # of
ROW_BYTES = 4_000  # about a block of RocksDB's


class Small(DurableObject, idle_after=3600.0):
    name: str = ""
    count: int = 0

    async def touch(self, name: str) -> int:
        self.name = name
        self.count += 1
        return self.count


class Large(DurableObject, idle_after=0.0):
    async def fill(self) -> None:
        for row in range(ROWS):
            self.ctx.storage.put(f"{row}", os.urandom(ROW_BYTES))

    async def count(self) -> int:
        return sum(1 for _ in self.ctx.storage.list())


def resident(host: Host) -> int:
    """Resident memory of this process, in bytes."""
    assert isinstance(host.store, RocksStore)
    host.store.flush()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


async def fill_cache(cluster: roost.Cluster, host: Host) -> None:
    """Have RocksDB's cache take what it may take."""
    assert isinstance(host.store, RocksStore)
    rows = 2 * CACHE_BYTES // ROW_BYTES
    larges = [cluster.object(Large, f"large-{number}") for number in range(rows // ROWS)]
    for large in larges:
        await large.fill()
    host.store.flush()
    for large in larges:
        assert await large.count() == ROWS


async def touch(cluster: roost.Cluster, host: Host, objects: int) -> int:
    """Touch them all; resident memory while all are live."""
    numbers = iter(range(objects))

    async def caller() -> None:
        for number in numbers:
            await cluster.object(Small, f"object-{number}").touch(f"name of {number}")

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    assert len(host.activations) >= objects
    return resident(host)


async def let_go(host: Host) -> int:
    """All have been idle for long; resident memory once they have left."""
    for activation in host.activations.values():
        activation.idle_after_ms = 0
    del activation
    while host.activations or host.keeper.owes_memory:
        await asyncio.sleep(0.1)
    return resident(host)


async def main(path: str, objects: int) -> None:
    """Rounds of touching and leaving, in a process that is set up as `roost node` sets itself up.

    Two; and one more where the second seems to have added something. Which MiB are kept by a single
    value is a matter of chance: what one round leaves so, the next takes back, while a leak adds in each.
    """
    return_large_blocks()
    gc.set_threshold(20_000, 20, 20)
    async with roost.local(Small, Large, path=path) as cluster:
        link = cluster._transport
        assert isinstance(link, Embedded)
        host = link.node.host
        await fill_cache(cluster, host)
        await touch(cluster, host, OPENING)
        before = await let_go(host)
        peaks: list[int] = []
        left: list[int] = []
        while len(left) < 2 or (
            len(left) == 2
            and max(left[1] - left[0], peaks[1] - peaks[0]) > CHANCE * (peaks[0] - before)
        ):
            peaks.append(await touch(cluster, host, objects))
            left.append(await let_go(host))
    print(msgspec.json.encode({"before": before, "peaks": peaks, "left": left}).decode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
