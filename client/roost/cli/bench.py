"""`roost bench`: how many calls a second a server answers to this machine."""

from __future__ import annotations

import asyncio
import time

import click

from roost.cli.calls import parse_argument
from roost.cli.output import print_json, print_table, remote, run
from roost.client import Cluster


@click.command()
@click.argument("class_name", metavar="CLASS")
@click.argument("method")
@click.option("--arg", "args", multiple=True, metavar="NAME=JSON", help="An argument; repeatable.")
@click.option("--callers", type=click.IntRange(1, 10_000), default=128, show_default=True)
@click.option("--keys", type=click.IntRange(1), default=1000, show_default=True, help="Objects.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True)
@remote
def bench(
    class_name: str,
    method: str,
    args: tuple[str, ...],
    callers: int,
    keys: int,
    seconds: float,
    address: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Call a method of many objects from many callers: roost bench Counter increment.

    The objects are bench-0, bench-1 and so on, of that class; what the method stores in them stays.
    """
    arguments = dict(map(parse_argument, args))

    async def work(cluster: Cluster) -> None:
        stubs = [cluster.object(class_name, f"bench-{number}") for number in range(keys)]
        clock = time.perf_counter
        took: list[float] = []
        end = clock() + seconds

        async def caller(number: int) -> None:
            while not took or clock() < end:
                number = (number + 7919) % keys
                before = clock()
                await getattr(stubs[number], method)(**arguments)
                took.append(clock() - before)

        started = clock()
        await asyncio.gather(*(caller(number) for number in range(callers)))
        elapsed = clock() - started
        took.sort()
        assert took, "each caller makes at least one call"
        figures = {
            "calls": len(took),
            "calls_per_s": round(len(took) / elapsed, 1),
            "p50_ms": round(took[len(took) // 2] * 1000, 3),
            "p99_ms": round(took[int(len(took) * 0.99)] * 1000, 3),
            "max_ms": round(took[-1] * 1000, 3),
            "callers": callers,
            "keys": keys,
        }
        if as_json:
            print_json(figures)
        else:
            print_table(("figure", "value"), list(figures.items()))

    run(address, timeout, work)
