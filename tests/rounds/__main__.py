"""A cluster of real processes, and a fault in each round: `make faults ROUNDS=50`.

etcd, three nodes and a fourth that comes and goes, two routers, three clients (two over the routers, one
straight to the owners), some dozens of callers that never stop. In each round one fault, drawn with its
victims from the seed, strikes; the next one when the cluster is whole again. No call may fail, callers are
answered while the fault lasts, and in the end everything that they saw is checked (`crash/clients.py`).

Printed for each round: the fault, the longest time that any call took, and the time until the cluster was
whole. Run inside `network.sealed`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import roost
from crash.clients import Clients
from rounds.faults import CUT_OFF, LONG, SHORT, Fault, Scene
from rounds.machines import NODES, ROUTERS, Machines

CALL_S = 120.0  # of a call: faults are to show as pauses, not as errors
START_S = 120.0
CALLER_PAUSE_S = 0.06
PAUSE_S_MAX = 40.0
"""Ten times what is promised on a quiet machine (4 s): a busy one must not fail here, a hang must."""


def drawn(rounds: int, chance: random.Random, only: str | None) -> Iterator[Fault]:
    """Each fault as often as any other, in a new order each time round; the slow ones in long runs only."""
    kinds = list(LONG if only or rounds >= len(LONG) else SHORT)
    if only:
        kinds = [kind for kind in kinds if kind.__name__ == only]
    left: list[Fault] = []
    for _ in range(rounds):
        if not left:
            left = kinds.copy()
            chance.shuffle(left)
        yield left.pop()


async def attack(
    machines: Machines, clusters: list[roost.Cluster], options: argparse.Namespace
) -> None:
    chance = random.Random(options.seed)
    clients = Clients(clusters, options.seed, CALLER_PAUSE_S)
    scene = Scene(machines, clients, chance, options.etcd_down)
    worst_s = 0.0
    async with asyncio.TaskGroup() as tasks:
        clients.start(tasks)
        await clients.move_on()
        for number, fault in enumerate(drawn(options.rounds, chance, options.only), 1):
            clients.slowest_s = clients.slowest_chain_s = 0.0
            before = clients.answers
            start = time.monotonic()
            what = await fault(scene)
            await clients.move_on()
            await machines.until_whole()
            pauses_s = [] if fault in CUT_OFF else [clients.slowest_s, clients.slowest_chain_s]
            print(
                f"{number:3} {what}: longest call {clients.slowest_s:.2f} s, through two objects"
                f" {clients.slowest_chain_s:.2f} s; whole after {time.monotonic() - start:.1f} s;"
                f" {clients.answers - before} answers",
                flush=True,
            )
            worst_s = max(worst_s, *pauses_s, 0.0)
            assert worst_s < PAUSE_S_MAX, f"a call took {worst_s:.1f} s"
        clients.stop = True
    await clients.check()
    print(
        f"{clients.answers} calls, no error, histories hold; longest call {worst_s:.2f} s, those left"
        f" out whose router was frozen",
        flush=True,
    )


async def run(machines: Machines, options: argparse.Namespace) -> None:
    machines.start_all()
    looking_after = asyncio.create_task(machines.look_after_etcd())
    await machines.until_whole(START_S)
    routers = [machines.address(name) for name in ROUTERS]
    async with contextlib.AsyncExitStack() as stack:
        clusters = [
            await stack.enter_async_context(roost.connect(*order, timeout=CALL_S))
            for order in (routers, routers[::-1])
        ]
        nodes = [machines.address(name) for name in NODES]
        direct = roost.connect(*nodes, timeout=CALL_S, direct=True)
        clusters.append(await stack.enter_async_context(direct))
        await attack(machines, clusters, options)
    looking_after.cancel()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--etcd-down", type=float, default=12.0, help="seconds, where etcd stops")
    parser.add_argument(
        "--only", choices=[one.__name__ for one in LONG], help="this fault in every round"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)  # the direct client has lost links to tell of
    with tempfile.TemporaryDirectory(prefix="roost-rounds-") as folder:
        machines = Machines(Path(folder))
        try:
            asyncio.run(run(machines, options))
        except BaseException as error:
            error.add_note(machines.logs())
            raise
        finally:
            machines.close()


if __name__ == "__main__":
    main()
