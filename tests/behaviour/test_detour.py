"""A link that is cut while both ends live: by way of another node, and back when it is mended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

import roost
from behaviour.test_router_nodes import SHARDS, PretendedCluster, ask, owners
from cluster.wire import Wire, wire_to
from roost.adapters import channel
from roost.adapters.channel import RELAY_METHOD, RELAY_TO, SECRET, SESSION_METHOD
from roost.adapters.serving import OPTIONS, metadata_of
from roost.v1 import objects_pb2
from roost_node.relay import RELAYS_MAX, Relay
from roost_router.config import Limits
from roost_router.router import Router
from roost_router.server import Server as RouterServer

Method = grpc.aio.StreamStreamMultiCallable[bytes, bytes]
WAIT_S = 60  # generous: it is waited for as long only when a test fails


class Scene:
    """Three pretended nodes that relay, known by the addresses of wires; one router."""

    def __init__(self, cluster: PretendedCluster, wires: dict[str, Wire]) -> None:
        self.cluster = cluster
        self.wires = wires
        self.relays: dict[str, Relay] = {}
        self.router: Router
        self.client: roost.Cluster

    def via(self, name: str) -> str:
        """Over whom the router's link to that node goes."""
        return self.router.core.links[self.wires[name].address].via

    async def until(self, name: str, *, detoured: bool) -> None:
        link = self.router.core.links[self.wires[name].address]
        async with asyncio.timeout(WAIT_S):
            while not link.is_open or bool(link.via) is not detoured:
                await asyncio.sleep(0.01)


class Past(Relay):
    """It goes past the wires, which are the router's."""

    def __init__(self, ports: dict[str, int]) -> None:
        super().__init__(lambda: ports)
        self._ports = ports

    def dial(self, to: str) -> grpc.aio.Channel:
        return super().dial(f"127.0.0.1:{self._ports[to]}")


@contextlib.asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    cluster = PretendedCluster()
    async with contextlib.AsyncExitStack() as stack:
        wires: dict[str, Wire] = {}
        found = Scene(cluster, wires)
        ports: dict[str, int] = {}
        for name in "abc":
            node = cluster.add(name)
            server = grpc.aio.server(options=OPTIONS)
            node.add_to(server)
            relay = found.relays[name] = Past(ports)
            relay.add_to(server)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            stack.push_async_callback(server.stop, 0)
            wires[name] = await stack.enter_async_context(wire_to(port))
            node.address = wires[name].address
            ports[node.address] = port
        for shard in range(SHARDS):
            cluster.move(shard, "abc"[shard % 3], tell=True)
        limits = Limits(keepalive_s=0.5)
        addresses = [wire.address for wire in wires.values()]
        found.router = await stack.enter_async_context(Router(addresses, limits=limits))
        door = RouterServer(found.router, "127.0.0.1", 0)
        await door.start()
        stack.push_async_callback(door.stop)
        await door.serve_when_ready()
        found.client = await stack.enter_async_context(
            roost.connect(f"127.0.0.1:{door.port}", timeout=WAIT_S)
        )
        yield found


def test_calls_go_by_way_of_another_node_while_a_link_is_cut_and_straight_again_after() -> None:
    async def story() -> None:
        async with scene() as at:
            assert await ask(at.client) == owners(at.cluster)
            at.wires["a"].cut()
            assert await ask(at.client) == owners(at.cluster)
            assert at.via("a") in (at.wires["b"].address, at.wires["c"].address)
            assert not at.via("b")
            assert not at.via("c")
            assert sum(relay.open_count for relay in at.relays.values()) == 1
            at.wires["a"].mend()
            await at.until("a", detoured=False)
            assert await ask(at.client) == owners(at.cluster)
            async with asyncio.timeout(WAIT_S):
                while any(relay.open_count for relay in at.relays.values()):
                    await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(story(), 2 * WAIT_S))


def test_a_node_that_drains_sends_those_who_come_by_its_way_elsewhere() -> None:
    async def story() -> None:
        async with scene() as at:
            at.wires["a"].cut()
            assert await ask(at.client) == owners(at.cluster)
            first = at.via("a")
            name = next(name for name, wire in at.wires.items() if wire.address == first)
            at.relays[name].close()
            assert await ask(at.client) == owners(at.cluster)
            await at.until("a", detoured=True)
            assert at.via("a") != first

    asyncio.run(asyncio.wait_for(story(), 2 * WAIT_S))


