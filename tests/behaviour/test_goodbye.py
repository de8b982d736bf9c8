"""A server that drains takes no new calls; what is open there goes on as before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from behaviour.hosting import play, until
from roost import DurableObject
from roost.adapters.transport import Opened, Receiver
from roost.client import Cluster
from roost.options import STREAM_CREDIT
from roost.wire.messages import Call, Cancel, Credit, Item, ToServer


class Feed(DurableObject):
    async def read(self) -> AsyncIterator[int]:
        raise AssertionError("it is played by hand")
        yield 0

    async def wait(self) -> int:
        raise AssertionError("likewise")


class Draining:
    """A transport to a server that says that it drains, when it is told to."""

    def __init__(self) -> None:
        self.sent: list[ToServer] = []
        self.receiver: Receiver

    async def open(self, receiver: Receiver) -> Opened:
        self.receiver = receiver
        return Opened(1_700_000_000_000, "c")

    def send(self, messages: list[ToServer]) -> None:
        self.sent += messages

    async def close(self) -> None: ...

    async def took(self, kind: type[ToServer]) -> int:
        """The id of the first such message."""
        await until(lambda: any(isinstance(message, kind) for message in self.sent))
        found = next(message for message in self.sent if isinstance(message, kind))
        assert isinstance(found, Call | Cancel | Credit)
        return found.id


def test_a_stream_goes_on_at_a_server_that_drains() -> None:
    async def scenario() -> None:
        server = Draining()
        async with Cluster(server) as cluster:  # type: ignore[arg-type]  # all that calls need of one
            items = aiter(cluster.object(Feed, "f").read())
            first = asyncio.ensure_future(anext(items))
            number = await server.took(Call)
            server.receiver.on_going_away()
            waiting = asyncio.ensure_future(cluster.object(Feed, "f").wait())
            await asyncio.sleep(0)
            one = msgspec.msgpack.encode(1)
            server.receiver.on_messages([Item(number, one) for _ in range(STREAM_CREDIT)])
            assert await first == 1
            for _ in range(STREAM_CREDIT // 2):
                assert await anext(items) == 1
            assert await server.took(Credit) == number
            waiting.cancel()
            assert sum(isinstance(message, Call) for message in server.sent) == 1, "no new ones"

    play(scenario())


def test_a_call_is_taken_back_from_a_server_that_drains() -> None:
    async def scenario() -> None:
        server = Draining()
        async with Cluster(server) as cluster:  # type: ignore[arg-type]  # likewise
            calling = asyncio.ensure_future(cluster.object(Feed, "f").wait())
            number = await server.took(Call)
            server.receiver.on_going_away()
            calling.cancel()
            assert await server.took(Cancel) == number, (
                "or it is waited for until its grace is over"
            )

    play(scenario())
