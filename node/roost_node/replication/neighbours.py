"""Calls of our objects to objects of other nodes.

They go the way that a client's would, straight to the owner, by the core that routers use: it follows
shards that move, and sends again what a broken link lost. The chain of callers travels with them: the
other node believes it from whoever knows the cluster's secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from roost.adapters.direct import Identity, direct_transport
from roost.adapters.transport import Transport
from roost.errors import RoostError, UnavailableError
from roost.wire.messages import Call, Cancel, Credit, Reply, Skip, ToClient
from roost.wire.status import to_status
from roost_node.host.call import Sink

CONNECT_S = 2.0


class Neighbours:
    """The way to other nodes (a `host.children.Elsewhere`); opened by the first call."""

    def __init__(self, addresses: Callable[[], Sequence[str]], who: Callable[[], Identity]) -> None:
        self._addresses = addresses
        self._who = who
        self._transport: Transport | None = None
        self._opening: asyncio.Lock = asyncio.Lock()
        self._sinks: dict[int, Sink] = {}
        self._ids = 0

    async def send(self, call: Call, sink: Sink) -> int:
        """Send a call; its answers go to `sink`. The number by which to speak of it."""
        transport = await self._opened(call, sink)
        if transport is None:
            return 0
        self._ids += 1
        self._sinks[self._ids] = sink
        transport.send([msgspec.structs.replace(call, id=self._ids)])
        return self._ids

    async def _opened(self, call: Call, sink: Sink) -> Transport | None:
        async with self._opening:
            if self._transport is None:
                try:
                    self._transport = await self._open()
                except RoostError as error:
                    status, info = to_status(error)
                    sink.send(Reply(call.id, int(status), b"", 0, info))
        return self._transport

    async def _open(self) -> Transport:
        addresses = self._addresses()
        if not addresses:  # they are known by the session, and so is who owns what
            raise UnavailableError("this node has lost its session, and knows no other node now")
        transport = direct_transport(addresses, connect_timeout_s=CONNECT_S, who=self._who())
        try:
            await transport.open(self)
        except BaseException:
            # Also where the first caller is cancelled: the next one opens another.
            await transport.close()
            raise
        return transport

    def cancel(self, number: int) -> None:
        """Nobody waits for that call any more."""
        if self._sinks.pop(number, None) is not None and self._transport is not None:
            self._transport.send([Cancel(number)])

    def add_credit(self, number: int, items: int) -> None:
        """The reader of that stream has room."""
        if self._transport is not None:
            self._transport.send([Credit(number, items)])

    def skip(self, skip: Skip) -> None:
        """That call of the stub was given up."""
        if self._transport is not None:
            self._transport.send([skip])

    async def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            await self._transport.close()

    # -- Receiver --------------------------------------------------------------------------

    def on_messages(self, messages: list[ToClient]) -> None:
        """Answers."""
        for message in messages:
            sink = self._sinks.get(message.id)
            if sink is not None:
                if isinstance(message, Reply):
                    del self._sinks[message.id]
                sink.send(message)

    def on_going_away(self) -> None:
        """The core follows by itself."""

    def on_lost(self, reason: str) -> None:
        """The core makes its links anew by itself."""
