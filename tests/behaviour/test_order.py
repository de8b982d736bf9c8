"""Calls of one stub start in order, and none waits for a call that will never come."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

import roost
from behaviour.conftest import Run
from behaviour.hosting import Inbox, a_call, hosting, play, until
from roost import DurableObject, method
from roost.wire.messages import Skip, Status
from roost_node.host.call import Cancelled
from roost_node.host.host import Host

LONG_MS = 60_000  # nobody waits so long for an earlier call in these tests


class Poll(DurableObject):
    value: int = 0

    async def add(self) -> int:
        self.value += 1
        return self.value

    @method(interleave=True)
    async def wait_for(self, value: int) -> int:
        while self.value < value:
            await asyncio.sleep(0.005)
        return self.value

    @method(read_only=True)
    async def hold(self) -> None:
        await asyncio.sleep(60)

    @method(read_only=True)
    async def get(self) -> int:
        return self.value


class Relay(DurableObject):
    """Calls another object as a client would."""

    @method(interleave=True)
    async def go(self, key: str) -> list[int]:
        poll = self.ctx.object(Poll, key)
        waiting = asyncio.ensure_future(poll.wait_for(3))
        await asyncio.sleep(0)  # it is made first
        first = await poll.add()
        host: Host = self.ctx._port._activation.host  # type: ignore[attr-defined]
        host.reset(host.activations["Poll", key], "a test")
        return [first, await poll.add(), await poll.add(), await waiting]


def test_a_first_call_that_is_refused_for_good_holds_nobody_up(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        poll: Any = cluster.object("Poll", "p")

        async def wrong() -> None:
            try:
                await poll.nothing_of_the_kind()
            except roost.UnknownMethodError:
                return
            raise AssertionError("it was taken")

        async def right() -> int:
            return int(await poll.add())

        async with asyncio.timeout(5):
            assert list(await asyncio.gather(wrong(), right(), right())) == [None, 1, 2]

    run(scenario, Poll, order_wait_ms=LONG_MS)


def test_after_a_reset_calls_do_not_wait_for_finished_ones(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        relay = cluster.object(Relay, "r")
        async with asyncio.timeout(10):
            assert await relay.go("p") == [1, 2, 3, 3]

    run(scenario, Poll, Relay, order_wait_ms=50)


def test_after_a_reset_a_clients_calls_do_not_wait_for_finished_ones() -> None:
    async def scenario() -> None:
        async with roost.local(Poll, order_wait_ms=50) as cluster:
            host: Host = cluster._transport.node.host  # type: ignore[attr-defined]
            poll = cluster.object(Poll, "p")
            waiting = asyncio.ensure_future(poll.wait_for(3))
            await asyncio.sleep(0)  # it is made first
            assert await poll.add() == 1
            host.reset(host.activations["Poll", "p"], "a test")
            assert await poll.add() == 2
            assert await poll.add() == 3
            assert await waiting == 3

    play(scenario())


def test_a_held_call_that_is_skipped_or_imitated_is_answered_and_forgotten() -> None:
    async def scenario() -> None:
        async with hosting(Poll, order_wait_ms=LONG_MS) as host:
            inbox = Inbox()
            held = a_call(host, 1, "Poll", "p", "add", stub_id=5, sequence=2, oldest=1)
            host.submit(held, inbox)
            host.skip(Skip("Poll", "p", 5, 2))
            assert (await inbox.reply(1)).status == Status.UNAVAILABLE

            held = a_call(host, 2, "Poll", "p", "add", stub_id=6, sequence=2, oldest=1)
            host.submit(held, inbox)
            other = a_call(host, 3, "Poll", "p", "add", stub_id=6, sequence=2, oldest=1)
            host.submit(other, inbox)
            assert (await inbox.reply(3)).status == Status.UNAVAILABLE
            first = a_call(host, 4, "Poll", "p", "add", stub_id=6, sequence=1, oldest=1)
            host.submit(first, inbox)
            assert (await inbox.reply(4)).status == 0
            assert (await inbox.reply(2)).status == 0

            held = a_call(host, 5, "Poll", "p", "add", stub_id=7, sequence=2, oldest=1)
            host.submit(held, inbox)
            reused = msgspec.structs.replace(held, id=6, method="wait_for")
            host.submit(reused, inbox)
            assert (await inbox.reply(6)).status == Status.INVALID_ARGUMENT
            await inbox.reply(5)
            await until(lambda: host.admission.open_calls == 0)

    play(scenario())


def test_a_held_call_starts_when_a_later_one_says_that_it_may() -> None:
    async def scenario() -> None:
        async with hosting(Poll, order_wait_ms=LONG_MS) as host:
            inbox = Inbox()
            for number, sequence, oldest in ((1, 2, 1), (2, 4, 2)):
                call = a_call(
                    host, number, "Poll", "p", "add", stub_id=5, sequence=sequence, oldest=oldest
                )
                host.submit(call, inbox)
            assert (await inbox.reply(1)).status == 0

    play(scenario())


def test_a_call_is_ready_from_when_its_turn_has_come() -> None:
    async def scenario() -> None:
        async with hosting(Poll, order_wait_ms=LONG_MS, ready_wait_ms_max=50) as host:
            inbox = Inbox()
            reader = host.submit(a_call(host, 1, "Poll", "p", "hold"), inbox)
            writer = host.submit(a_call(host, 2, "Poll", "p", "add"), inbox)
            assert reader is not None
            assert writer is not None
            host.submit(a_call(host, 3, "Poll", "p", "get"), inbox)  # behind the writer
            held = a_call(host, 4, "Poll", "q", "add", stub_id=5, sequence=2, oldest=1)
            host.submit(held, inbox)
            start_ms = host.now_ms()
            await until(lambda: host.now_ms() > start_ms + 200)
            # Both could run from now on, and have not yet: nobody has waited for the machine.
            host.cancel(writer, inbox, 2, Cancelled.CALLER)
            host.submit(a_call(host, 5, "Poll", "r", "add"), inbox)
            assert (await inbox.reply(5)).status == 0
            assert (await inbox.reply(3)).status == 0
            host.skip(Skip("Poll", "q", 5, 1))
            host.submit(a_call(host, 6, "Poll", "r", "add"), inbox)
            assert (await inbox.reply(6)).status == 0
            assert (await inbox.reply(4)).status == 0
            host.cancel(reader, inbox, 1, Cancelled.CALLER)

    play(scenario())


def test_an_object_may_be_called_through_any_number_of_stubs() -> None:
    async def scenario() -> None:
        async with hosting(Poll, order_wait_ms=LONG_MS) as host:
            inbox = Inbox()
            old = a_call(host, 1, "Poll", "p", "wait_for", 7003, stub_id=1, sequence=1, oldest=1)
            host.submit(old, inbox)
            for number in range(2, 7002):
                call = a_call(
                    host, number, "Poll", "p", "add", stub_id=number, sequence=1, oldest=1
                )
                host.submit(call, inbox)
                if number % 500 == 0:
                    await until(lambda number=number: number in inbox.replies)  # type: ignore[misc]
            await until(lambda: len(inbox.replies) >= 7000)
            assert {reply.status for reply in inbox.replies.values()} == {0}
            assert len(host.activations["Poll", "p"].orders or ()) <= 2048
            for number in (9001, 9002):  # a new one is known too
                call = a_call(
                    host, number, "Poll", "p", "add", stub_id=9, sequence=number - 9000, oldest=1
                )
                host.submit(call, inbox)
            assert (await inbox.reply(9002)).status == 0
            # The stub of the call that is still open is known.
            late = a_call(host, 8000, "Poll", "p", "add", stub_id=1, sequence=2, oldest=1)
            host.submit(late, inbox)
            assert (await inbox.reply(8000)).status == 0
            assert (await inbox.reply(1)).status == 0

    play(scenario())
