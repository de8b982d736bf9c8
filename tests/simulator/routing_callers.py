"""Callers: the real session of calls, over simulated links to routers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from roost.errors import RoostError
from roost.stub import Order
from roost.wire.messages import (
    Call,
    Cancel,
    Item,
    Outcome,
    Reply,
    Skip,
    ToServer,
)
from roost.wire.session import CallSession, Waiting
from roost.wire.status import to_error
from roost_router.core.calls import Client, Forwarded, Kind
from simulator.routing_links import DEADLINE_MS, TICK_MS, Pipe
from simulator.routing_nodes import place

if TYPE_CHECKING:
    from simulator.routing import World
    from simulator.routing_routers import Router


class Asked(Waiting):
    """A call, and how it ended."""

    def __init__(self, call: Call, order: Order, on_end: Callable[[Asked], None]) -> None:
        super().__init__(call, order)
        self._on_end = on_end
        self.result = 0
        self.error: RoostError | None = None

    def end(self, reply: Reply | Outcome) -> None:
        assert isinstance(reply, Reply)
        if reply.status:
            self.error = to_error(reply.status, reply.error)
        else:
            self.result = int(reply.payload)
        self._on_end(self)

    def fail(self, error: RoostError) -> None:
        self.error = error
        self._on_end(self)

    def item(self, item: Item) -> None:
        raise AssertionError("no stream here")


class ClientEnd:
    """A router's end of a client's session."""

    def __init__(self, router: Router, caller: Caller) -> None:
        self.router = router
        self.client = Client(lambda: router._world.time.after(0.1, lambda: self._flush(caller)))
        self.pipe: Pipe

    def _flush(self, caller: Caller) -> None:
        messages = self.client.take()
        self.client.unread_bytes = 0
        if messages and not self.client.is_gone:

            def deliver() -> None:
                answers = []
                for _, number, body, _ in messages:
                    reply = msgspec.msgpack.decode(body, type=Reply)
                    reply.id = number
                    answers.append(reply)
                caller.session.on_messages(list(answers), int(self.router._world.time.now_ms))

            self.pipe.send(1, deliver)

    def take(self, message: ToServer) -> None:
        core = self.router.core
        if isinstance(message, Cancel):
            core.on_cancel(self.client, message.id)
        elif isinstance(message, Skip):
            body = msgspec.msgpack.encode(message)
            shard = place(message.key)
            core.on_skip(self.client, shard, message.stub_id, message.sequence, body)
        elif isinstance(message, Call):
            core.on_call(
                Forwarded(
                    self.client, Kind.CALL, message.id, msgspec.msgpack.encode(message),
                    place(message.key), message.deadline_ms, message.stub_id, message.sequence,
                    message.oldest,
                )
            )  # fmt: skip


class Caller:
    """A client with some stubs, each with some calls open at once; it uses one router at a time."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self.session = CallSession(world.rng.random, self._flush_soon)
        self._end: ClientEnd | None = None
        self._at = number
        self.ended: list[Asked] = []
        self.open_count = 0
        self._connect()
        self._tick()

    def _tick(self) -> None:
        self.session.on_tick(int(self._world.time.now_ms))
        self._world.time.after(TICK_MS, self._tick)

    def _connect(self) -> None:
        world = self._world
        router = world.routers[self._at % len(world.routers)]
        self._at += 1
        if not router.is_up:
            world.time.after(20, self._connect)
            return
        end = ClientEnd(router, self)

        def lost_here() -> None:
            self._end = None
            self.session.on_lost()
            self._connect()

        def lost_there() -> None:
            if router.is_up and end in router.sessions:
                router.core.on_client_gone(end.client)
                router.sessions.remove(end)

        end.pipe = Pipe(world, [lost_here, lost_there])
        router.sessions.append(end)
        self._end = end
        self._flush_soon()

    def _flush_soon(self) -> None:
        self._world.time.after(0.1, self._flush)

    def _flush(self) -> None:
        if self._end is not None and self.session.outgoing:
            messages, self.session.outgoing = self.session.outgoing, []
            end = self._end
            raw = msgspec.msgpack.encode(messages)
            kinds = [type(message) for message in messages]

            def deliver() -> None:
                for kind, one in zip(
                    kinds, msgspec.msgpack.decode(raw, type=list[msgspec.Raw]), strict=True
                ):
                    end.take(msgspec.msgpack.decode(one, type=kind))

            end.pipe.send(0, deliver)

    def call(self, key: str, order: Order, on_end: Callable[[Asked], None]) -> None:
        world = self._world
        self.open_count += 1

        def ended(asked: Asked) -> None:
            self.open_count -= 1
            self.ended.append(asked)
            on_end(asked)

        call = Call(
            0, "Cell", key, "add", b"", world.rng.randbytes(16), 0,
            int(world.time.now_ms) + DEADLINE_MS, order.stub_id, order.begin(),
        )  # fmt: skip
        self.session.start(Asked(call, order, ended))
