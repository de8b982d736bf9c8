"""Our stream to one other node: opened, and opened again for as long as it is wanted.

A stream speaks for one session. Opening again never carries anything over: the core says again what
was not acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Protocol

import grpc
import grpc.aio

from roost.adapters.channel import SILENT, pings, ready
from roost_node.core.record import StoreId
from roost_node.core.replication.messages import FromFollower
from roost_node.replication import translate
from roost_node.replication.outbox import Outbox

log = logging.getLogger(__name__)

METHOD = "/roost.v1.Replication/Follow"
CONNECT_S = 2.0
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 1.0
GATHER_S = 0.01  # not everything that an owner says has an answer
PING_S = 0.7  # a node that answers no ping is given up after both
PING_TIMEOUT_S = 0.8

LINK_OPTIONS: tuple[tuple[str, int | str], ...] = (
    *SILENT,
    *pings(PING_S, PING_TIMEOUT_S),
    ("grpc.keepalive_permit_without_calls", 1),
)

_Stream = grpc.aio.StreamStreamCall[bytes, bytes]


class LinkEvents(Protocol):
    """What an owner hears from its streams."""

    def on_link(self, peer: StoreId) -> None:
        """Our stream to that node is open."""

    def on_link_lost(self, peer: StoreId) -> None:
        """It broke; what was said on it is void."""

    def on_from_follower(self, peer: StoreId, message: FromFollower) -> None:
        """It answered."""


class _Broken(Exception):  # noqa: N818  # it never leaves this module
    """The stream ended; what is said is why."""


class Link:
    """One stream, or the wish for one."""

    def __init__(
        self,
        address: str,
        hello: Callable[[], translate.Hello],
        events: LinkEvents,
        rng: random.Random,
        before: asyncio.Task[None] | None,
    ) -> None:
        self.address = address
        self.peer = hello().to_store
        self.task: asyncio.Task[None] | None = None
        self._hello = hello
        self._events = events
        self._rng = rng
        self._before = before
        self._outbox: Outbox | None = None  # while it is open
        self._stream: _Stream | None = None
        self._why = ""
        self.audits = False  # the node at the other end knows the auditor's question

    @property
    def pending_bytes(self) -> int:
        """Said, and not written yet."""
        return self._outbox.pending_bytes if self._outbox is not None else 0

    def send(self, framed: bytes) -> None:
        """Say it, if the stream is open."""
        if self._outbox is not None and not self._outbox.put(framed):
            self._why = "it takes what it is sent too slowly"
            assert self._stream is not None
            self._stream.cancel()  # the reader sees the end and tells the core, which may be busy now

    async def run(self) -> None:
        """Until it is cancelled."""
        if self._before is not None:  # its end is told before our beginning
            await asyncio.wait([self._before])
        loop = asyncio.get_running_loop()
        pause_s = PAUSE_S_MIN
        told = ""
        task = asyncio.current_task()
        assert task is not None
        while True:
            begun_s = loop.time()
            self._why = ""
            try:
                await self._connected()
            except (grpc.aio.AioRpcError, TimeoutError, OSError, ValueError, _Broken) as error:
                why = self._why or _why(error)
                if why != told:  # a node that is down for an hour is one line
                    log.warning("no stream to a node", extra={"peer": self.peer, "why": why})
                told = why
            if task.cancelling():  # gRPC may answer it with an error of its own
                raise asyncio.CancelledError
            if loop.time() - begun_s > PAUSE_S_MAX:
                pause_s = PAUSE_S_MIN
            await asyncio.sleep(pause_s * (0.5 + self._rng.random()))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _connected(self) -> None:
        async with grpc.aio.insecure_channel(self.address, options=LINK_OPTIONS) as channel:
            async with asyncio.timeout(CONNECT_S):
                await ready(channel)
                method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                    METHOD
                )
                stream = method()
                await stream.write(translate.hello_frame(self._hello()))
                welcome = translate.read_welcome(await _read(stream))
            if welcome.store != self.peer:
                raise _Broken(f"{self.address} is store {welcome.store}, not {self.peer}")
            self.audits = welcome.audits
            outbox = Outbox(gather_s=GATHER_S)
            self._outbox, self._stream = outbox, stream
            writer = asyncio.get_running_loop().create_task(_write(stream, outbox))
            log.info("stream to a node", extra={"peer": self.peer})
            try:
                self._events.on_link(self.peer)
                while True:
                    raw = await _read(stream)
                    outbox.answered()
                    for message in translate.read_follower_frame(raw):
                        self._events.on_from_follower(self.peer, message)
            finally:
                outbox.close()
                self._outbox = self._stream = None
                self._events.on_link_lost(self.peer)
                writer.cancel()
                stream.cancel()
                await asyncio.wait([writer])


async def _read(stream: _Stream) -> bytes:
    try:
        raw = await stream.read()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _Broken("it was given up") from None  # so gRPC says that `stream.cancel` was called
    if not isinstance(raw, bytes):
        raise _Broken(await stream.details() or "it ended the stream")
    return raw


async def _write(stream: _Stream, outbox: Outbox) -> None:
    try:
        while True:
            frame = await outbox.frame()
            await stream.write(frame)
            outbox.written(frame)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        stream.cancel()  # the reader sees the end and says so


def _why(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return error.details() or str(error.code())
    return str(error) or "no answer"
