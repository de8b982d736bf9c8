"""The gRPC server of a node: sessions, single calls, health, reflection, what operators ask."""

from __future__ import annotations

import asyncio
import hmac
import math
import typing
from collections.abc import AsyncIterator, Awaitable, Iterable

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from roost import __version__
from roost.adapters.channel import SECRET
from roost.adapters.map_service import MapService
from roost.adapters.serving import (
    HELLO_S,
    OPTIONS,
    abort,
    abort_status,
    check_host,
    is_loopback,
    listen,
    metadata_of,
)
from roost.cluster.ids import request_id as make_request_id
from roost.cluster.shard_map import ShardMap, ShardRecord
from roost.errors import InvalidArgumentError
from roost.v1 import (
    admin_pb2_grpc,
    objects_pb2,
    objects_pb2_grpc,
    shard_map_pb2_grpc,
)
from roost.wire.messages import (
    FRAME_BYTES_MAX,
    JSON,
    MSGPACK,
    WIRE_VERSION,
    Call,
    ErrorInfo,
    Moved,
)
from roost_node.admin import Admin
from roost_node.core.moves import Moves
from roost_node.host.call import Cancelled, Waiter
from roost_node.node import Node
from roost_node.relay import Relay
from roost_node.replication.peer_server import PeerServer
from roost_node.sessions import Frames, Session
from roost_node.storage.sizes import Sizes
from roost_node.view import Alone, ClusterView

LAST_ANSWERS_S = 2.0
SERVICES = ("roost.v1.Objects", "roost.v1.Admin", "roost.v1.Map")


class Objects(objects_pb2_grpc.ObjectsServicer):
    """The service of callers."""

    def __init__(self, node: Node, *, trusted: bool, secret: bytes) -> None:
        self._node = node
        self._secret = secret.hex()
        self._trusted = trusted
        self.sessions: dict[Session, None] = {}  # in order: a simulated run is to be repeatable

    async def Session(  # type: ignore[override]  # it reads and writes through its context
        self, request_iterator: AsyncIterator[objects_pb2.ClientFrame], context: Frames
    ) -> None:
        """Any number of calls over one stream."""
        host = self._node.host
        if len(self.sessions) >= host.limits.sessions_max:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"this server has {len(self.sessions)} sessions, at most {host.limits.sessions_max}",
            )
        if host.closing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this server is shutting down")
        said = metadata_of(context).get(SECRET, "")
        is_node = bool(self._secret) and hmac.compare_digest(said.encode(), self._secret.encode())
        session = Session(self._node, context, trusted=self._trusted, is_node=is_node)
        self.sessions[session] = None
        try:
            try:
                async with asyncio.timeout(HELLO_S):
                    frame = await context.read()
            except TimeoutError:
                await context.abort(
                    grpc.StatusCode.DEADLINE_EXCEEDED, f"no hello within {HELLO_S} s"
                )
            if not isinstance(frame, objects_pb2.ClientFrame):
                return
            if not frame.HasField("hello"):
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, "the first frame of a session is its hello"
                )
            if frame.hello.wire_version > WIRE_VERSION:
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"this server speaks wire version {WIRE_VERSION}, not "
                    f"{frame.hello.wire_version}: use an older client, or update the server",
                )
            welcome = objects_pb2.Welcome(
                server_time_ms=self._node.clock.now_ms(),
                cluster_id=self._node.store.cluster_id,
                frame_bytes_max=FRAME_BYTES_MAX,
                wire_version=WIRE_VERSION,
                build=__version__,
            )
            await context.write(objects_pb2.ServerFrame(welcome=welcome))
            await session.run()
        finally:
            self.sessions.pop(session, None)

    async def Invoke(
        self,
        request: objects_pb2.InvokeRequest,
        context: grpc.aio.ServicerContext[
            objects_pb2.InvokeRequest, Awaitable[objects_pb2.InvokeReply]
        ],
    ) -> objects_pb2.InvokeReply:
        """One call."""
        node = self._node
        now_ms = node.clock.now_ms()
        left_s: float | None = typing.cast("float | None", context.time_remaining())
        timeout_s = request.timeout_s or (30.0 if left_s is None else left_s)
        if math.isnan(timeout_s):
            await abort(context, InvalidArgumentError("timeout_s is not a number"))
        rid = request.request_id or make_request_id(now_ms, node.random_bits())
        encoding = MSGPACK if request.msgpack else JSON
        arguments = request.msgpack or request.json.encode()
        call = Call(
            0, request.class_name, request.key, request.method, arguments, rid, encoding,
            now_ms + max(1, int(min(timeout_s, 86_400) * 1000)),
        )  # fmt: skip
        waiter = Waiter(node.host.loop)
        active = waiter.active = node.host.submit(call, waiter)
        if active is not None and active.method is not None and active.method.streams:
            node.host.cancel(active, waiter, 0, Cancelled.CALLER)
            await abort(
                context,
                InvalidArgumentError(f"{active} streams: call it over a Session, with an SDK"),
            )
        try:
            reply = await waiter.future
        except asyncio.CancelledError:
            if waiter.active is not None:
                node.host.cancel(waiter.active, waiter, 0, Cancelled.CALLER)
            raise
        if reply.status:
            info = reply.error or ErrorInfo()
            await abort_status(context, reply.status, info)
        result = objects_pb2.InvokeReply(request_id=rid)
        if encoding == JSON:
            result.json = reply.payload.decode()
        else:
            result.msgpack = reply.payload
        return result


