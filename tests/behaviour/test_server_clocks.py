"""Servers whose clocks differ, one after the other."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

import roost
from behaviour.hosting import play, until
from roost import DurableObject
from roost.adapters.transport import Opened, Receiver
from roost.client import Cluster
from roost.errors import DeadlineExceededError, OverloadedError
from roost.wire.messages import Call, Reply, ToServer
from roost.wire.status import to_status

NOW_MS = 1_700_000_000_000
DIFFERENCE_MS = 50_000


class Cell(DurableObject):
    async def put(self) -> int:
        raise AssertionError("it is played by hand")


class Servers:
    """A transport to servers of which each next one has another clock, and which answer nothing by themselves."""

    def __init__(self, *ahead_ms: int) -> None:
        self._ahead_ms = list(ahead_ms)
        self.calls: list[Call] = []
        self.receiver: Receiver

    async def open(self, receiver: Receiver) -> Opened:
        self.receiver = receiver
        own_ms = int(asyncio.get_running_loop().time() * 1000)
        return Opened(own_ms + self._ahead_ms.pop(0), "c")

    def send(self, messages: list[ToServer]) -> None:
        self.calls += [replace(message) for message in messages if isinstance(message, Call)]

    async def close(self) -> None: ...


@pytest.mark.parametrize("difference_ms", [-DIFFERENCE_MS, DIFFERENCE_MS])
def test_a_call_has_the_time_that_it_was_given_whatever_the_next_servers_clock_says(
    difference_ms: int,
) -> None:
    async def scenario() -> None:
        servers = Servers(NOW_MS, NOW_MS + difference_ms)
        async with Cluster(servers) as cluster:  # type: ignore[arg-type]  # all that calls need of one
            loop = asyncio.get_running_loop()
            calling = asyncio.create_task(roost.options(cluster.object(Cell, "c"), timeout=2).put())
            await until(lambda: len(servers.calls) == 1)
            began_s, first_ms = loop.time(), servers.calls[0].deadline_ms
            servers.receiver.on_lost("it was killed")
            await until(lambda: len(servers.calls) == 2)
            assert servers.calls[1].deadline_ms == first_ms + difference_ms, "it is in its time"
            full = OverloadedError("it is full")
            status, info = to_status(full)
            refusal = Reply(servers.calls[1].id, int(status), b"", 0, info)
            servers.receiver.on_messages([refusal])
            await until(lambda: len(servers.calls) == 3)  # after milliseconds, not a minute
            with pytest.raises(DeadlineExceededError):
                await calling
            assert 1 < loop.time() - began_s < 20

    play(scenario())
