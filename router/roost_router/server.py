"""gRPC in: one session for each client, `Invoke`, the map, health.

A session reads bytes and hands them to the core; what a client may hold here is bounded: unfinished
calls and answers that it has not taken. Above a bound it is not read until it has taken some, so a
slow reader slows itself, nobody else; one that does not read at all is hung up on. Where too many
calls are unfinished that wait is short, and then more calls are refused: what the open ones wait for
(credit, a cancel) may stand behind them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import typing
from collections.abc import AsyncIterator, Awaitable

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from roost import __version__
from roost.adapters.map_service import MapService
from roost.adapters.serving import HELLO_S, OPTIONS, abort, abort_status, check_host, listen
from roost.adapters.translate import error_from_pb
from roost.cluster.ids import request_id as make_request_id
from roost.errors import InvalidArgumentError, UnavailableError
from roost.v1 import admin_pb2_grpc, objects_pb2, shard_map_pb2_grpc, types_pb2
from roost.wire.messages import FRAME_BYTES_MAX, WIRE_VERSION
from roost_router.admin import Admin
from roost_router.core.calls import Client, Forwarded, Kind
from roost_router.frames import server_frames, take_client_frame
from roost_router.router import NO_NODE, Router

log = logging.getLogger(__name__)

SERVICES = ("roost.v1.Objects", "roost.v1.Admin", "roost.v1.Map")
BACKLOG_MAX = 20_000  # messages that a node has not taken; then no client is read
POLL_S = 0.01
READY_S = 4.0
"""How long a client waits for a router that reaches no node; less than a client waits for its hello."""

PATIENCE_S = 0.25  # for a client's calls to end, before more of them are refused

Raw = grpc.aio.ServicerContext[bytes, bytes]
Invoking = grpc.aio.ServicerContext[objects_pb2.InvokeRequest, Awaitable[objects_pb2.InvokeReply]]


class Session:
    """One client's stream."""

    __slots__ = ("_context", "_event", "_room", "_router", "_tasks", "client", "goodbye")

    def __init__(self, router: Router, context: Raw) -> None:
        self._router = router
        self._context = context
        self._event = asyncio.Event()
        self._room = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self.goodbye = False
        self.client = Client(self._event.set)

    async def run(self) -> None:
        """Until either side hangs up."""
        wrong = ""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = (tasks.create_task(self._read()), tasks.create_task(self._write()))
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                self.cut()
        except* InvalidArgumentError as group:
            wrong = str(group.exceptions[0])
        except* (
            Exception
        ) as group:  # the peer went away, in one of the many ways gRPC has to say so
            log.debug("session ended", extra={"why": str(group.exceptions[0])})
        finally:
            self._router.core.on_client_gone(self.client)
        if wrong:
            await self._context.abort(grpc.StatusCode.INVALID_ARGUMENT, wrong)

    def cut(self) -> None:
        """Hang up."""
        for task in self._tasks:
            task.cancel()

    def say_goodbye(self) -> None:
        """The router drains: the client is to send what is new elsewhere."""
        self.goodbye = True
        self._event.set()

    async def _read(self) -> None:
        router, client = self._router, self.client
        limits = router.limits
        while True:
            raw = await self._context.read()
            if not isinstance(raw, bytes):
                return
            take_client_frame(raw, client, router.core, router.table, router.now_ms())
            if self.goodbye:
                self._event.set()  # it may have taken its last call back
            while client.unread_bytes >= limits.session_bytes_max:
                self._room.clear()
                await self._room.wait()
            await self._may_take_calls(limits.session_calls_max)
            while (behind := router.behind(BACKLOG_MAX)) is not None:
                behind.room.clear()
                await behind.room.wait()

    async def _may_take_calls(self, most: int) -> None:
        client = self.client
        if len(client.calls) < most:
            client.calls_max = None
        elif client.calls_max is None:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while len(client.calls) >= most:
                        self._room.clear()
                        await self._room.wait()
            except TimeoutError:
                client.calls_max = most

    async def _write(self) -> None:
        client = self.client
        said = False
        while True:
            await self._event.wait()
            self._event.clear()
            for raw, size in server_frames(client.take()):
                await self._context.write(raw)
                client.unread_bytes -= size
            self._room.set()
            if self.goodbye:
                if not said:
                    said = True
                    frame = objects_pb2.ServerFrame(going_away=True)
                    await self._context.write(frame.SerializeToString())
                if not client.calls and not client.outgoing:
                    return  # it has all its answers and finds the next router


