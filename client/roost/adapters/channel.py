"""A link over gRPC: one bidirectional stream, each message a batch.

All messages handed over while the stream is busy go out together with the next write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import grpc.aio

from roost.adapters.translate import (
    client_frame,
    detail_from_pb,
    from_server_frame,
    page_from_pb,
    size_of,
    status_from_pb,
)
from roost.adapters.transport import NodeStatus, ObjectDetail, ObjectPage, Opened, Receiver
from roost.errors import OutcomeUnknownError, RoostError, UnavailableError
from roost.options import RECONNECT_S_MAX, RECONNECT_S_MIN
from roost.v1 import admin_pb2, admin_pb2_grpc, objects_pb2, objects_pb2_grpc
from roost.wire.messages import FRAME_BYTES_MAX, WIRE_VERSION, ErrorInfo, Status, ToServer
from roost.wire.status import to_error

BATCH_BYTES = FRAME_BYTES_MAX // 4
Options = tuple[tuple[str, int | str], ...]


def pings(every_s: float, timeout_s: float) -> Options:
    """A peer that says nothing for both times together is given up: it is frozen, or the way to it is cut."""
    timeout_ms = int(timeout_s * 1000)
    return (
        ("grpc.keepalive_time_ms", int(every_s * 1000)),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        # It is this one that counts: without it a frozen peer was kept for 60 s, whatever the other says.
        ("grpc.http2.ping_timeout_ms", timeout_ms),
    )


SILENT: Options = (
    ("grpc.max_receive_message_length", 2 * FRAME_BYTES_MAX),
    ("grpc.max_send_message_length", 2 * FRAME_BYTES_MAX),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also how long connecting may take: a round trip and a half.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""For whoever says how often to ping."""

# A call whose deadline nobody set (30 s) must outlive a frozen router by far: there is another one.
OPTIONS: Options = (*SILENT, *pings(5.0, 3.0))
STATUS_HEADER = "roost-status"
SESSION_METHOD = "/roost.v1.Objects/Session"
RELAY_SERVICE = "roost.v1.Relay"
RELAY_METHOD = f"/{RELAY_SERVICE}/Session"
RELAY_TO = "roost-relay-to"
"""Metadata of a relayed session: the address of the node that is meant."""
SECRET = "roost-cluster-secret"
"""Metadata of a session that a node opens to another: its cluster's secret, in hexadecimal."""


class Tls:
    """How to speak TLS: files in PEM. `ca`: whom to trust; `certificate` and `key`: who we are."""

    __slots__ = ("ca", "certificate", "key")

    def __init__(
        self, ca: bytes | None = None, certificate: bytes | None = None, key: bytes | None = None
    ) -> None:
        self.ca = ca
        self.certificate = certificate
        self.key = key


