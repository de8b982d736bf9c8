"""Measuring: callers that call one after the other, for a time, and what that took."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import roost
from bench.app import Counter

KEYS = 1000


class Figures:
    """Calls a second, p50 and p99 in ms, CPU time a call in us, of one piece of work."""

    def __init__(self, took: list[float], elapsed: float, cpu_s: Cpu, calls: int) -> None:
        took.sort()
        self.rate = len(took) / elapsed
        self.p50_ms = took[len(took) // 2] * 1000
        self.p99_ms = took[int(len(took) * 0.99)] * 1000
        self.server_us = cpu_s[0] / calls * 1e6  # 0: it is the same process as the client
        self.client_us = cpu_s[1] / calls * 1e6


Cpu = tuple[float, float]
"""CPU seconds that the server and the client have used."""


def cpu_of(servers: Sequence[int]) -> Cpu:
    """As of now; `servers`: process ids."""
    own = os.times()
    ticks = 0
    for server in servers:
        fields = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), own.user + own.system


async def measure(
    callers: int,
    seconds: float,
    call: Callable[[int, int], Awaitable[Any]],
    *servers: int,
) -> Figures:
    """Let `callers` call, each one call after another; the first 20 % is warm-up."""
    took: list[float] = []
    calls = 0
    clock = time.perf_counter
    before = cpu_of(servers)
    begin = clock() + 0.2 * seconds
    end = clock() + 1.2 * seconds

    async def caller(number: int) -> None:
        nonlocal calls
        count = 0
        while True:
            started = clock()
            if started > end:
                calls += count
                return
            await call(number, count)
            count += 1
            if started > begin:
                took.append(clock() - started)

    await asyncio.gather(*(caller(number) for number in range(callers)))
    elapsed, after = clock() - begin, cpu_of(servers)
    return Figures(took, elapsed, (after[0] - before[0], after[1] - before[1]), calls)


def increments(cluster: roost.Cluster, keys: int = KEYS) -> Callable[[int, int], Awaitable[Any]]:
    """Each call goes to another object."""
    stubs = [cluster.object(Counter, f"key-{n}") for n in range(keys)]
    return lambda number, count: stubs[(number * 131 + count * 7) % keys].increment()


def reads(cluster: roost.Cluster) -> Callable[[int, int], Awaitable[Any]]:
    """Each call reads another object."""
    stubs = [cluster.object(Counter, f"key-{n}") for n in range(KEYS)]
    return lambda number, count: stubs[(number * 131 + count * 7) % KEYS].get()


def colds(cluster: roost.Cluster, name: str) -> Callable[[int, int], Awaitable[Any]]:
    """Each call is the first to its object."""
    return lambda number, count: cluster.object(Counter, f"{name}-{number}-{count}").get()
