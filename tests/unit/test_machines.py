"""The ground of the whole simulation: processes that are frozen and killed, streams that get stuck."""

from __future__ import annotations

import asyncio

from simulator.machines import MachineLoop, Process, seeded, simulate_machines
from simulator.network import Network, Pipe


def test_a_frozen_process_does_later_what_fell_due_and_a_killed_one_nothing() -> None:
    done: list[tuple[str, float]] = []
    kept: list[asyncio.Task[None]] = []

    async def main(loop: MachineLoop) -> None:
        async def work(name: str) -> None:
            try:
                await asyncio.sleep(1)
            finally:
                done.append((name, loop.time() - 1000))

        processes = {name: Process(name, loop) for name in ("runs", "frozen", "killed")}
        for name, process in processes.items():
            kept.append(process.start(work(name)))
        await asyncio.sleep(0.5)
        processes["frozen"].freeze()
        processes["killed"].kill()
        await asyncio.sleep(2)
        processes["frozen"].thaw()
        await asyncio.sleep(0)

    simulate_machines(main)
    assert done[:2] == [("runs", 1.0), ("frozen", 2.5)]
    assert all(name == "killed" for name, _ in done[2:])  # when its remains are closed, afterwards


def test_what_is_sent_into_a_cut_arrives_in_order_when_it_is_healed() -> None:
    async def main(loop: MachineLoop) -> list[bytes]:
        network = Network(loop, seeded(1, "network"))
        pipe = Pipe(network, Process("a", loop), Process("b", loop))
        network.cut("a", "b")
        for number in range(5):
            pipe.send(b"%d" % number)
        await asyncio.sleep(10)
        assert not pipe.queued
        network.heal("a", "b")
        pipe.pump_soon()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [pipe.take() for _ in range(len(pipe.queued))]

    assert simulate_machines(main) == [b"0", b"1", b"2", b"3", b"4"]
