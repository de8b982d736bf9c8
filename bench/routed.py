"""What a router between costs: the same increments direct, through one router, through two."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import roost
from roost_node.local_cluster import free_port


class Router:
    """`roost router` before one node."""

    def __init__(self, node: str) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "roost_router", "router", "--nodes", node,
                "--port", f"{port}", "--log-level", "warning",
            ]
        )  # fmt: skip

    def stop(self) -> None:
        """Drain it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


@contextlib.asynccontextmanager
async def clients(node: str, count: int) -> AsyncIterator[tuple[list[roost.Cluster], int]]:
    """A client for each of `count` routers before that node, and the first one's process id."""
    routers = [Router(node) for _ in range(count)]
    try:
        async with contextlib.AsyncExitStack() as stack:
            connected = [
                await stack.enter_async_context(roost.connect(r.address, connect_timeout=20.0))
                for r in routers
            ]
            yield connected, routers[0].process.pid
    finally:
        for router in routers:
            router.stop()


def shared(
    works: list[Callable[[int, int], Awaitable[Any]]],
) -> Callable[[int, int], Awaitable[Any]]:
    """Callers take turns with the clients: each keeps to one."""
    return lambda number, count: works[number % len(works)](number, count)
