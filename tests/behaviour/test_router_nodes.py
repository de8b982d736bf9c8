"""A real router, over real gRPC, before several nodes that only pretend: shards move between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio
import msgspec
import pytest

import roost
from behaviour.conftest import routing
from cluster.wire import wire_to
from roost.adapters.map_service import MapService
from roost.adapters.serving import OPTIONS
from roost.cluster.ids import HASH_NAME
from roost.cluster.shard_map import Shape, ShardMap, ShardRecord
from roost.v1 import objects_pb2, objects_pb2_grpc, shard_map_pb2_grpc
from roost_router.server import Server as RouterServer

SHARDS = 16
SHAPE = Shape("pretended", HASH_NAME, b"seed", SHARDS)


class Pretended(objects_pb2_grpc.ObjectsServicer):
    """Answers calls of its shards with its own name; refuses others and says who has them."""

    def __init__(self, cluster: PretendedCluster, name: str) -> None:
        self._cluster = cluster
        self.name = name
        self.address = ""
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.refuses = False
        self.map = MapService()

    def add_to(self, server: grpc.aio.Server) -> None:
        objects_pb2_grpc.add_ObjectsServicer_to_server(self, server)
        shard_map_pb2_grpc.add_MapServicer_to_server(self.map, server)

    async def Session(  # type: ignore[override]  # noqa: N802  # it writes through its context
        self,
        request_iterator: AsyncIterator[objects_pb2.ClientFrame],
        context: grpc.aio.ServicerContext[objects_pb2.ClientFrame, objects_pb2.ServerFrame],
    ) -> None:
        await context.read()
        if self.refuses:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not with you")
        now_ms = roost.new_request_id().int >> 80
        welcome = objects_pb2.Welcome(server_time_ms=now_ms, cluster_id=SHAPE.cluster_id)
        await context.write(objects_pb2.ServerFrame(welcome=welcome))
        while isinstance(frame := await context.read(), objects_pb2.ClientFrame):
            await self.thawed.wait()
            answer = objects_pb2.ServerFrame()
            for call in frame.calls:
                record = self._cluster.owner_of(call.class_name, call.key)
                if record.owner == self.name:
                    payload = msgspec.msgpack.encode(self.name)
                    answer.replies.add(id=call.id, payload=payload, epoch=record.epoch)
                else:
                    answer.replies.add(id=call.id, status=35)
                    answer.moved.add(
                        shard=record.shard, epoch=record.epoch, owner=record.owner,
                        address=record.address,
                    )  # fmt: skip
            await context.write(answer)

    async def Invoke(  # noqa: N802
        self,
        request: objects_pb2.InvokeRequest,
        context: grpc.aio.ServicerContext[
            objects_pb2.InvokeRequest, Awaitable[objects_pb2.InvokeReply]
        ],
    ) -> objects_pb2.InvokeReply:
        raise NotImplementedError


class PretendedCluster:
    """Three of them, and who owns what in truth."""

    def __init__(self) -> None:
        self.nodes: dict[str, Pretended] = {}
        self.truth = ShardMap(SHAPE)

    def add(self, name: str) -> Pretended:
        node = self.nodes[name] = Pretended(self, name)
        return node

    def owner_of(self, class_name: str, key: str) -> ShardRecord:
        record = self.truth.record(self.truth.shard_of(class_name, key))
        assert record is not None
        return record

    def move(self, shard: int, to: str, *, tell: bool) -> list[ShardRecord]:
        known = self.truth.record(shard)
        epoch = known.epoch + 1 if known is not None else 1
        changed = self.truth.merge([ShardRecord(shard, epoch, to, self.nodes[to].address)])
        if tell:
            for node in self.nodes.values():
                node.map.publish(self.truth, changed)
        return changed


@contextlib.asynccontextmanager
async def pretended() -> AsyncIterator[PretendedCluster]:
    cluster = PretendedCluster()
    async with contextlib.AsyncExitStack() as stack:
        for name in "abc":
            node = cluster.add(name)
            server = grpc.aio.server(options=OPTIONS)
            node.add_to(server)
            node.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            stack.push_async_callback(server.stop, 0)
        for shard in range(SHARDS):
            cluster.move(shard, "ab"[shard % 2], tell=True)
        yield cluster


Story = Callable[[PretendedCluster, roost.Cluster, RouterServer], Awaitable[None]]


def play(story: Story) -> None:
    async def scene() -> None:
        async with pretended() as cluster:
            seeds = [node.address for node in cluster.nodes.values()]
            async with (
                routing(*seeds) as router,
                roost.connect(f"127.0.0.1:{router.port}", timeout=30.0) as client,
            ):
                await story(cluster, client, router)

    asyncio.run(asyncio.wait_for(scene(), 60))


async def ask(client: roost.Cluster, count: int = 60) -> list[str]:
    return list(await asyncio.gather(*(client.object("Any", f"k{n}").who() for n in range(count))))


def owners(cluster: PretendedCluster, count: int = 60) -> list[str]:
    return [cluster.owner_of("Any", f"k{n}").owner for n in range(count)]


def test_each_call_goes_to_the_owner_of_its_shard() -> None:
    async def story(cluster: PretendedCluster, client: roost.Cluster, router: RouterServer) -> None:
        assert await ask(client) == owners(cluster)
        assert set(owners(cluster)) == {"a", "b"}

    play(story)


def test_what_moved_is_followed_by_the_word_of_the_old_owner_alone() -> None:
    async def story(cluster: PretendedCluster, client: roost.Cluster, router: RouterServer) -> None:
        await ask(client)
        for shard in range(0, SHARDS, 2):
            cluster.move(shard, "c", tell=False)
        assert await ask(client) == owners(cluster)
        assert "c" in owners(cluster)

    play(story)


def test_calls_that_a_frozen_node_has_are_answered_by_the_new_owner() -> None:
    async def story(cluster: PretendedCluster, client: roost.Cluster, router: RouterServer) -> None:
        await ask(client)
        cluster.nodes["a"].thawed.clear()
        waiting = asyncio.ensure_future(ask(client))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        for shard in range(0, SHARDS, 2):
            cluster.move(shard, "c", tell=True)
        assert await waiting == owners(cluster)
        cluster.nodes["a"].thawed.set()  # its late answers are to calls that nobody waits for
        assert await ask(client) == owners(cluster)

    play(story)


def test_a_direct_client_follows_as_a_router_does() -> None:
    async def scene() -> None:
        async with pretended() as cluster:
            seed = cluster.nodes["a"].address  # it tells of the others
            async with roost.connect(seed, direct=True) as client:
                assert await ask(client) == owners(cluster)
                for shard in range(0, SHARDS, 2):
                    cluster.move(shard, "c", tell=False)
                assert await ask(client) == owners(cluster)
                cluster.nodes["c"].thawed.clear()
                waiting = asyncio.ensure_future(ask(client))
                await asyncio.sleep(0.1)
                for shard in range(0, SHARDS, 2):
                    cluster.move(shard, "b", tell=True)
                assert await waiting == owners(cluster)
                cluster.nodes["c"].thawed.set()

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_direct_takes_no_token_yet() -> None:
    with pytest.raises(roost.InvalidArgumentError, match="router"):
        roost.connect("localhost:1", token="t", direct=True)


def test_a_node_that_owns_nothing_any_more_is_let_go() -> None:
    async def story(cluster: PretendedCluster, client: roost.Cluster, router: RouterServer) -> None:
        await ask(client)
        links = router._router.core.links
        assert set(links) == {cluster.nodes["a"].address, cluster.nodes["b"].address}
        for shard in range(0, SHARDS, 2):
            cluster.move(shard, "b", tell=True)
        while set(links) != {cluster.nodes["b"].address}:
            await asyncio.sleep(0.02)
        assert set(await ask(client)) == {"b"}

    play(story)


def test_two_names_of_one_node_are_not_two_sources_of_news() -> None:
    """A name that stands for all nodes led both ears of a router to one that etcd did not reach."""

    async def scene() -> None:
        async with pretended() as cluster, contextlib.AsyncExitStack() as stack:
            port = int(cluster.nodes["a"].address.rpartition(":")[2])
            names = [await stack.enter_async_context(wire_to(port)) for _ in range(2)]
            router = await stack.enter_async_context(routing(*(name.address for name in names)))
            await router._router.ready.wait()
            for shard in range(SHARDS):
                changed = cluster.move(shard, "c", tell=False)
                cluster.nodes["b"].map.publish(cluster.truth, changed)
            found = router._router.table
            while {record.owner for record in found.map} != {"c"}:
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(scene(), 60))