class Server:
    """The gRPC server of a node: objects, admin, health, reflection."""

    def __init__(
        self,
        node: Node,
        host: str,
        port: int,
        *,
        insecure: bool = False,
        advertise: str = "",
        view: ClusterView | None = None,
        secret: bytes = b"",
        sizes: Sizes = dict,
        moves: Moves | None = None,
    ) -> None:
        """`view` and `secret`: of the cluster that the node is in. `sizes`: bytes of shards, for plans.

        `moves`: of shards, as far as they were seen.
        """
        self._node = node
        self._advertise = advertise
        self._objects = Objects(node, trusted=is_loopback(host), secret=secret)
        self._host = host
        self._port = port
        self._relay: Relay | None = None
        check_host(host, insecure=insecure)
        self._server = grpc.aio.server(options=OPTIONS)
        objects_pb2_grpc.add_ObjectsServicer_to_server(self._objects, self._server)
        admin_pb2_grpc.add_AdminServicer_to_server(
            Admin(node, view or Alone(node, self.advertised), sizes, moves or Moves()),
            self._server,
        )
        self._map = MapService()
        shard_map_pb2_grpc.add_MapServicer_to_server(self._map, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = 0

    def serve_cluster(self, peers: PeerServer, relay: Relay) -> None:
        """Other nodes' streams come in here, too, and sessions with others; before `start`."""
        peers.add_to(self._server)
        relay.add_to(self._server)
        self._relay = relay

    def publish(self, shards: ShardMap, changed: Iterable[ShardRecord]) -> None:
        """Tell all that watch who owns what now."""
        self._map.publish(shards, changed)

    def tell(self, record: ShardRecord) -> None:
        """A shard of ours has another owner: whoever sends to us is to follow at once."""
        for session in self._objects.sessions:
            session.send(Moved(record.shard, record.epoch, record.owner, record.address))

    async def start(self, *, alone: bool = True) -> None:
        """Listen. Raises RoostError when the address cannot be had. `alone`: all shards are ours.

        Others are healthy from when they are told to be (`set_serving`).
        """
        self.port = listen(self._server, self._host, self._port)
        if alone:
            self._map.publish(self._node.shard_map(self.advertised()), ())
        await self.set_serving(alone)
        await self._server.start()
        relay = self._relay
        self._node.telemetry.gauges |= {
            "roost_sessions": ("open sessions", lambda: len(self._objects.sessions)),
            "roost_relayed_sessions": (
                "sessions with other nodes, by way of this one",
                lambda: relay.open_count if relay is not None else 0,
            ),
        }

    async def set_serving(self, is_serving: bool) -> None:
        """What the health service says from now on; once the server drains it says no, whatever this is."""
        states = health_pb2.HealthCheckResponse
        for service in ("", *SERVICES):
            await self._health.set(service, states.SERVING if is_serving else states.NOT_SERVING)

    def advertised(self) -> str:
        """Where others reach this node; empty: where they found it."""
        anywhere = self._host in ("0.0.0.0", "::", "[::]")
        return self._advertise or ("" if anywhere else f"{self._host}:{self.port}")

    async def say_goodbye(self) -> None:
        """Tell everybody that this server drains; what is open is still answered."""
        await self._health.enter_graceful_shutdown()
        for session in list(self._objects.sessions):
            session.say_goodbye()
        if self._relay is not None:
            self._relay.close()

    async def stop(self) -> None:
        """Hang up, when peers have taken the last answers, or do not take them."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LAST_ANSWERS_S
        while any(s.unsent_bytes for s in self._objects.sessions) and loop.time() < end:  # noqa: ASYNC110  # once in a life
            await asyncio.sleep(0.01)
        await self._server.stop(grace=0.2)
