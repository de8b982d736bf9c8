"""What the programs use of `grpc.aio`, over the simulated network.

The shells (links, streams between nodes, servers, the client's channel) are the real ones, unchanged:
`plugged_in` gives them these channels and servers instead of gRPC's, for the time of a run. Semantics
are those of grpc.aio as far as the programs depend on them: a call that is cancelled or broken cancels
its handler; reading after a bad end raises; a channel becomes ready or fails.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import grpc.aio

from simulator.machines import Process, current
from simulator.network import Connection, Network
from simulator.wire_calls import OK, ClientCall, ServerContext, Status, error_of

State = grpc.ChannelConnectivity
CONNECT_AGAIN_S = 0.1
PATIENCE_DEFAULT_S = 30.0


class Server:
    """`grpc.aio.Server`."""

    def __init__(self, network: Network) -> None:
        process = current()
        assert process is not None, "servers run in processes"
        self.process = process
        self._network = network
        self._handlers: list[Any] = []
        self._addresses: list[str] = []
        self._running: dict[asyncio.Task[None], ServerContext] = {}
        self._stopped = False
        self.on_error: Callable[[Process, BaseException], None] = lambda *_: None

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """The generic ones do."""

    def add_insecure_port(self, address: str) -> int:
        self._addresses.append(address)
        return int(address.rpartition(":")[2])

    async def start(self) -> None:
        for address in self._addresses:
            self._network.listeners[address] = self

    def accept(self, method: str, context: ServerContext) -> None:
        """Runs in the server's process."""
        details = _Details(method, ())
        handler = next((h for g in self._handlers if (h := g.service(details))), None)
        if handler is None or self._stopped:
            context.end(Status(grpc.StatusCode.UNIMPLEMENTED, method))
            return
        context.begin(handler)
        task = self.process.start(self._serve(handler, context))
        self._running[task] = context
        task.add_done_callback(self._running.pop)
        context.on_hung_up(task.cancel)

    async def _serve(self, handler: Any, context: ServerContext) -> None:
        status = OK
        try:
            await _run(handler, context)
        except grpc.aio.AbortError:
            return  # it has said why
        except asyncio.CancelledError:
            status = Status(grpc.StatusCode.CANCELLED, "the server hung up")
        except Exception as error:
            if context._pipes[0].ended is None:
                self.on_error(self.process, error)
            status = Status(grpc.StatusCode.UNKNOWN, f"Unexpected {error!r}")
        context.end(status)

    async def stop(self, grace: float | None) -> None:
        self._stopped = True
        for address in self._addresses:
            if self._network.listeners.get(address) is self:
                del self._network.listeners[address]
        if self._running and grace:
            await asyncio.wait(list(self._running), timeout=grace)
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


class _Details(NamedTuple):
    method: str
    invocation_metadata: Any


async def _run(handler: Any, context: ServerContext) -> None:
    if handler.request_streaming:
        await handler.stream_stream(None, context)
        return
    request = await context.read()
    if handler.response_streaming:
        async with contextlib.aclosing(handler.unary_stream(request, context)) as answers:
            async for answer in answers:
                await context.write(answer)
    else:
        await context.write(await handler.unary_unary(request, context))


class Channel:
    """`grpc.aio.Channel`."""

    def __init__(self, network: Network, address: str, options: Any) -> None:
        process = current()
        assert process is not None, "channels belong to processes"
        known = dict(options or ())
        self.network = network
        self.process = process
        self.address = address
        self.connection: Connection | None = None
        self.server: Server
        self._patience_s = (
            known.get("grpc.keepalive_time_ms", 20_000)
            + known.get("grpc.keepalive_timeout_ms", 10_000)
        ) / 1000
        self._state = State.IDLE
        self._connecting: asyncio.Task[None] | None = None
        self._changed: list[asyncio.Future[None]] = []
        self._calls: list[ClientCall] = []
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> State:
        if self._state is State.READY and self.connection and not self.connection.is_open:
            self._state = State.IDLE
        if try_to_connect and self._state is State.IDLE:
            self._state = State.CONNECTING
            self._connecting = self._loop.create_task(self._connect())
        return self._state

    async def wait_for_state_change(self, last: State) -> None:
        while self._state is last:
            changed = self._loop.create_future()
            self._changed.append(changed)
            await changed

    async def _connect(self) -> None:
        """Three ways: nobody is there (refused), nothing comes back (it waits), or it is open."""
        network = self.network
        while True:
            await asyncio.sleep(network.latency_s() + network.latency_s())
            server = network.listeners.get(self.address)
            host = self.address.partition(":")[0]
            cut = network.is_cut(self.process.name, host) or network.is_cut(host, self.process.name)
            if not cut:
                if server is None or server.process.is_dead:
                    self._become(State.TRANSIENT_FAILURE)
                    return
                if not server.process.is_frozen:
                    break
            await asyncio.sleep(CONNECT_AGAIN_S)
        self.server = server
        self.connection = Connection(network, self.process, server.process, self._patience_s)
        self._become(State.READY)

    def _become(self, state: State) -> None:
        self._state = state
        changed, self._changed = self._changed, []
        for future in changed:
            if not future.done():
                future.set_result(None)

    async def close(self, grace: float | None = None) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        self._become(State.SHUTDOWN)
        for call in self._calls:
            call.cancel()
        if self.connection is not None and self.connection.is_open:
            self.connection.break_("channel closed")

    async def _ready(self) -> None:
        """As a call waits that was made on a channel that is idle."""
        while (state := self.get_state(try_to_connect=True)) is State.CONNECTING:
            await self.wait_for_state_change(state)

    def _call(self, method: str, read: Any, write: Any, metadata: Any = None) -> ClientCall:
        if self.get_state() is not State.READY:
            raise error_of(Status(grpc.StatusCode.UNAVAILABLE, "not connected"))
        call = ClientCall(self, method, read, write, metadata)
        self._calls.append(call)
        return call

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        **_: Any,
    ) -> Callable[..., ClientCall]:
        return lambda metadata=None: self._call(
            method, response_deserializer, request_serializer, metadata
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        **_: Any,
    ) -> Callable[..., Any]:
        async def call(request: Any) -> Any:
            call = self._call(method, response_deserializer, request_serializer)
            try:
                await call.write(request)
                while (answer := await call.read()) is not grpc.aio.EOF:
                    yield answer
            finally:
                call.cancel()

        return call

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        **_: Any,
    ) -> Callable[..., Any]:
        async def call(request: Any, timeout: float | None = None, metadata: Any = None) -> Any:  # noqa: ASYNC109
            try:
                async with asyncio.timeout(timeout):
                    await self._ready()
                    call = self._call(method, response_deserializer, request_serializer)
                    await call.write(request)
                    return await call.read()
            except TimeoutError:
                raise error_of(Status(grpc.StatusCode.DEADLINE_EXCEEDED, "too late")) from None

        return call


@contextlib.contextmanager
def plugged_in(
    network: Network, on_error: Callable[[Process, BaseException], None]
) -> Iterator[None]:
    """Channels and servers that are made meanwhile are ours."""

    def channel(address: str, options: Any = None) -> Channel:
        return Channel(network, address, options)

    def server(**_: Any) -> Server:
        made = Server(network)
        made.on_error = on_error
        return made

    before = grpc.aio.insecure_channel, grpc.aio.server
    grpc.aio.insecure_channel = channel  # type: ignore[assignment]
    grpc.aio.server = server  # type: ignore[assignment]
    try:
        yield
    finally:
        grpc.aio.insecure_channel, grpc.aio.server = before
