"""Clients and servers that come and go."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest

import roost
from behaviour.conftest import serving
from roost import DurableObject
from roost.adapters.channel import ChannelTransport
from roost.wire.messages import ToClient
from roost_node.config import Limits
from roost_node.host.loader import specs_of
from roost_node.node import Node
from roost_node.server import Server


class Slow(DurableObject):
    count: int = 0

    async def quick(self) -> int:
        self.count += 1
        return self.count

    async def slow(self) -> int:
        await asyncio.sleep(0.3)
        self.count += 1
        return self.count


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_address_where_nobody_listens_costs_no_time(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path, Slow) as server:
            started = time.monotonic()
            dead = [f"127.0.0.1:{closed_port()}" for _ in range(3)]
            async with roost.connect(
                *dead, f"127.0.0.1:{server.port}", connect_timeout=60.0
            ) as cluster:
                assert await cluster.object(Slow, "a").quick() == 1
            assert time.monotonic() - started < 30

    asyncio.run(asyncio.wait_for(story(), 120))


def test_nobody_there_is_an_error_that_names_every_address() -> None:
    async def story() -> None:
        addresses = [f"127.0.0.1:{closed_port()}" for _ in range(2)]
        with pytest.raises(roost.UnavailableError) as caught:
            async with roost.connect(*addresses, connect_timeout=0.2):
                pass
        assert all(address in str(caught.value) for address in addresses)

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_call_behind_a_finished_one_of_its_stub_survives_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path, Slow, grace_s=0.05) as server:
            port = server.port
            client = roost.connect(f"127.0.0.1:{port}", timeout=30.0)
            cluster = await client.__aenter__()
            stub = cluster.object(Slow, "a")
            first, second = (asyncio.ensure_future(c) for c in (stub.quick(), stub.slow()))
            assert await first == 1
        node = Node(tmp_path, specs_of([Slow]), print, limits=Limits())
        async with node:  # it knows nothing of the stub
            server = Server(node, "127.0.0.1", port)
            await server.start()
            assert await second == 2
            await client.__aexit__(None, None, None)
            await server.stop()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_client_that_is_closed_while_it_lets_go_of_a_broken_link_does_not_connect_again() -> None:
    async def story() -> None:
        told, may_end = asyncio.Event(), asyncio.Event()

        async def end_late() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                told.set()
                await may_end.wait()

        transport = ChannelTransport([f"127.0.0.1:{closed_port()}"], connect_timeout_s=60.0)
        transport._tasks.add(asyncio.create_task(end_late()))  # of the link that broke
        await asyncio.sleep(0)
        opening = asyncio.create_task(transport.open(NobodyListens()))
        await told.wait()
        opening.cancel()
        await asyncio.sleep(0)
        may_end.set()
        done, _ = await asyncio.wait([opening], timeout=10)
        assert done, "it goes on, and whoever closes the client waits for it"
        assert opening.cancelled()
        await transport.close()

    asyncio.run(asyncio.wait_for(story(), 60))


class NobodyListens:
    def on_messages(self, messages: list[ToClient]) -> None: ...
    def on_going_away(self) -> None: ...
    def on_lost(self, reason: str) -> None: ...
