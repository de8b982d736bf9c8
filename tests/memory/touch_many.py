"""A process that touches many objects, lets them go, and prints its resident memory as it goes.

A process of its own, so that resident memory means something: `python tests/memory/touch_many.py DIR`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

import roost
from roost import DurableObject

PAGE = 4096
CALLERS = 64


class Small(DurableObject, idle_after=8.0):
    name: str = ""
    count: int = 0

    async def touch(self, name: str) -> int:
        self.name = name
        self.count += 1
        return self.count


def resident() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def round_(cluster: roost.Cluster, objects: int) -> tuple[int, int]:
    """Touch them all, wait until all have left; the most memory on the way, and what is left."""
    numbers = iter(range(objects))
    peak = 0

    async def caller() -> None:
        nonlocal peak
        for number in numbers:
            await cluster.object(Small, f"object-{number}").touch(f"name of {number}")
            if number % 1000 == 0:
                peak = max(peak, resident())

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    peak = max(peak, resident())
    while (await cluster.status()).activations:
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)  # the keeper gives memory back after the last one left
    return peak, resident()


async def main(path: str, objects: int) -> None:
    """Two rounds, after a small one that loads what every process loads."""
    async with roost.local(Small, path=path) as cluster:
        await round_(cluster, 1000)
        before = resident()
        first_peak, first = await round_(cluster, objects)
        second_peak, second = await round_(cluster, objects)
    figures = {
        "before": before,
        "first_peak": first_peak,
        "first": first,
        "second_peak": second_peak,
        "second": second,
    }
    print(msgspec.json.encode(figures).decode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
