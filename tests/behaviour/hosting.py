"""A host on its own, and calls made by hand: for what no well-behaved client would do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from roost.cluster.ids import request_id
from roost.wire.codec import encode_arguments
from roost.wire.messages import Call, Item, Outcome, Reply, ToClient
from roost_node.config import Limits
from roost_node.core.clock import ServerClock
from roost_node.host.call import ActiveCall
from roost_node.host.host import Host
from roost_node.host.loader import specs_of
from roost_node.node import Node
from roost_node.storage.engine import Store
from roost_node.storage.memory import MemoryStore


class Inbox:
    """What one peer was sent (a `Sink`)."""

    def __init__(self) -> None:
        self.messages: list[ToClient] = []

    def send(self, message: ToClient) -> None:
        self.messages.append(message)

    def taken(self, call_id: int, active: ActiveCall) -> None:
        """It does not cancel."""

    def room(self) -> Awaitable[None] | None:
        return None

    @property
    def replies(self) -> dict[int, Reply]:
        return {m.id: m for m in self.messages if isinstance(m, Reply)}

    @property
    def items(self) -> list[Item]:
        return [m for m in self.messages if isinstance(m, Item)]

    @property
    def outcomes(self) -> dict[int, Outcome]:
        return {m.id: m for m in self.messages if isinstance(m, Outcome)}

    async def reply(self, number: int, timeout_s: float = 10.0) -> Reply:
        """The reply to call `number`, as soon as it is there."""
        await until(lambda: number in self.replies, timeout_s)
        return self.replies[number]


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for something that is about to happen. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def hosting(
    *classes: type[Any],
    store: Store | None = None,
    clock: ServerClock | None = None,
    check_effects: bool = False,
    **limits: Any,
) -> AsyncIterator[Host]:
    """A host over a store in memory; whatever kills it fails the test."""

    def fatal(error: BaseException) -> None:
        raise error

    node = Node(
        Path("unused"),
        specs_of(classes),
        fatal,
        limits=Limits(**{"grace_s": 1.0, **limits}),
        check_effects=check_effects,
        clock=clock,
        store=store or MemoryStore(),
    )
    async with node:
        yield node.host


def a_call(
    host: Host, number: int, cls: str, key: str, method: str, *args: Any, **more: Any
) -> Call:
    """One attempt at a call; `more` sets the envelope's fields."""
    now_ms = host.now_ms()
    call = Call(
        number,
        cls,
        key,
        method,
        encode_arguments(args, {}),
        request_id(now_ms, random.getrandbits(74)),
        deadline_ms=now_ms + 20_000,
    )
    for name, value in more.items():
        setattr(call, name, value)
    return call


def play(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario, and fail where it hangs."""
    asyncio.run(asyncio.wait_for(scenario, 40))
