"""Calls whose object is deleted, leaves memory or is reloaded under them: each is answered, once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

import roost
from behaviour.hosting import Inbox, a_call, hosting, play, until
from roost import DurableObject, method
from roost.errors import UnavailableError
from roost.wire.messages import Call, Status
from roost_node.host import life
from roost_node.host.call import Cancelled
from roost_node.host.host import Host
from roost_node.host.loader import specs_of


class Box(DurableObject):
    items: list[int] = []

    async def add(self, item: int) -> list[int]:
        self.items.append(item)
        return self.items

    @method(read_only=True)
    async def get(self) -> list[int]:
        return self.items

    @method(interleave=True)
    async def add_later(self, item: int, seconds: float) -> None:
        self.items.append(item)
        await asyncio.sleep(seconds)
        self.items.append(item)

    @method(interleave=True)
    async def crowd(self, seconds: float) -> int:
        for _ in range(int(seconds / 0.001)):
            await asyncio.sleep(0.001)
        return 1

    async def call_later(self, other: str, seconds: float) -> list[int]:
        await asyncio.sleep(seconds)
        return await self.ctx.object(Box, other).add(7)

    async def count(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def count_late(self, count: int, seconds: float) -> AsyncIterator[int]:
        await asyncio.sleep(seconds)
        for number in range(count):
            yield number


class Slow(Box):
    """Takes its time to leave memory."""

    async def on_deactivate(self, reason: roost.DeactivationReason) -> None:
        await asyncio.sleep(0.1)


class Stubborn(DurableObject):
    value: int = 0

    async def add(self) -> int:
        self.value += 1
        return self.value

    async def on_deactivate(self, reason: roost.DeactivationReason) -> None:
        end = asyncio.get_running_loop().time() + 2.0
        while asyncio.get_running_loop().time() < end:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
        self.value = 1000


def decoded(payload: bytes) -> Any:
    return msgspec.msgpack.decode(payload)


def test_what_was_deleted_is_not_brought_back_by_a_call_that_was_suspended() -> None:
    async def scenario() -> None:
        async with hosting(Box) as host:
            inbox = Inbox()
            host.submit(a_call(host, 1, "Box", "b", "add", 1), inbox)
            await inbox.reply(1)
            host.submit(a_call(host, 2, "Box", "b", "add_later", 2, 0.2), inbox)
            activation = host.activations["Box", "b"]
            await until(lambda: any(c.started_entry for c in activation.calls.values()))
            host.delete("Box", "b", inbox, 3)
            assert (await inbox.reply(3)).payload == b"1"
            assert (await inbox.reply(2)).status == Status.OUTCOME_UNKNOWN
            host.submit(a_call(host, 4, "Box", "b", "add", 5), inbox)
            assert decoded((await inbox.reply(4)).payload) == [5]
            await asyncio.sleep(0.3)  # until the suspended call would have gone on
            host.submit(a_call(host, 5, "Box", "b", "get"), inbox)
            assert decoded((await inbox.reply(5)).payload) == [5]
            assert host.admission.open_calls == 0

    play(scenario())


@pytest.mark.parametrize("is_live", [True, False])
def test_nothing_is_deleted_while_too_few_copies_would_know_of_it(is_live: bool) -> None:
    async def scenario() -> None:
        async with hosting(Box) as host:
            inbox = Inbox()
            host.submit(a_call(host, 1, "Box", "b", "add", 1), inbox)
            await inbox.reply(1)
            activation = host.activations["Box", "b"]
            shard = activation.shard
            if not is_live:
                host.deactivate(activation, "idle")
                assert not host.activations
            shard.write_refusal = UnavailableError("copies in sync: 1, and writes need 2")
            host.delete("Box", "b", inbox, 2)
            assert (await inbox.reply(2)).status == Status.UNAVAILABLE
            host.submit(a_call(host, 3, "Box", "b", "get"), inbox)
            assert decoded((await inbox.reply(3)).payload) == [1]

    play(scenario())


def test_calls_that_interleave_are_answered_when_their_object_is_deleted() -> None:
    async def scenario() -> None:
        async with hosting(Box) as host:
            inbox = Inbox()
            for number in range(1, 40):
                host.submit(a_call(host, number, "Box", "b", "crowd", 0.2), inbox)
            await asyncio.sleep(0.05)
            host.delete("Box", "b", inbox, 100)
            await until(lambda: len(inbox.replies) == 40)
            assert host.admission.open_calls == 0

    play(scenario())


def test_a_gone_instance_cannot_write() -> None:
    async def scenario() -> None:
        async with hosting(Box) as host:
            inbox = Inbox()
            host.submit(a_call(host, 1, "Box", "b", "add", 1), inbox)
            await inbox.reply(1)
            gone = host.activations["Box", "b"]
            instance = gone.instance
            host.deactivate(gone, "idle")
            instance.items.append(2)  # type: ignore[attr-defined]  # by an alias
            with pytest.raises(roost.StaleCallError):
                instance.items = [3]  # type: ignore[attr-defined]
            with pytest.raises(roost.StaleCallError):
                gone.commit(None, None, host.now_ms())

    play(scenario())


def test_a_hook_that_outlives_a_reload_changes_nothing() -> None:
    async def scenario() -> None:
        async with hosting(Stubborn, hook_s=0.05, cancel_s=5.0) as host:
            inbox = Inbox()
            host.submit(a_call(host, 1, "Stubborn", "s", "add"), inbox)
            await inbox.reply(1)
            await life.reload(host, specs_of([Stubborn]))
            host.submit(a_call(host, 2, "Stubborn", "s", "add"), inbox)
            assert decoded((await inbox.reply(2)).payload) == 2
            await asyncio.sleep(1.2)  # until the old instance's hook ends
            host.submit(a_call(host, 3, "Stubborn", "s", "add"), inbox)
            assert decoded((await inbox.reply(3)).payload) == 3

    play(scenario())


def test_a_call_that_was_taken_back_before_it_ran_runs_when_it_is_sent_again() -> None:
    async def scenario() -> None:
        async with hosting(Box) as host:
            inbox = Inbox()
            for number, why in ((1, Cancelled.SHUTDOWN), (3, Cancelled.CALLER)):
                call = a_call(host, number, "Box", f"b{number}", "add", 1)
                active = host.submit(call, inbox)
                assert active is not None
                host.waits.stop(active, why)
                assert (await inbox.reply(number)).status == Status.UNAVAILABLE
                host.submit(msgspec.structs.replace(call, id=number + 1), inbox)
                assert decoded((await inbox.reply(number + 1)).payload) == [1]

    play(scenario())


def test_every_attempt_at_a_call_is_answered_when_it_goes_to_the_next_activation() -> None:
    async def scenario() -> None:
        async with hosting(Slow) as host:
            inbox, other = Inbox(), Inbox()
            host.submit(a_call(host, 1, "Slow", "s", "add", 1), inbox)
            await inbox.reply(1)
            for wait_ms_max, status in ((None, 0), (0, Status.OVERLOADED)):
                call = a_call(host, 2, "Slow", "s", "add", 2)
                activation = host.activations["Slow", "s"]
                host.deactivate(activation, "idle")
                host.submit(msgspec.structs.replace(call, id=20 + status), inbox)
                host.submit(msgspec.structs.replace(call, id=30 + status), other)
                if wait_ms_max is not None:
                    host.admission.open_max = 0
                assert (await inbox.reply(20 + status)).status == status
                assert (await other.reply(30 + status)).status == status

    play(scenario())


async def read(cluster: roost.Cluster, cls: Any, count: int) -> int:
    found = 0
    async with asyncio.timeout(10):
        async for number in cluster.object(cls, "s").count(count):
            assert number == found
            found += 1
    return found


def test_a_stream_that_waited_for_the_next_activation_gets_its_credit() -> None:
    async def scenario() -> None:
        async with roost.local(Slow) as cluster:
            host: Host = cluster._transport.node.host  # type: ignore[attr-defined]
            await cluster.object(Slow, "s").add(1)
            host.deactivate(host.activations["Slow", "s"], "idle")
            assert await read(cluster, Slow, 500) == 500

    play(scenario())


def test_a_stream_that_waited_for_a_reload_gets_its_credit() -> None:
    async def scenario() -> None:
        async with roost.local(Slow) as cluster:
            node: Any = cluster._transport.node  # type: ignore[attr-defined]
            await cluster.object(Slow, "s").add(1)
            reloading = asyncio.ensure_future(node.reload(specs_of([Slow])))
            await asyncio.sleep(0.02)
            assert await read(cluster, Slow, 500) == 500
            await reloading

    play(scenario())


def test_a_stream_that_has_run_is_not_answered_with_nothing() -> None:
    async def scenario() -> None:
        async with hosting(Box) as host:
            inbox = Inbox()
            call = a_call(host, 1, "Box", "b", "count", 3, credit=10)
            host.submit(msgspec.structs.replace(call), inbox)
            assert (await inbox.reply(1)).status == 0
            assert len(inbox.items) == 3
            host.submit(msgspec.structs.replace(call, id=2), inbox)
            assert (await inbox.reply(2)).status == Status.OUTCOME_UNKNOWN
            assert len(inbox.items) == 3

    play(scenario())


def test_a_stream_that_is_sent_again_before_anything_has_left_runs_again() -> None:
    async def scenario() -> None:
        async with hosting(Box) as host:
            first, second = Inbox(), Inbox()
            call = a_call(host, 1, "Box", "b", "count_late", 3, 0.2, credit=10)

            def attempt(number: int) -> Call:
                return msgspec.structs.replace(call, id=number)

            host.submit(attempt(1), first)
            await asyncio.sleep(0.02)
            for number in range(2, 200):  # as a client does
                host.submit(attempt(number), second)
                if (await second.reply(number)).status != Status.UNAVAILABLE:
                    break
                await asyncio.sleep(0.005)
            assert second.replies[number].status == 0
            assert [decoded(item.payload) for item in second.items] == [0, 1, 2]
            assert not first.items

    play(scenario())


def test_running_calls_may_still_call_others_while_a_node_drains_or_reloads() -> None:
    async def scenario() -> None:
        for end in (life.drain, lambda host: life.reload(host, specs_of([Box]))):
            async with hosting(Box, grace_s=5.0) as host:
                inbox = Inbox()
                host.submit(a_call(host, 1, "Box", "a", "call_later", "b", 0.1), inbox)
                await asyncio.sleep(0.02)
                started = host.loop.time()
                await end(host)
                assert (await inbox.reply(1)).status == 0
                assert host.loop.time() - started < 4.0

    play(scenario())
