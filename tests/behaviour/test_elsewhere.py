"""Calls to objects of other nodes, from the parent's side: the other node is played by hand."""

from __future__ import annotations

import msgspec
import pytest

import roost
from behaviour.hosting import Inbox, a_call, hosting, play
from roost import DurableObject
from roost.cluster.ids import shard_of
from roost.errors import (
    DeadlineExceededError,
    NotOwnerError,
    OutcomeUnknownError,
    OverloadedError,
    RoostError,
    UnavailableError,
)
from roost.wire.messages import Call, Reply, Skip
from roost.wire.status import to_status
from roost_node.host.call import Sink
from roost_node.host.host import Host
from roost_node.host.ownership import Alone
from roost_node.host.shard import Shard


class Parent(DurableObject):
    async def ask(self) -> int:
        return await self.ctx.object(Child, "child").add()

    async def ask_in_a_hurry(self) -> str:
        try:
            await roost.options(self.ctx.object(Child, "child"), timeout=0.2).add()
        except RoostError as error:
            return error.took_effect
        raise AssertionError("nobody answers it")


class Child(DurableObject):
    async def add(self) -> int:
        raise AssertionError("it lives on another node")


class OwnsAllBut(Alone):
    """The child's shard is another's."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        store = host.store
        self._not = shard_of("Child", "child", seed=store.seed, shards=store.shards)
        assert self._not != shard_of("Parent", "parent", seed=store.seed, shards=store.shards)

    def open(self, shard_id: int, now_ms: int) -> Shard:
        if shard_id == self._not:
            raise NotOwnerError("ask for the map")
        return super().open(shard_id, now_ms)


class Owners:
    """The first one is deposed before it can confirm the call; the next one has its record."""

    def __init__(self) -> None:
        self.asked: list[Call] = []

    async def send(self, call: Call, sink: Sink) -> int:
        self.asked.append(call)
        if len(self.asked) == 1:
            status, info = to_status(OutcomeUnknownError("the shard changed its owner"))
            sink.send(Reply(call.id, int(status), b"", 0, info))
        else:
            sink.send(Reply(call.id, 0, msgspec.msgpack.encode(7), 0, None))
        return len(self.asked)

    def cancel(self, number: int) -> None: ...
    def add_credit(self, number: int, items: int) -> None: ...
    def skip(self, skip: Skip) -> None: ...


def test_a_child_call_whose_owner_is_deposed_is_asked_again() -> None:
    async def scenario() -> None:
        async with hosting(Parent, Child) as host:
            host.ownership = OwnsAllBut(host)
            host.children.elsewhere = owners = Owners()
            inbox = Inbox()
            host.submit(a_call(host, 1, "Parent", "parent", "ask"), inbox)
            reply = await inbox.reply(1)
            assert reply.status == 0, reply.error
            assert msgspec.msgpack.decode(reply.payload) == 7
            first, second = owners.asked
            assert first.request_id == second.request_id

    play(scenario())


class Refusing(Owners):
    """After the first one was deposed, those that come next take nothing."""

    def __init__(self, refusals: list[RoostError]) -> None:
        super().__init__()
        self._refusals = refusals

    async def send(self, call: Call, sink: Sink) -> int:
        if not self.asked:
            return await super().send(call, sink)
        self.asked.append(call)
        error = self._refusals.pop(0) if len(self._refusals) > 1 else self._refusals[0]
        status, info = to_status(error)
        sink.send(Reply(call.id, int(status), b"", 0, info))
        return len(self.asked)


LATE = DeadlineExceededError("it arrived after its deadline", took_effect="no")


@pytest.mark.parametrize(
    "refusals",
    [
        [UnavailableError("it shuts down")],
        [OverloadedError("it is full")],
        [UnavailableError("it shuts down"), LATE],
    ],
)
def test_a_refusal_says_nothing_of_an_attempt_that_may_have_taken_effect(
    refusals: list[RoostError],
) -> None:
    async def scenario() -> None:
        async with hosting(Parent, Child) as host:
            host.ownership = OwnsAllBut(host)
            host.children.elsewhere = Refusing(refusals)
            inbox = Inbox()
            host.submit(a_call(host, 1, "Parent", "parent", "ask_in_a_hurry"), inbox)
            reply = await inbox.reply(1)
            assert msgspec.msgpack.decode(reply.payload) == "maybe"

    play(scenario())
