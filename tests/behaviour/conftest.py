"""Each behaviour is tried in process, through gRPC with real frames, through a router, direct."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import roost
from roost_node.config import Limits
from roost_node.host.loader import specs_of
from roost_node.node import Node
from roost_node.server import Server
from roost_router.config import Limits as RouterLimits
from roost_router.router import Router
from roost_router.server import Server as RouterServer

Scenario = Callable[[roost.Cluster], Awaitable[None]]
Run = Callable[..., None]


@contextlib.asynccontextmanager
async def serving(path: Path, *classes: type[Any], **settings: Any) -> AsyncIterator[Server]:
    """A node with its gRPC server, in this process."""
    check_effects = settings.pop("check_effects", False)

    def fatal(error: BaseException) -> None:
        raise error

    node = Node(
        path, specs_of(classes), fatal, limits=Limits(**settings), check_effects=check_effects
    )
    async with node:
        server = Server(node, "127.0.0.1", 0)
        await server.start()
        try:
            yield server
        finally:
            await server.say_goodbye()
            await node.drain()
            await server.stop()


@contextlib.asynccontextmanager
async def routing(*nodes: str, **settings: Any) -> AsyncIterator[RouterServer]:
    """A router with its gRPC server, in this process."""
    async with Router(nodes, limits=RouterLimits(**settings)) as router:
        server = RouterServer(router, "127.0.0.1", 0)
        router.on_tick = server.hang_up_on_hoarders
        await server.start()
        try:
            yield server
        finally:
            await server.drain()
            await server.stop()


@pytest.fixture(params=["local", "grpc", "router", "direct"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """`run(scenario, Class, ..., **settings)`: play an async scenario against a cluster."""

    def play(scenario: Scenario, *classes: type[Any], **settings: Any) -> None:
        async def local() -> None:
            async with roost.local(*classes, path=tmp_path / "data", **settings) as cluster:
                await scenario(cluster)

        async def remote() -> None:
            timeout = settings.pop("timeout", 30.0)
            async with (
                serving(tmp_path / "data", *classes, **settings) as server,
                roost.connect(f"127.0.0.1:{server.port}", timeout=timeout) as cluster,
            ):
                await scenario(cluster)

        async def routed() -> None:
            timeout = settings.pop("timeout", 30.0)
            async with (
                serving(tmp_path / "data", *classes, **settings) as server,
                routing(f"127.0.0.1:{server.port}") as router,
                roost.connect(f"127.0.0.1:{router.port}", timeout=timeout) as cluster,
            ):
                await scenario(cluster)

        async def direct() -> None:
            timeout = settings.pop("timeout", 30.0)
            async with (
                serving(tmp_path / "data", *classes, **settings) as server,
                roost.connect(f"127.0.0.1:{server.port}", timeout=timeout, direct=True) as cluster,
            ):
                await scenario(cluster)

        ways = {"local": local, "grpc": remote, "router": routed, "direct": direct}
        asyncio.run(asyncio.wait_for(ways[request.param](), 60))

    return play
