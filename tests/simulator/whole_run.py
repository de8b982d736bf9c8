"""One run of the whole cluster: it starts, things go wrong while clients call, all heals, all is checked."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from simulator.clients import Client
from simulator.havoc import Havoc, Taste
from simulator.history import ViolationError
from simulator.machines import MachineLoop, seeded, simulate_machines
from simulator.plugs import plugged_in
from simulator.restored import etcd_is_restored
from simulator.rot import a_row_rots
from simulator.verdict import all_is_well
from simulator.whole import Whole
from simulator.workload import CLASSES, Workload

CALLERS = 6
CALLS_MAX = 400
OFTEN = 6
PROGRESS_S = 90.0
"""After the last fault every open call must be answered within this."""


@dataclass(frozen=True)
class Outcome:
    """Of a run in which every promise was kept."""

    digest: int
    calls: int
    hurried: int
    hurried_well: int
    faults: int
    steps: int


def play(
    seed: int,
    *,
    calls: int = 0,
    favour: tuple[str, ...] = (),
    restored: bool = False,
    rot: bool = False,
    trace_words: tuple[str, ...] = (),
) -> Outcome:
    """Raises ViolationError; its note is the trace.

    `calls`: go on until so many were answered. `favour`: these faults come often. `restored`: etcd goes
    back to an old backup. `rot`: a row changes at rest.
    """
    whole: list[Whole] = []

    async def main(loop: MachineLoop) -> Outcome:
        taste = Taste(seeded(seed, "taste"))
        taste.weights |= dict.fromkeys(favour, OFTEN)
        if calls:
            taste.pauses_s, taste.every_s, taste.is_restored = (0, 0.002), 2.5, False
            taste.has_rot = False
        taste.is_restored |= restored
        taste.has_rot |= rot
        one = Whole(loop, seed, taste.nodes, taste.routers, *CLASSES)
        whole.append(one)
        one.network.delay_s, one.flush_s, one.etcd_s = taste.net_s, taste.flush_s, taste.etcd_s
        with plugged_in(one):
            return await _run(one, taste, calls)

    try:
        return simulate_machines(main)
    except Exception as error:
        if whole:
            lines = "\n".join(whole[0].trace.lines(*trace_words))
            error.add_note(f"{lines}\nreplay with --seed={seed}")
        raise


async def _run(whole: Whole, taste: Taste, calls: int) -> Outcome:
    await whole.start()
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(whole.client(direct=direct))
            for direct in (False, False, True)
        ]
        workload = Workload(whole, seeded(whole.seed, "workload"), taste, clients)
        havoc = Havoc(whole, taste, seeded(whole.seed, "havoc"))
        callers = [
            clients[n % 3].process.start(workload.caller(clients[n % 3], calls or CALLS_MAX))
            for n in range(CALLERS)
        ]
        if taste.is_restored:
            faults = etcd_is_restored(whole, havoc, clients[0])
        elif taste.has_rot:
            faults = a_row_rots(whole, havoc, clients[0])
        else:
            faults = havoc.run(lambda: workload.calls < calls)
        await _or_failed(whole, [whole.loop.create_task(faults)], None)
        workload.is_over = True
        await _or_failed(whole, callers, PROGRESS_S)
        await _or_failed(whole, workload.repeats, max(taste.repeats_late_s) + PROGRESS_S)
        check = clients[0].process.start(_verdict(whole, workload, clients[0]))
        await _or_failed(whole, [check], None)
    return Outcome(
        whole.network.digest,
        workload.calls,
        workload.hurried,
        workload.hurried_well,
        havoc.count,
        whole.loop.steps,
    )


async def _verdict(whole: Whole, workload: Workload, client: Client) -> None:
    await all_is_well(whole, workload, client)


async def _or_failed(whole: Whole, tasks: list[asyncio.Task[None]], within_s: float | None) -> None:
    """Wait for all of them; whatever fails meanwhile ends the run."""
    pending: set[asyncio.Future[None]] = set(tasks)
    loop = whole.loop
    end = None if within_s is None else loop.time() + within_s
    while pending:
        left_s = None if end is None else end - loop.time()
        if left_s is not None and left_s <= 0:
            raise ViolationError(f"{len(pending)} callers wait {within_s} s after the last fault")
        done, _ = await asyncio.wait(
            {*pending, whole.failed}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
        )
        for one in done:
            one.result()
        pending -= done
