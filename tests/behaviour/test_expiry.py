"""Requests that have grown old: refused, never run again, whatever happened meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import msgspec

from behaviour.hosting import Inbox, a_call, hosting, play, until
from roost import DurableObject, method
from roost.wire.messages import RUNNING, Call, Query, Status
from roost.wire.status import to_error
from roost_node.core.clock import ServerClock
from roost_node.storage.memory import MemoryStore

MINUTE_NS = 60 * 10**9


class Count(DurableObject):
    told: ClassVar[asyncio.Event]
    count: int = 0

    async def add(self) -> int:
        self.count += 1
        return self.count

    async def add_when_told(self) -> int:
        await Count.told.wait()
        return await self.add()

    @method(read_only=True)
    async def get(self) -> int:
        return self.count


class Clock:
    """A wall clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def server(self) -> ServerClock:
        return ServerClock(lambda: time.time_ns() + self.ahead_ns, time.monotonic_ns)


def test_a_request_whose_record_was_dropped_is_refused_also_after_a_restart() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        clock = Clock()
        call: Call

        def again(**more: Any) -> Call:
            return msgspec.structs.replace(call, **more)

        async with hosting(Count, store=store, clock=clock.server()) as host:
            inbox = Inbox()
            call = a_call(host, 1, "Count", "c", "add")
            call.deadline_ms += 3_600_000
            host.submit(again(), inbox)
            assert (await inbox.reply(1)).status == 0
            clock.ahead_ns = 12 * MINUTE_NS
            shard = host.shard_of("Count", "c", host.now_ms())
            minute = host.now_ms() // 60_000
            await until(lambda: shard.swept_minute >= minute - 11)
            host.submit(again(id=2), inbox)
            refused = await inbox.reply(2)
            assert refused.status == Status.EXPIRED_REQUEST
            assert to_error(refused.status, refused.error).took_effect == "maybe", "it did"
        async with hosting(Count, store=store, clock=clock.server()) as host:
            inbox = Inbox()
            host.submit(again(id=3), inbox)
            assert (await inbox.reply(3)).status == Status.EXPIRED_REQUEST
            host.submit(a_call(host, 4, "Count", "c", "get"), inbox)
            assert msgspec.msgpack.decode((await inbox.reply(4)).payload) == 1

    play(scenario())


def test_an_outage_longer_than_the_window_loses_no_record() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        clock = Clock()
        async with hosting(Count, store=store, clock=clock.server()) as host:
            inbox = Inbox()
            call = a_call(host, 1, "Count", "c", "add")
            call.deadline_ms += 3_600_000
            host.submit(msgspec.structs.replace(call), inbox)
            first = await inbox.reply(1)
        clock.ahead_ns = 30 * MINUTE_NS
        async with hosting(Count, store=store, clock=clock.server()) as host:
            inbox = Inbox()
            host.submit(msgspec.structs.replace(call, id=2), inbox)
            assert (await inbox.reply(2)).payload == first.payload

    play(scenario())


def test_a_call_that_runs_for_longer_than_the_window_is_joined_by_its_later_attempts() -> None:
    async def scenario() -> None:
        Count.told = asyncio.Event()
        clock = Clock()
        async with hosting(Count, clock=clock.server()) as host:
            inbox = Inbox()
            call = a_call(host, 1, "Count", "c", "add_when_told")
            call.deadline_ms += 3_600_000
            host.submit(msgspec.structs.replace(call), inbox)
            clock.ahead_ns = 12 * MINUTE_NS
            host.query(Query(2, "Count", "c", call.request_id), inbox)  # and its link breaks
            await until(lambda: 2 in inbox.outcomes)
            assert inbox.outcomes[2].state == RUNNING
            host.submit(msgspec.structs.replace(call, id=3), inbox)
            Count.told.set()
            assert msgspec.msgpack.decode((await inbox.reply(3)).payload) == 1

    play(scenario())
