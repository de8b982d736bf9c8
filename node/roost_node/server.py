"""gRPC in: frames to calls on the host, answers to frames.

One `Session` is one peer. What it may hold is bounded: unfinished calls and unsent answers; above a
bound it is not read until it has taken some. A slow reader therefore slows itself, nobody else. Where too
many calls are unfinished that wait is short, and then more calls are refused: what the open ones wait for
(credit, a cancel) may stand behind them.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import typing
from collections.abc import AsyncIterator, Awaitable, Iterable

import grpc
import grpc.aio
import msgspec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from roost import __version__
from roost.adapters.channel import SECRET
from roost.adapters.map_service import MapService
from roost.adapters.serving import (
    BATCH_BYTES,
    HELLO_S,
    OPTIONS,
    abort,
    abort_status,
    check_host,
    is_loopback,
    listen,
    metadata_of,
)
from roost.adapters.translate import (
    call_from_pb,
    from_client_frame,
    node_call_from_pb,
    server_frame,
    size_of,
)
from roost.cluster.ids import request_id as make_request_id
from roost.cluster.shard_map import ShardMap, ShardRecord
from roost.errors import InvalidArgumentError, OverloadedError
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
    Cancel,
    Credit,
    ErrorInfo,
    Moved,
    Query,
    Reply,
    Skip,
    ToClient,
)
from roost_node.admin import Admin
from roost_node.core.moves import Moves
from roost_node.host.call import ActiveCall, Cancelled, Waiter
from roost_node.node import Node
from roost_node.relay import Relay
from roost_node.replication.peer_server import PeerServer
from roost_node.storage.sizes import Sizes
from roost_node.view import Alone, ClusterView

log = logging.getLogger(__name__)

CALLS_AT_ONCE = 32  # taken from a frame before the loop gets a turn
PATIENCE_S = 0.25  # for a session's calls to end, before more of them are refused
SERVICES = ("roost.v1.Objects", "roost.v1.Admin", "roost.v1.Map")

Frames = grpc.aio.ServicerContext[objects_pb2.ClientFrame, objects_pb2.ServerFrame]


class Session:
    """One peer's stream (a `Sink`)."""

    __slots__ = (
        "_call_from_pb",
        "_context",
        "_event",
        "_gone",
        "_goodbye",
        "_node",
        "_patient",
        "_room",
        "_trusted",
        "calls",
        "unsent",
        "unsent_bytes",
    )

    def __init__(self, node: Node, context: Frames, *, trusted: bool, is_node: bool) -> None:
        """`trusted`: it may see tracebacks. `is_node`: the chains of its calls are believed."""
        self._node = node
        self._call_from_pb = node_call_from_pb if is_node else call_from_pb
        self._context = context
        self._trusted = trusted
        self._goodbye = False
        self._gone = False
        self._event = asyncio.Event()
        self._room = asyncio.Event()
        self._patient = True  # while too many calls are open, it has not been waited for yet
        self.calls: dict[int, ActiveCall] = {}
        self.unsent: list[ToClient | Moved] = []
        self.unsent_bytes = 0

    def send(self, message: ToClient | Moved) -> None:
        """Queue an answer, or news."""
        if isinstance(message, Reply):
            self.calls.pop(message.id, None)
            error = message.error
            if error is not None and error.traceback and not self._trusted:
                message.error = msgspec.structs.replace(error, traceback="")
        unsent = self.unsent
        unsent.append(message)
        self.unsent_bytes += size_of(message)
        if len(unsent) == 1:
            self._event.set()

    def taken(self, call_id: int, active: ActiveCall) -> None:
        """A call that was kept back is open now."""
        if self._gone and active.call.credit:
            self._node.host.cancel(active, self, call_id, Cancelled.CALLER)
        elif not self._gone:
            self.calls[call_id] = active

    def room(self) -> Awaitable[None] | None:
        """None: the peer takes its answers. Else: until it has taken some."""
        if self.unsent_bytes < self._node.host.limits.session_bytes_max:
            return None
        self._room.clear()
        return self._taken()

    async def _taken(self) -> None:
        await self._room.wait()

    async def run(self) -> None:
        """Until the peer hangs up."""
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write())
                try:
                    await self._read()
                finally:
                    writer.cancel()
        except* (
            Exception
        ) as group:  # the peer went away, in one of the many ways gRPC has to say so
            log.debug("session ended", extra={"why": str(group.exceptions[0])})
        finally:
            self._hang_up()

    def say_goodbye(self) -> None:
        """The server drains: the peer is to send what is new elsewhere."""
        self._goodbye = True
        self._event.set()

    async def _read(self) -> None:
        host = self._node.host
        while True:
            frame = await self._context.read()
            if not isinstance(frame, objects_pb2.ClientFrame):
                return
            now_ms = host.now_ms()
            for count, message in enumerate(frame.calls, 1):
                self._take(message, now_ms)
                if count % CALLS_AT_ONCE == 0:
                    # A frame may hold thousands, each with an answer of megabytes: let some run.
                    await asyncio.sleep(0)
                    await self._has_room()
                    now_ms = host.now_ms()
            if frame.cancels or frame.skips or frame.credits or frame.queries:
                self._take_others(frame)
            await self._has_room()

    async def _has_room(self) -> None:
        while (room := self.room()) is not None:
            await room
        if not self._is_full:
            self._patient = True
        elif self._patient:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while self._is_full:
                        self._room.clear()
                        await self._room.wait()
            except TimeoutError:
                self._patient = False

    @property
    def _is_full(self) -> bool:
        return len(self.calls) >= self._node.host.limits.session_calls_max

    def _take(self, message: objects_pb2.Call, now_ms: int) -> None:
        call = self._call_from_pb(message)
        if call.id in self.calls:
            return  # an id names one attempt: this peer counts wrong
        host = self._node.host
        if self._is_full and not self._patient:
            count = len(self.calls)
            error = OverloadedError(
                f"this session has {count} unfinished calls, at most "
                f"{host.limits.session_calls_max} (session_calls_max)",
                retry_after_s=host.admission.retry_after_s(count),
            )
            host.refuse(call, self, error)
            return
        active = host.submit(call, self, now_ms)
        if active is not None:
            self.calls[call.id] = active

    def _take_others(self, frame: objects_pb2.ClientFrame) -> None:
        host = self._node.host
        for other in from_client_frame(frame):
            if isinstance(other, Cancel):
                cancelled = self.calls.pop(other.id, None)
                if cancelled is not None:
                    host.cancel(cancelled, self, other.id, Cancelled.CALLER)
            elif isinstance(other, Skip):
                host.skip(other)
            elif isinstance(other, Credit):
                streaming = self.calls.get(other.id)
                if streaming is not None and streaming.call.credit:
                    host.add_credit(streaming, other.items)
            elif isinstance(other, Query):
                host.query(other, self)

    async def _write(self) -> None:
        while True:
            await self._event.wait()
            self._event.clear()
            if self._goodbye:
                self._goodbye = False
                await self._context.write(objects_pb2.ServerFrame(going_away=True))
            unsent, self.unsent = self.unsent, []
            size = self.unsent_bytes
            if size <= BATCH_BYTES:
                if unsent:
                    await self._context.write(server_frame(unsent))
                self.unsent_bytes -= size
            else:
                while unsent:
                    batch, unsent = _cut(unsent)
                    await self._context.write(server_frame(batch))
                    self.unsent_bytes -= sum(map(size_of, batch))
                    self._room.set()
            self._room.set()

    def _hang_up(self) -> None:
        """Its calls go on and are answered from their records; streams have nobody to go to."""
        self._gone = True
        host = self._node.host
        for call_id, active in list(self.calls.items()):
            if active.call.credit:
                host.cancel(active, self, call_id, Cancelled.CALLER)
        self.calls.clear()
        self.unsent.clear()


def _cut(
    messages: list[ToClient | Moved],
) -> tuple[list[ToClient | Moved], list[ToClient | Moved]]:
    """As many as fit into a frame, and the rest. An item never comes after its stream's reply."""
    size = 0
    for count, message in enumerate(messages):
        size += size_of(message)
        if size > BATCH_BYTES and count:
            return messages[:count], messages[count:]
    return messages, []


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
        """Hang up."""
        await self._server.stop(grace=0.2)
