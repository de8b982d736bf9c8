"""One peer's stream: frames to calls on the host, answers to frames.

What it may hold is bounded: unfinished calls and unsent answers; above a bound it is not read until it has
taken some. A slow reader therefore slows itself, nobody else. Where too many calls are unfinished that wait
is short, and then more calls are refused: what the open ones wait for (credit, a cancel) may stand behind them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

import grpc
import grpc.aio
import msgspec

from roost.adapters.serving import BATCH_BYTES
from roost.adapters.translate import (
    call_from_pb,
    from_client_frame,
    node_call_from_pb,
    server_frame,
    size_of,
)
from roost.errors import OverloadedError
from roost.v1 import objects_pb2
from roost.wire.messages import Cancel, Credit, Moved, Query, Reply, Skip, ToClient
from roost_node.host.call import ActiveCall, Cancelled
from roost_node.node import Node

log = logging.getLogger(__name__)

CALLS_AT_ONCE = 32  # taken from a frame before the loop gets a turn
PATIENCE_S = 0.25  # for a session's calls to end, before more of them are refused

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