class ChannelTransport:
    """A `Transport` that tries several addresses in turn and uses one at a time."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        connect_timeout_s: float,
        token: str | None = None,
        tls: Tls | None = None,
        client: str = "roost-python",
    ) -> None:
        self._addresses = tuple(addresses)
        self._at = 0
        self._timeout_s = connect_timeout_s
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._tls = tls
        self._client = client
        self._channel: grpc.aio.Channel | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue: list[ToServer] = []
        self._more = asyncio.Event()
        self._closed = False

    async def open(self, receiver: Receiver) -> Opened:
        """Connect to the first address that answers, beginning behind the one that broke.

        Goes round them until the time is over: a server that is just being started is waited for,
        and one that refuses costs no time while another answers.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._timeout_s * len(self._addresses)
        pause_s = RECONNECT_S_MIN
        while True:
            failures: list[str] = []
            refusal = ""
            for step in range(len(self._addresses)):
                at = (self._at + step) % len(self._addresses)
                address = self._addresses[at]
                try:
                    opened = await self._open(address, receiver)
                except (grpc.aio.AioRpcError, TimeoutError, OSError, UnavailableError) as error:
                    await self._drop()
                    why = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
                    failures.append(f"{address}: {why or 'no answer'}")
                    if isinstance(error, grpc.aio.AioRpcError) and said_by_roost(error):
                        refusal = failures[-1]
                    continue
                self._at = at + 1
                return opened
            if loop.time() + pause_s >= end:
                if refusal:  # somebody answers, and this is what
                    raise UnavailableError(refusal)
                raise UnavailableError(
                    f"no server answers ({'; '.join(failures)}): is it running, and is the address "
                    f"right?"
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RECONNECT_S_MAX)

    async def _open(self, address: str, receiver: Receiver) -> Opened:
        await self._drop()
        if self._tls is None:
            channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(
                self._tls.ca, self._tls.key, self._tls.certificate
            )
            channel = grpc.aio.secure_channel(address, credentials, options=OPTIONS)
        self._channel = channel
        stub = objects_pb2_grpc.ObjectsStub(channel)
        async with asyncio.timeout(self._timeout_s):
            await ready(channel)
            stream = stub.Session(metadata=self._metadata)
            hello = objects_pb2.Hello(client=self._client, wire_version=WIRE_VERSION)
            await stream.write(objects_pb2.ClientFrame(hello=hello))
            frame = await stream.read()
            if not isinstance(frame, objects_pb2.ServerFrame):
                # The stream ended instead: its status says why.
                raise UnavailableError(await stream.details())
        welcome = frame.welcome
        self._queue = []
        self._more = asyncio.Event()
        loop = asyncio.get_running_loop()
        link = _Link(self, stream, receiver)
        for run in (link.read(), link.write()):
            task = loop.create_task(run)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return Opened(welcome.server_time_ms, welcome.cluster_id, welcome.build)

    def send(self, messages: list[ToServer]) -> None:
        """Queue messages."""
        self._queue += messages
        self._more.set()

    async def close(self) -> None:
        """Disconnect."""
        self._closed = True
        await self._drop()

    async def _drop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        # Not awaited one by one: a cancellation of ours would be taken for theirs, and closing wait for ever.
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def list_objects(
        self, class_name: str, prefix: str, limit: int, page_token: bytes
    ) -> ObjectPage:
        """A page of the catalog."""
        request = admin_pb2.ListObjectsRequest(
            class_name=class_name, prefix=prefix, limit=limit, page_token=page_token
        )
        try:
            reply = await self._admin().ListObjects(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, is_read=True) from None
        return page_from_pb(reply)

    async def show_object(self, class_name: str, key: str) -> ObjectDetail | None:
        """One object."""
        request = admin_pb2.ShowObjectRequest(class_name=class_name, key=key)
        try:
            reply = await self._admin().ShowObject(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, is_read=True) from None
        return detail_from_pb(reply)

    async def delete_object(self, class_name: str, key: str) -> bool:
        """Delete all that it stores."""
        request = admin_pb2.DeleteObjectRequest(class_name=class_name, key=key)
        try:
            reply = await self._admin().DeleteObject(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
        return reply.found

    async def status(self) -> NodeStatus:
        """What the server says of itself."""
        try:
            reply = await self._admin().Status(admin_pb2.StatusRequest(), metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, is_read=True) from None
        return status_from_pb(reply)

    def _admin(self) -> admin_pb2_grpc.AdminStub:
        if self._channel is None:
            raise UnavailableError("not connected: the client is looking for a server")
        return admin_pb2_grpc.AdminStub(self._channel)


class _Link:
    """The two directions of one stream."""

    def __init__(
        self,
        transport: ChannelTransport,
        stream: grpc.aio.StreamStreamCall[objects_pb2.ClientFrame, objects_pb2.ServerFrame],
        receiver: Receiver,
    ) -> None:
        self._transport = transport
        self._stream = stream
        self._receiver = receiver
        self._lost = False

    async def read(self) -> None:
        reason = "the server closed the stream"
        try:
            while True:
                frame = await self._stream.read()
                if not isinstance(frame, objects_pb2.ServerFrame):
                    details = await self._stream.details()
                    reason = details or reason
                    break
                if frame.going_away:
                    self._receiver.on_going_away()
                self._receiver.on_messages(from_server_frame(frame))
        except grpc.aio.AioRpcError as error:
            reason = error.details() or str(error.code())
        self._lose(reason)

    async def write(self) -> None:
        transport = self._transport
        try:
            while True:
                await transport._more.wait()
                transport._more.clear()
                queue, transport._queue = transport._queue, []
                for batch in batches(queue):
                    await self._stream.write(client_frame(batch))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._stream.cancel()  # the reader sees the end and says so

    def _lose(self, reason: str) -> None:
        if not self._lost and not self._transport._closed:
            self._lost = True
            self._receiver.on_lost(reason)


async def ready(channel: grpc.aio.Channel) -> None:
    """Wait until it is connected. Raises OSError as soon as the server is known not to be there."""
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        if state in (
            grpc.ChannelConnectivity.TRANSIENT_FAILURE,
            grpc.ChannelConnectivity.SHUTDOWN,
        ):
            raise OSError("cannot be connected to")
        await channel.wait_for_state_change(state)


def batches(messages: list[ToServer]) -> list[list[ToServer]]:
    """Cut so that no frame is over its bound."""
    cut: list[list[ToServer]] = []
    batch: list[ToServer] = []
    size = 0
    for message in messages:
        more = size_of(message)
        if batch and size + more > BATCH_BYTES:
            cut.append(batch)
            batch, size = [], 0
        batch.append(message)
        size += more
    if batch:
        cut.append(batch)
    return cut


def said_by_roost(error: grpc.aio.AioRpcError) -> bool:
    """Whether a server answered, and refused: not whether none could be reached."""
    return any(key == STATUS_HEADER for key, _ in error.trailing_metadata() or ())


def error_of(
    error: grpc.aio.AioRpcError, server: str = "the server", *, is_read: bool = False
) -> RoostError:
    """The Roost error behind a failed unary call. `is_read`: nothing can have happened."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_HEADER:
            return to_error(int(value), ErrorInfo(error.details() or ""))
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(error.details() or "the server cannot be reached")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        why = f"{server} has not answered in time"
        return UnavailableError(why) if is_read else OutcomeUnknownError(why)
    return to_error(Status.OUTCOME_UNKNOWN, ErrorInfo(error.details() or str(error.code())))
