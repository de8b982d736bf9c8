"""Streams that could fill memory or hold everybody up, and sessions that are full."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

import roost
from behaviour.conftest import routing, serving
from behaviour.hosting import Inbox, a_call, hosting, play, until
from behaviour.test_committed import SlowDisk
from roost import DurableObject, method
from roost_node.host.call import Cancelled

ENDLESS = 2**31  # items that a reader says it has room for


class Source(DurableObject):
    given: int = 0
    _item: bytes = b""

    async def endless(self) -> AsyncIterator[int]:
        while True:
            yield self.given

    async def endless_writes(self) -> AsyncIterator[int]:
        while True:
            self.given += 1
            yield self.given

    async def endless_bytes(self) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    async def numbers(self, end: int) -> AsyncIterator[int]:
        for number in range(end):
            yield number

    @method(interleave=True)
    async def poll(self) -> None:
        await asyncio.sleep(60)

    async def ping(self) -> str:
        return "pong"


class Narrow(Inbox):
    """A peer that takes nothing until the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_max = 1_000_000
        self.waiting: list[asyncio.Future[None]] = []

    def room(self) -> Awaitable[None] | None:
        if sum(len(item.payload) for item in self.items) < self.bytes_max:
            return None
        self.waiting.append(asyncio.get_running_loop().create_future())
        return self.waiting[-1]


def test_a_generator_that_never_suspends_holds_nobody_up() -> None:
    async def scenario() -> None:
        async with hosting(Source) as host:
            inbox = Inbox()
            call = a_call(host, 1, "Source", "a", "endless", credit=ENDLESS)
            stream = host.submit(call, inbox)
            assert stream is not None
            for number in range(2, 12):
                host.submit(a_call(host, number, "Source", "ab"[number % 2], "ping"), inbox)
                assert (await inbox.reply(number)).status == 0
            seen = len(inbox.items)
            await until(lambda: len(inbox.items) > seen)  # and it goes on itself
            host.cancel(stream, inbox, 1, Cancelled.CALLER)
            await inbox.reply(1)

    play(scenario())


def test_a_stream_waits_for_its_reader_whatever_room_it_was_promised() -> None:
    async def scenario() -> None:
        async with hosting(Source) as host:
            inbox = Narrow()
            call = a_call(host, 1, "Source", "a", "endless_bytes", credit=ENDLESS)
            stream = host.submit(call, inbox)
            assert stream is not None
            await until(lambda: bool(inbox.waiting))
            assert len(inbox.items) <= 13  # 1 MB, and what was yielded before it looked
            assert stream.waits_for == "its reader"
            inbox.bytes_max = 2_000_000
            inbox.waiting.pop().set_result(None)
            await until(lambda: bool(inbox.waiting))
            assert 20 <= len(inbox.items) <= 23
            host.cancel(stream, inbox, 1, Cancelled.CALLER)
            await inbox.reply(1)

    play(scenario())


def test_a_stream_that_writes_waits_for_the_disk() -> None:
    async def scenario() -> None:
        store = SlowDisk()
        async with hosting(Source, store=store) as host:
            inbox = Inbox()
            call = a_call(host, 1, "Source", "a", "endless_writes", credit=ENDLESS)
            stream = host.submit(call, inbox)
            assert stream is not None
            await until(lambda: stream.waits_for == "the disk")
            for number in range(2, 102):  # others have had many turns of the loop meanwhile
                host.submit(a_call(host, number, "Source", "b", "ping"), inbox)
                await asyncio.sleep(0)
            assert stream.waits_for == "the disk"
            assert host.committer.pending_count < 200
            store.may_flush.set()
            await until(lambda: len(inbox.items) > 500)
            host.cancel(stream, inbox, 1, Cancelled.CALLER)
            await inbox.reply(1)

    play(scenario())


@contextlib.asynccontextmanager
async def narrow(path: Path, where: str) -> AsyncIterator[roost.Cluster]:
    """A client of a node or router that takes four unfinished calls of a session."""
    async with contextlib.AsyncExitStack() as stack:
        settings = {"session_calls_max": 4} if where != "router" else {}
        server = await stack.enter_async_context(serving(path, Source, grace_s=0.1, **settings))
        port = server.port
        if where != "node":
            settings = {"session_calls_max": 4} if where == "router" else {}
            router = await stack.enter_async_context(routing(f"127.0.0.1:{port}", **settings))
            port = router.port
        yield await stack.enter_async_context(roost.connect(f"127.0.0.1:{port}", timeout=60.0))


everywhere = pytest.mark.parametrize("where", ["node", "router", "node behind a router"])


@everywhere
def test_the_streams_that_fill_a_session_get_their_credit(tmp_path: Path, where: str) -> None:
    async def read(cluster: roost.Cluster, key: str) -> int:
        return len([n async for n in cluster.object(Source, key).numbers(500)])

    async def scenario() -> None:
        async with narrow(tmp_path, where) as cluster:
            reads = [read(cluster, f"{number}") for number in range(9)]
            assert await asyncio.wait_for(asyncio.gather(*reads), 30) == [500] * 9

    play(scenario())


@everywhere
def test_calls_that_fill_a_session_can_be_taken_back(tmp_path: Path, where: str) -> None:
    async def scenario() -> None:
        async with narrow(tmp_path, where) as cluster:
            polls = [
                asyncio.ensure_future(cluster.object(Source, f"{number}").poll())
                for number in range(4)
            ]
            while (await cluster.status()).calls_running < 4:
                await asyncio.sleep(0.005)
            more = roost.options(cluster.object(Source, "more"), timeout=2.0)
            with pytest.raises(roost.OverloadedError, match="4 unfinished calls") as caught:
                await more.ping()
            assert (caught.value.took_effect, caught.value.retry_after_s > 0) == ("no", True)
            for poll in polls:
                poll.cancel()
            assert await cluster.object(Source, "more").ping() == "pong"

    play(scenario())


@everywhere
def test_more_calls_than_a_session_takes_all_end(tmp_path: Path, where: str) -> None:
    async def scenario() -> None:
        async with narrow(tmp_path, where) as cluster:
            source = cluster.object(Source, "a")
            calls = [source.ping() for _ in range(300)]
            assert await asyncio.gather(*calls) == ["pong"] * 300

    play(scenario())
