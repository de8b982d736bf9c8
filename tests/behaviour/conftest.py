"""Each behaviour is tried twice: in process, and through gRPC with real frames."""

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


@pytest.fixture(params=["local", "grpc"])
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

        asyncio.run(asyncio.wait_for(local() if request.param == "local" else remote(), 60))

    return play