async def refused(target: str, metadata: tuple[tuple[str, str], ...]) -> grpc.aio.AioRpcError:
    async with grpc.aio.insecure_channel(target) as there:
        method: Method = there.stream_stream(RELAY_METHOD)
        stream = method(metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream.read()
        return failed.value


def test_a_relay_leads_to_nodes_of_its_cluster_only_and_to_a_bounded_number_of_sessions() -> None:
    async def story() -> None:
        server = grpc.aio.server(options=OPTIONS)
        relay = Relay(lambda: ["127.0.0.1:1"])
        relay.add_to(server)
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            for metadata in ((), ((RELAY_TO, "127.0.0.1:22"),)):
                error = await refused(target, metadata)
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            known = ((RELAY_TO, "127.0.0.1:1"),)
            error = await refused(target, known)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "cannot be reached from here either" in (error.details() or "")
            relay.open_count = RELAYS_MAX
            error = await refused(target, known)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        finally:
            await server.stop(0)

    asyncio.run(asyncio.wait_for(story(), WAIT_S))


def test_a_refusal_by_the_node_itself_comes_through_as_it_is() -> None:
    async def story() -> None:
        async with scene() as at:
            target = at.wires["b"].address
            async with grpc.aio.insecure_channel(target) as there:
                to = ((RELAY_TO, at.wires["a"].address),)
                method: Method = there.stream_stream(RELAY_METHOD)
                stream = method(metadata=to)
                at.cluster.nodes["a"].refuses = True
                hello = objects_pb2.ClientFrame(hello=objects_pb2.Hello())
                await stream.write(hello.SerializeToString())
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await stream.read()
            assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert failed.value.details() == "not with you"

    asyncio.run(asyncio.wait_for(story(), WAIT_S))


class Far:
    """A node behind a relay: it reads only when told to, and keeps the secret that it was shown."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.read_bytes = 0
        self.secrets: list[str | None] = []

    async def session(self, _requests: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        self.secrets.append(metadata_of(context).get(SECRET))
        await self.may_read.wait()
        while isinstance(raw := await context.read(), bytes):
            self.read_bytes += len(raw)

    def add_to(self, server: grpc.aio.Server) -> None:
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self.session
        )
        _, service, method = SESSION_METHOD.split("/")
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )


@contextlib.asynccontextmanager
async def far_behind_a_relay() -> AsyncIterator[tuple[Far, grpc.aio.Channel, tuple[str, str]]]:
    """The node, a channel to the relay, and the metadata that leads on."""
    far = Far()
    behind, front = (grpc.aio.server(options=OPTIONS) for _ in range(2))
    far.add_to(behind)
    address = f"127.0.0.1:{behind.add_insecure_port('127.0.0.1:0')}"
    Relay(lambda: [address]).add_to(front)
    target = f"127.0.0.1:{front.add_insecure_port('127.0.0.1:0')}"
    await behind.start()
    await front.start()
    try:
        async with grpc.aio.insecure_channel(target, options=channel.OPTIONS) as there:
            yield far, there, (RELAY_TO, address)
    finally:
        await front.stop(0)
        await behind.stop(0)


def test_a_node_that_does_not_read_holds_up_whoever_writes_to_it_by_a_detour() -> None:
    frames, size = 1_000, 65_536

    async def story() -> None:
        async with far_behind_a_relay() as (far, there, to):
            method: Method = there.stream_stream(RELAY_METHOD)
            stream = method(metadata=(to,))

            async def write() -> None:
                for _ in range(frames):
                    await stream.write(bytes(size))

            writing = asyncio.create_task(write())
            await asyncio.wait((writing,), timeout=3)
            assert not writing.done(), "64 MB are on their way to somebody who took nothing"
            far.may_read.set()
            await writing
            while far.read_bytes < frames * size:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(story(), WAIT_S))


def test_a_relay_shows_the_secret_of_whoever_comes_and_never_its_own() -> None:
    async def story() -> None:
        async with far_behind_a_relay() as (far, there, to):
            method: Method = there.stream_stream(RELAY_METHOD)
            for metadata in ((to,), (to, (SECRET, "abc")), (to, ("authorization", "x"))):
                before = len(far.secrets)
                stream = method(metadata=metadata)
                while len(far.secrets) == before:
                    await asyncio.sleep(0.01)
                stream.cancel()
            assert far.secrets == [None, "abc", None]

    asyncio.run(asyncio.wait_for(story(), WAIT_S))


def test_a_server_far_away_can_be_connected_to() -> None:
    """GRPC's shortest pause between attempts is also the longest that one may take."""

    async def story() -> None:
        server = grpc.aio.server(options=OPTIONS)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with (
            wire_to(port, delay_s=0.2) as wire,
            grpc.aio.insecure_channel(wire.address, options=channel.OPTIONS) as there,
        ):
            await channel.ready(there)
        await server.stop(0)

    asyncio.run(asyncio.wait_for(story(), WAIT_S))