class Objects:
    """The service of callers. Its session reads and writes bytes, so it is registered by hand."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._random = random.SystemRandom()
        self.sessions: dict[Session, None] = {}  # in order: a simulated run is to be repeatable

    def register(self, server: grpc.aio.Server) -> None:
        """Add it to a server."""
        handlers = {
            "Session": grpc.stream_stream_rpc_method_handler(self.session),
            "Invoke": grpc.unary_unary_rpc_method_handler(
                self.invoke,
                request_deserializer=objects_pb2.InvokeRequest.FromString,
                response_serializer=objects_pb2.InvokeReply.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("roost.v1.Objects", handlers),)
        )

    async def session(self, _: AsyncIterator[bytes], context: Raw) -> None:
        """Any number of calls over one stream."""
        router = self._router
        limits = router.limits
        if len(self.sessions) >= limits.sessions_max:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"this router has {len(self.sessions)} sessions, at most {limits.sessions_max}",
            )
        if router.closing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this router is shutting down")
        session = Session(router, context)
        self.sessions[session] = None
        try:
            try:
                async with asyncio.timeout(HELLO_S):
                    raw = await context.read()
            except TimeoutError:
                await context.abort(
                    grpc.StatusCode.DEADLINE_EXCEEDED, f"no hello within {HELLO_S} s"
                )
            try:
                async with asyncio.timeout(READY_S):
                    await router.ready.wait()
            except TimeoutError:
                await abort(context, UnavailableError(NO_NODE))
            if not isinstance(raw, bytes):
                return
            frame = objects_pb2.ClientFrame.FromString(raw)
            if not frame.HasField("hello"):
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, "the first frame of a session is its hello"
                )
            if frame.hello.wire_version > WIRE_VERSION:
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"this router speaks wire version {WIRE_VERSION}, not "
                    f"{frame.hello.wire_version}: use an older client, or update the router",
                )
            welcome = objects_pb2.Welcome(
                server_time_ms=router.now_ms(),
                cluster_id=router.table.map.shape.cluster_id,
                frame_bytes_max=FRAME_BYTES_MAX,
                wire_version=WIRE_VERSION,
                build=__version__,
            )
            await context.write(objects_pb2.ServerFrame(welcome=welcome).SerializeToString())
            await session.run()
        finally:
            self.sessions.pop(session, None)

    async def invoke(
        self, request: objects_pb2.InvokeRequest, context: Invoking
    ) -> objects_pb2.InvokeReply:
        """One call."""
        router = self._router
        if router.closing:
            await abort(context, UnavailableError("this router is shutting down"))
        left_s: float | None = typing.cast("float | None", context.time_remaining())
        timeout_s = min(request.timeout_s or (30.0 if left_s is None else left_s), 86_400)
        try:
            async with asyncio.timeout(timeout_s):
                await router.ready.wait()
        except TimeoutError:
            await abort(context, UnavailableError(NO_NODE))
        now_ms = router.now_ms()
        rid = request.request_id or make_request_id(now_ms, self._random.getrandbits(74))
        deadline_ms = now_ms + max(1, int(timeout_s * 1000))
        encoding = types_pb2.MSGPACK if request.msgpack else types_pb2.JSON
        call = objects_pb2.Call(
            class_name=request.class_name,
            key=request.key,
            method=request.method,
            arguments=request.msgpack or request.json.encode(),
            encoding=encoding,
            request_id=rid,
            deadline_ms=deadline_ms,
        )
        answered = asyncio.Event()
        client = Client(answered.set)
        shard = router.table.shard_of(request.class_name, request.key)
        body = call.SerializeToString()
        router.core.on_call(Forwarded(client, Kind.CALL, 1, body, shard, deadline_ms))
        try:
            await answered.wait()
        except asyncio.CancelledError:
            router.core.on_cancel(client, 1)
            raise
        reply = objects_pb2.Reply.FromString(client.take()[0].body)
        if reply.status:
            await abort_status(context, reply.status, error_from_pb(reply.error))
        result = objects_pb2.InvokeReply(request_id=rid)
        if encoding == types_pb2.JSON:
            result.json = reply.payload.decode()
        else:
            result.msgpack = reply.payload
        return result


class Server:
    """The gRPC server of a router."""

    def __init__(self, router: Router, host: str, port: int, *, insecure: bool = False) -> None:
        check_host(host, insecure=insecure)
        self._router = router
        self._host = host
        self._port = port
        self.objects = Objects(router)
        self._server = grpc.aio.server(options=OPTIONS)
        self.objects.register(self._server)
        self._admin = Admin(router)
        admin_pb2_grpc.add_AdminServicer_to_server(self._admin, self._server)
        self._map = MapService()
        router.on_map = self._map.publish
        shard_map_pb2_grpc.add_MapServicer_to_server(self._map, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises RoostError when the address cannot be had."""
        self.port = listen(self._server, self._host, self._port)
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        self._router.telemetry.gauges["roost_sessions"] = (
            "open sessions",
            lambda: len(self.objects.sessions),
        )

    async def serve_when_ready(self) -> None:
        """Healthy from when a node has told the map."""
        await self._router.ready.wait()
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def hang_up_on_hoarders(self) -> None:
        """Some clients do not read: nobody's memory is theirs. They find their answers when they ask again."""
        limits = self._router.limits
        total = 0
        most: Session | None = None
        for session in self.objects.sessions:
            unread = session.client.unread_bytes
            total += unread
            if most is None or unread > most.client.unread_bytes:
                most = session
        if most is not None and (
            most.client.unread_bytes > limits.session_unread_max or total > limits.unread_bytes_max
        ):
            log.warning(
                "hung up on a client that does not read",
                extra={"unread_bytes": most.client.unread_bytes},
            )
            most.cut()

    async def drain(self) -> None:
        """Send clients elsewhere; what is open may end within the grace period."""
        router = self._router
        router.closing = True
        await self._health.enter_graceful_shutdown()
        for session in list(self.objects.sessions):
            session.say_goodbye()
        end = router.monotonic_s() + router.limits.grace_s
        while (  # noqa: ASYNC110  # once in a process's life
            self.objects.sessions or not router.core.is_idle
        ) and router.monotonic_s() < end:
            await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """Hang up."""
        await self._server.stop(grace=0.2)
        await self._admin.close()
