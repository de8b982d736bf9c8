"""Calls of `grpc.aio` over the simulated network, as their callers and their servers see them.

Semantics are those of grpc.aio as far as the programs depend on them: a call that is cancelled or broken
cancels its handler; reading after a bad end raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import grpc.aio

from simulator.network import Connection, Pipe

if TYPE_CHECKING:
    from simulator.wire import Channel

Codec = Callable[[Any], Any] | None
"""Bytes to message, or message to bytes; None: they are the same."""


class Status(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    details: str = ""
    trailing: tuple[tuple[str, str], ...] = ()


OK = Status(grpc.StatusCode.OK)
HUNG_UP = Status(grpc.StatusCode.CANCELLED, "the caller hung up")


def _same(message: Any) -> Any:
    return message


class _Half:
    """Reading one pipe and writing another."""

    def __init__(self, inward: Pipe, outward: Pipe, read: Codec, write: Codec) -> None:
        self.inward = inward
        self.outward = outward
        self._deserialize = read or _same
        self._serialize = write or _same
        self._loop = asyncio.get_running_loop()

    async def next(self) -> Any:
        """A message, or how it ended."""
        inward = self.inward
        while not inward.queued:
            if inward.ended is not None:
                return inward.ended
            await inward.arrival()
        return self._deserialize(inward.take())

    async def put(self, message: Any) -> bool:
        """False: the call is over."""
        if self.inward.ended is not None:
            return False
        self.outward.send(self._serialize(message))
        while self.outward.is_full and self.inward.ended is None:
            room = self._loop.create_future()
            self.outward.writers.append(room)
            await room
        return True


class ClientCall:
    """A call, at its caller."""

    def __init__(
        self, channel: Channel, method: str, read: Codec, write: Codec, metadata: Any = None
    ) -> None:
        connection = channel.connection
        assert connection is not None, "a call begins on a channel that is ready"
        network = channel.network
        there = Pipe(network, connection.client, connection.server)
        back = Pipe(network, connection.server, connection.client)
        self._half = _Half(back, there, read, write)
        self._connection = connection
        self._cancelled = False
        self._context = ServerContext(there, back, connection, metadata)
        server = channel.server
        there.send(lambda: server.accept(method, self._context))
        connection.calls.append(self)

    def pump_soon(self) -> None:
        self._half.inward.pump_soon()
        self._half.outward.pump_soon()

    def break_(self, why: str) -> None:
        """The connection is lost."""
        status = Status(grpc.StatusCode.UNAVAILABLE, why)
        loop = self._connection.network.loop
        loop.call_soon(self._half.inward.end, status, context=self._connection.client.context)
        self._half.outward.send(HUNG_UP)

    async def read(self) -> Any:
        found = await self._half.next()
        if self._cancelled:
            raise asyncio.CancelledError
        if isinstance(found, Status):
            self._forget()
            if found.code is not grpc.StatusCode.OK:
                raise error_of(found)
            return grpc.aio.EOF
        return found

    async def write(self, message: Any) -> None:
        if not await self._half.put(message):
            raise asyncio.InvalidStateError("RPC already finished.")

    def cancel(self) -> bool:
        if self._half.inward.ended is not None:
            return False
        self._cancelled = True
        self._half.inward.end(Status(grpc.StatusCode.CANCELLED, "Locally cancelled"))
        self._half.outward.send(HUNG_UP)
        self._forget()
        return True

    async def details(self) -> str:
        ended = self._half.inward.ended
        return ended.details if isinstance(ended, Status) else ""

    def _forget(self) -> None:
        if self in self._connection.calls:
            self._connection.calls.remove(self)


def error_of(status: Status) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*status.trailing)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, details=status.details)


class ServerContext:
    """A call, at its server (`grpc.aio.ServicerContext`)."""

    def __init__(self, there: Pipe, back: Pipe, connection: Connection, metadata: Any) -> None:
        self._pipes = there, back
        self._metadata = tuple(metadata or ())
        self.connection = connection
        self._half: _Half

    def begin(self, handler: Any) -> None:
        there, back = self._pipes
        self._half = _Half(there, back, handler.request_deserializer, handler.response_serializer)

    async def read(self) -> Any:
        found = await self._half.next()
        return grpc.aio.EOF if isinstance(found, Status) else found

    async def write(self, message: Any) -> None:
        if not await self._half.put(message):
            raise grpc.aio.UsageError("RPC already finished.")

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> None:
        self.end(Status(code, details, tuple(trailing_metadata)))
        raise grpc.aio.AbortError(details)

    def invocation_metadata(self) -> Any:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None

    def end(self, status: Status) -> None:
        back = self._pipes[1]
        back.send(status)

    def on_hung_up(self, do: Callable[[], object]) -> None:
        """When the caller is gone."""
        self._pipes[0].on_end = do
