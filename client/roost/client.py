"""The asynchronous client: stubs in, calls out.

One `Cluster` keeps one link to a server (a router or a node) and finds the next one when it breaks.
Calls are retried until their deadline, with the same request id, so a restart of the server shows as
latency, not as an error.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar, overload
from uuid import UUID

from roost.adapters.addresses import checked
from roost.adapters.channel import ChannelTransport, Tls
from roost.adapters.direct import direct_transport
from roost.adapters.transport import NodeStatus, ObjectDetail, ObjectInfo, Opened, Transport
from roost.cluster.ids import ranges
from roost.cluster.ids import request_id as make_request_id
from roost.errors import InvalidArgumentError, OutcomeUnknownError, RoostError, UnavailableError
from roost.options import (
    CONNECT_TIMEOUT_S,
    DEADLINE_S,
    PAGE_OBJECTS,
    RECONNECT_S_MAX,
    RECONNECT_S_MIN,
    SHARDS_NAMED,
    STREAM_CREDIT,
)
from roost.stub import Order, Stub, make_stub, stub_of
from roost.wire.codec import decode_any, encode_arguments
from roost.wire.messages import (
    COMMITTED,
    EXPIRED,
    RUNNING,
    Call,
    Credit,
    Item,
    Outcome,
    Query,
    Reply,
    ToClient,
)
from roost.wire.session import CallSession, Waiting
from roost.wire.status import to_error

T = TypeVar("T")
TICK_S = 0.005

_random = random.SystemRandom()
_ids = random.Random(_random.getrandbits(256))  # a call needs bits that differ, and quickly
# A forked process would go on with the same ones: two calls with one id, of which only one takes effect.
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=lambda: _ids.seed(_random.getrandbits(256)))


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """The call took effect (or ended in an error that was kept); `result` raises that error."""

    _result: T | None
    error: RoostError | None = None

    @property
    def result(self) -> T:
        """What the call returned. Raises the error in which it ended."""
        if self.error is not None:
            raise self.error
        return self._result  # type: ignore[return-value]  # None only where T allows it


@dataclass(frozen=True, slots=True)
class Running:
    """The call is being executed, or waits for it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is no trace of the call: it has not taken effect."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The call is older than ten minutes: nothing is known of it any more."""


OutcomeOf = Committed[Any] | Running | Unknown | Expired


