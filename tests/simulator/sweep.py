"""`make sim`: all four simulations over many seeds, on all cores, with a failing seed's trace.

Seeds are taken in blocks, in order, so a sweep that was stopped says with which seed to go on.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

BLOCK = 10
BLOCKS_A_PROCESS = 40  # then another process takes over: nothing piles up in hours


class Block(NamedTuple):
    """Some seeds of one simulation."""

    kind: str
    first: int
    seeds: int


class Result(NamedTuple):
    """What came of them; `failures` by seed."""

    block: Block
    seconds: float
    failures: dict[int, str]


def player(kind: str) -> Callable[[int], object]:
    """What runs one seed, and raises if a promise was broken."""
    if kind == "whole":
        from simulator.whole_run import play

        return play
    if kind == "node":
        from simulation.test_seeds import play as play_node

        return play_node
    if kind == "cores":
        from simulator.scenarios import run

        return run
    from simulation.test_routing import run as route

    def check(seed: int) -> None:
        wrong = route(seed)
        assert not wrong, wrong

    return check


KINDS = ("whole", "node", "cores", "router")


def run(block: Block) -> Result:
    logging.getLogger().addHandler(logging.NullHandler())  # a trace has what is logged
    play = player(block.kind)
    failures = {}
    begun = time.process_time()
    for seed in range(block.first, block.first + block.seeds):
        try:
            play(seed)
        except Exception:
            failures[seed] = traceback.format_exc()
    return Result(block, time.process_time() - begun, failures)


def blocks(first: int, count: int, kinds: list[str]) -> Iterator[Block]:
    for start in range(first, first + count, BLOCK):
        for kind in kinds:
            yield Block(kind, start, min(BLOCK, first + count - start))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--first-seed", type=int, default=0, help="go on from here")
    parser.add_argument(
        "--only", choices=KINDS, action="append", help="one simulation (repeatable)"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    kinds = options.only or list(KINDS)
    todo = list(blocks(options.first_seed, options.seeds, kinds))
    seconds = dict.fromkeys(kinds, 0.0)
    seeds = dict.fromkeys(kinds, 0)
    failed: list[str] = []
    console = Console()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    context = multiprocessing.get_context("spawn")
    done = 0
    with (
        context.Pool(options.processes, maxtasksperchild=BLOCKS_A_PROCESS) as pool,
        Progress(*columns, console=console) as progress,
    ):
        bar = progress.add_task("seeds", total=len(todo) * BLOCK)
        try:
            for result in pool.imap(run, todo):
                done += 1
                kind = result.block.kind
                seconds[kind] += result.seconds
                seeds[kind] += result.block.seeds
                progress.advance(bar, BLOCK)
                for seed, text in result.failures.items():
                    failed.append(f"{kind} --seed={seed}")
                    console.print(text, markup=False, highlight=False)
                    console.print(f"{kind} failed: replay with --seed={seed}", style="bold red")
        except KeyboardInterrupt:
            at = todo[done].first if done < len(todo) else options.first_seed + options.seeds
            console.print(f"stopped: go on with --first-seed={at}")
    for kind in kinds:
        if seeds[kind]:
            each = seconds[kind] / seeds[kind]
            console.print(f"{kind}: {seeds[kind]} seeds, {each:.2f} s of CPU each")
    console.print(f"failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
