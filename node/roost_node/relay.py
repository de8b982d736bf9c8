"""Sessions with another node, by way of this one: for whoever cannot reach it (a *detour*).

Frames pass as bytes, in both directions, each when the one before it was taken: so a slow end slows the
other, and nothing is kept here. The way leads to nodes of this cluster only, which the map names, and
never over a second relay.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container
from typing import Any, NamedTuple

import grpc
import grpc.aio

from roost.adapters.channel import (
    RELAY_SERVICE,
    RELAY_TO,
    SECRET,
    SESSION_METHOD,
    SILENT,
    pings,
    ready,
)
from roost.adapters.serving import metadata_of

RELAYS_MAX = 256
CONNECT_S = 1.0
OPTIONS = (*SILENT, *pings(1.0, 1.5))

_Context = grpc.aio.ServicerContext[bytes, bytes]
_Stream = grpc.aio.StreamStreamCall[bytes, bytes]


class Relay:
    """The service; `nodes`: addresses to which it leads, as of now."""

    def __init__(self, nodes: Callable[[], Container[str]]) -> None:
        self._nodes = nodes
        self._closing = asyncio.Event()
        self.open_count = 0  # sessions that go through here now

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on that server."""
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self.session
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(RELAY_SERVICE, {"Session": handler}),)
        )

    async def session(self, _requests: AsyncIterator[bytes], context: _Context) -> None:
        """One session, until either end leaves or this node drains."""
        to = _target(context)
        if to not in self._nodes():
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{to or 'nothing'} is not the address of a node that owns shards of this cluster",
            )
        if self.open_count >= RELAYS_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self.open_count} sessions are relayed here, at most {RELAYS_MAX}",
            )
        self.open_count += 1
        try:
            end = await self._relay(to, context)
        finally:
            self.open_count -= 1
        await context.abort(end.code, end.details)

    def close(self) -> None:
        """The node drains: those who came this way find another."""
        self._closing.set()

    def dial(self, to: str) -> grpc.aio.Channel:
        """A channel to that node."""
        return grpc.aio.insecure_channel(to, options=OPTIONS)

    async def _relay(self, to: str, context: _Context) -> _End:
        try:
            async with self.dial(to) as channel:
                async with asyncio.timeout(CONNECT_S):
                    await ready(channel)
                method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                    SESSION_METHOD
                )
                return await self._pump(context, method(metadata=_passed_on(context)))
        except (grpc.aio.AioRpcError, TimeoutError, OSError):
            return _End(grpc.StatusCode.UNAVAILABLE, f"{to} cannot be reached from here either")

    async def _pump(self, context: _Context, stream: _Stream) -> _End:
        create_task = asyncio.get_running_loop().create_task
        down = create_task(_down(stream, context))
        parts: tuple[asyncio.Task[Any], ...] = (
            down, create_task(_up(context, stream)), create_task(self._closing.wait()),
        )  # fmt: skip
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            if down.done() and down.exception() is None:
                return down.result()
            return _End(grpc.StatusCode.UNAVAILABLE, "the way over this node ends")
        finally:
            for part in parts:
                part.cancel()
            stream.cancel()
            await asyncio.gather(*parts, return_exceptions=True)


class _End(NamedTuple):
    code: grpc.StatusCode
    details: str


async def _up(context: _Context, stream: _Stream) -> None:
    while isinstance(raw := await context.read(), bytes):
        await stream.write(raw)


async def _down(stream: _Stream, context: _Context) -> _End:
    try:
        while isinstance(raw := await stream.read(), bytes):
            await context.write(raw)
    except grpc.aio.AioRpcError as error:
        return _End(error.code(), error.details() or "")
    return _End(grpc.StatusCode.UNAVAILABLE, "the node hung up")


def _target(context: _Context) -> str:
    return metadata_of(context).get(RELAY_TO, "")


def _passed_on(context: _Context) -> tuple[tuple[str, str], ...]:
    """Who speaks, if it is a node: a client gains nothing by coming this way."""
    secret = metadata_of(context).get(SECRET)
    return ((SECRET, secret),) if secret is not None else ()