class _Pending(Waiting):
    """A call and the future of whoever awaits it."""

    __slots__ = ("future",)

    def __init__(
        self, call: Call | Query, order: Order | None, future: asyncio.Future[Reply | Outcome]
    ) -> None:
        super().__init__(call, order)
        self.future = future

    def end(self, reply: Reply | Outcome) -> None:
        if not self.future.done():
            self.future.set_result(reply)

    def fail(self, error: RoostError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def item(self, item: Item) -> None:
        """An ordinary call has no items."""


class _Stream(Waiting):
    """A streaming call and what has arrived of it."""

    __slots__ = ("_loop", "_waiter", "arrived", "error")

    def __init__(self, call: Call, order: Order, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(call, order)
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self.arrived: deque[Item | Reply] = deque()
        self.error: RoostError | None = None

    def end(self, reply: Reply | Outcome) -> None:
        assert isinstance(reply, Reply)
        self.arrived.append(reply)
        self._wake()

    def fail(self, error: RoostError) -> None:
        self.error = error
        self._wake()

    def item(self, item: Item) -> None:
        self.arrived.append(item)
        self._wake()

    async def next(self) -> Item | Reply:
        """The next item, or the reply that ends the stream."""
        while not self.arrived:
            if self.error is not None:
                raise self.error
            self._waiter = self._loop.create_future()
            await self._waiter
        return self.arrived.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Cluster:
    """A connection to a cluster. Made by `connect` and `local`; a stub's `Caller`."""

    def __init__(self, transport: Transport, *, timeout_s: float = DEADLINE_S) -> None:
        self._transport = transport
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._session = CallSession(_random.random, self._schedule_flush)
        self._base_ms = 0  # server time less the loop's
        self._connected = False
        self._going_away = False
        self._closed = False
        self._lost = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.cluster_id = ""

    # -- life ------------------------------------------------------------------------------

    async def __aenter__(self) -> Cluster:
        try:
            self._welcome(await self._transport.open(self))
        except BaseException:
            await self._transport.close()
            raise
        self._tasks = [
            self._loop.create_task(self._reconnect_loop()),
            self._loop.create_task(self._tick_loop()),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._session.fail_all(OutcomeUnknownError("the client was closed before the answer came"))
        self._flush()
        await self._transport.close()

    def _welcome(self, opened: Opened) -> None:
        # Server time goes on by this process's monotonic clock: its wall clock matters to nothing.
        self._base_ms = opened.server_time_ms - self._own_ms()
        self._session.on_server_time(self._base_ms)
        self.cluster_id = opened.cluster_id
        self._connected = True
        self._going_away = False
        self._flush()

    async def _reconnect_loop(self) -> None:
        while True:
            await self._lost.wait()
            self._lost.clear()
            pause_s = RECONNECT_S_MIN
            while True:
                try:
                    self._welcome(await self._transport.open(self))
                    break
                except RoostError:
                    await asyncio.sleep(pause_s * (0.5 + _random.random()))
                    pause_s = min(2 * pause_s, RECONNECT_S_MAX)

    async def _tick_loop(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if not self._session.is_idle:
                self._session.on_tick(self._own_ms())

    # -- Receiver --------------------------------------------------------------------------

    def on_messages(self, messages: list[ToClient]) -> None:
        """Answers came."""
        self._session.on_messages(messages, self._own_ms())

    def on_going_away(self) -> None:
        """The server drains: what is new waits for the next one."""
        self._going_away = True

    def on_lost(self, reason: str) -> None:
        """The link broke."""
        self._connected = False
        self._session.on_lost()
        self._lost.set()

    def _schedule_flush(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if not self._connected:
            return
        outgoing, self._session.outgoing = self._session.outgoing, []
        if self._going_away:
            # What is new waits for the next server; what is open needs its credit here.
            self._session.outgoing = [m for m in outgoing if isinstance(m, Call | Query)]
            outgoing = [m for m in outgoing if not isinstance(m, Call | Query)]
        if outgoing:
            self._transport.send(outgoing)

    def _own_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def _now_ms(self) -> int:
        return self._base_ms + self._own_ms()

    # -- Caller ----------------------------------------------------------------------------

    async def invoke(
        self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Make a call and wait for its result."""
        if self._closed:
            raise UnavailableError("the client is closed")
        call = self._call(stub, method, args, kwargs)
        pending = _Pending(call, stub._order, self._loop.create_future())
        self._session.start(pending)
        try:
            reply = await pending.future
        except asyncio.CancelledError:
            self._session.give_up(pending)
            raise
        assert isinstance(reply, Reply)
        if reply.status:
            raise to_error(reply.status, reply.error)
        spec = stub._spec
        if spec is None:
            return decode_any(reply.payload)
        return spec.methods[method].decode_result(reply.payload)

    async def stream(
        self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Make a streaming call and read its items."""
        if self._closed:
            raise UnavailableError("the client is closed")
        call = self._call(stub, method, args, kwargs)
        call.credit = STREAM_CREDIT
        stream = _Stream(call, stub._order, self._loop)
        known = stub._spec.methods[method] if stub._spec is not None else None
        self._session.start(stream)
        taken = 0
        try:
            while True:
                message = await stream.next()
                if isinstance(message, Reply):
                    if message.status:
                        raise to_error(message.status, message.error)
                    return
                taken += 1
                if taken == STREAM_CREDIT // 2:
                    self._session.say(Credit(call.id, taken))
                    taken = 0
                yield known.decode_result(message.payload) if known else decode_any(message.payload)
        finally:
            self._session.give_up(stream)

    def _call(self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        arguments = encode_arguments(args, kwargs)
        now_ms = self._now_ms()
        timeout_s = stub._timeout_s
        rid = stub._take_request_id() or make_request_id(now_ms, _ids.getrandbits(74))
        order = stub._order
        return Call(
            0,
            stub._class_name,
            stub._key,
            method,
            arguments,
            rid,
            0,
            now_ms + int((self._timeout_s if timeout_s is None else timeout_s) * 1000),
            order.stub_id,
            order.begin(),
        )

    # -- what users call -------------------------------------------------------------------

    @overload
    def object(self, cls: type[T], key: str) -> T: ...

    @overload
    def object(self, cls: str, key: str) -> Any: ...

    def object(self, cls: type[T] | str, key: str) -> Any:
        """A stub for the object of that class and key (1 to 1,024 bytes of UTF-8).

        Costs nothing and contacts nobody. With a class's name instead of the class it is untyped.
        """
        return make_stub(self, cls, key)

    async def outcome(self, stub: Any, request_id: UUID) -> OutcomeOf:
        """What became of a request to that object: see `roost.outcome`."""
        target = stub_of(stub)
        pending = _Pending(
            Query(0, target._class_name, target._key, request_id.bytes),
            None,
            self._loop.create_future(),
        )
        self._session.start(pending)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await pending.future
        except TimeoutError:
            self._session.give_up(pending)
            raise UnavailableError("no server has answered the question for an outcome") from None
        except asyncio.CancelledError:
            self._session.give_up(pending)
            raise
        assert isinstance(answer, Outcome)
        if answer.state == RUNNING:
            return Running()
        if answer.state == EXPIRED:
            return Expired()
        if answer.state == COMMITTED:
            if answer.status:
                return Committed(None, to_error(answer.status, answer.error))
            return Committed(decode_any(answer.payload, answer.encoding))
        if answer.status:
            raise to_error(answer.status, answer.error)
        return Unknown()

    async def objects(self, cls: type[Any] | str, *, prefix: str = "") -> AsyncIterator[ObjectInfo]:
        """Objects of a class of which something is stored, by shard and key; read page by page.

        Raises UnavailableError at the end where that was not all: a shard has no owner now, or the server is
        a node of a cluster, which lists its own.
        """
        name = cls if isinstance(cls, str) else cls.__name__
        token = b""
        while True:
            page = await self._transport.list_objects(name, prefix, PAGE_OBJECTS, token)
            for info in page.objects:
                yield info
            token = page.next_token
            if not token:
                break
        if page.unlisted:
            raise UnavailableError(
                f"the list is incomplete: nobody who was asked owns {len(page.unlisted)} of the shards"
                f" ({ranges(page.unlisted[:SHARDS_NAMED])}): ask a router, and see `roost status`"
            )

    async def show(self, cls: type[Any] | str, key: str) -> ObjectDetail | None:
        """One object as it is stored; None: nothing of it is."""
        name = cls if isinstance(cls, str) else cls.__name__
        return await self._transport.show_object(name, key)

    async def delete(self, cls: type[Any] | str, key: str) -> bool:
        """Delete all that an object stores; was there anything?"""
        name = cls if isinstance(cls, str) else cls.__name__
        return await self._transport.delete_object(name, key)

    async def status(self) -> NodeStatus:
        """What the server says of itself."""
        return await self._transport.status()


def connect(
    *addresses: str,
    token: str | None = None,
    tls: Tls | None = None,
    direct: bool = False,
    timeout: float = DEADLINE_S,
    connect_timeout: float = CONNECT_TIMEOUT_S,
) -> _Connecting:
    """Connect to one or more servers ("host:port"), of which one is used at a time.

    `timeout`: seconds until the deadline of a call that sets none. `token` goes with every request as
    a bearer token. `direct`: learn who owns what and keep a link to every node, which saves the hop
    over a router (no token and no TLS yet).
    Raises UnavailableError when no server answers within `connect_timeout` seconds each, and
    InvalidArgumentError at once for what is no "host:port".
    """
    if not addresses:
        raise InvalidArgumentError('give an address: roost.connect("localhost:7400")')
    if direct and (token is not None or tls is not None):
        raise InvalidArgumentError("direct=True takes no token and no tls yet: go through a router")
    servers = checked(addresses)

    def transport() -> Transport:
        if direct:
            return direct_transport(servers, connect_timeout_s=connect_timeout)
        return ChannelTransport(servers, connect_timeout_s=connect_timeout, token=token, tls=tls)

    return _Connecting(lambda: Cluster(transport(), timeout_s=timeout))


class _Connecting:
    """`async with connect(...) as cluster`; made inside the loop that will use it."""

    def __init__(self, make: Callable[[], Cluster]) -> None:
        self._make = make
        self._cluster: Cluster | None = None

    async def __aenter__(self) -> Cluster:
        self._cluster = self._make()
        return await self._cluster.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._cluster is not None
        await self._cluster.__aexit__(kind, error, trace)


async def outcome(stub: Any, request_id: UUID) -> OutcomeOf:
    """What became of a request: `Committed` (with its result), `Running`, `Unknown` or `Expired`.

    An id belongs to one object, so the stub must be of the object that was called.
    """
    caller = stub_of(stub)._caller
    if not isinstance(caller, Cluster):
        raise InvalidArgumentError("outcome is asked by clients, not by objects")
    return await caller.outcome(stub, request_id)


def new_request_id() -> UUID:
    """A request id for `options(stub, request_id=...)`: a UUID of version 7, made from this clock."""
    now_ms = time.time_ns() // 1_000_000
    return UUID(bytes=make_request_id(now_ms, _random.getrandbits(74)))
