"""Plugs simulated time, chance, disks and wires into the programs, for the time of a run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from roost import client as client_module
from roost import stub as stub_module
from roost_node import cluster as member_module
from roost_node import rescue as rescue_module
from roost_node.host import host as host_module
from roost_node.host import keeper as keeper_module
from roost_node.host.flusher import Done
from roost_node.replication import inspector as inspector_module
from roost_node.storage.digest import PieceDigest
from roost_router import links as links_module
from roost_router import router as router_module
from simulator import wire
from simulator.machines import Process, current, seeded
from simulator.whole import Whole

TICK_S = 0.02  # of clients and routers: coarser than in life


class Flusher:
    """A flush takes its time, and may be cut by a crash at any moment."""

    def __init__(self, whole: Whole) -> None:
        self._whole = whole

    def start(self, flush: Callable[[], None], done: Done) -> None:
        def finish() -> None:
            failure = None
            try:
                flush()
            except OSError as error:
                failure = error
            done(failure)

        delay = self._whole.rng.random() * self._whole.flush_s
        asyncio.get_running_loop().call_later(delay, finish)

    def close(self) -> None:
        """Nothing to end."""


async def _on_the_loop(digest: PieceDigest) -> bool:
    """There are no threads here: a page of an audit is read at once."""
    return digest.go_on(inspector_module.PAGE_BYTES)


@contextlib.contextmanager
def plugged_in(whole: Whole) -> Iterator[None]:
    """All time, chance, disks and wires that the programs would find for themselves are ours."""
    rng = seeded(whole.seed, "programs")
    loop = whole.loop

    def here() -> Process:
        process = current()
        assert process is not None, "a clock is read outside of all processes"
        return process

    chance = SimpleNamespace(SystemRandom=lambda: rng, Random=lambda: rng)
    changes: list[tuple[Any, str, Any]] = [
        (client_module, "_random", rng),
        (client_module, "_ids", rng),
        (client_module, "TICK_S", TICK_S),
        (stub_module, "_random", rng),
        (keeper_module, "TICK_S", 0.1),
        (member_module, "boot_ms", lambda: here().boot_ms()),
        (member_module, "_slept_ms", lambda: here().slept_ms),
        (member_module, "random", chance),
        (inspector_module, "in_thread", _on_the_loop),
        (host_module, "ThreadFlusher", lambda _: Flusher(whole)),
        (
            rescue_module,
            "secrets",
            SimpleNamespace(token_hex=lambda _: f"{rng.getrandbits(32):08x}"),
        ),
        (links_module, "_random", rng),
        (router_module, "random", chance),
        (router_module, "time", SimpleNamespace(monotonic=loop.time)),
        (router_module, "TICK_S", TICK_S),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        with wire.plugged_in(whole.network, whole.on_handler_error), whole.trace.listening():
            yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
