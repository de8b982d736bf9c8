"""Running a streaming method: each `yield` ends a turn, then its item leaves, if there is credit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from roost.wire.messages import Item
from roost_node.host.call import ActiveCall, Output, Stage

if TYPE_CHECKING:
    from roost_node.host.host import Host


async def run_stream(host: Host, active: ActiveCall, generator: AsyncGenerator[Any, None]) -> None:
    """Step the generator; its worker drives this coroutine like any other method's."""
    method = active.method
    assert method is not None
    activation = active.activation
    async with aclosing(generator) as items:
        async for value in items:
            payload = method.encode_result(value, active.call.encoding)
            wrote = host.turns.commit_stretch(active)
            active.started_entry = True  # an item that has left cannot be taken back
            activation.shard.release(
                activation.last_index,
                Output(active.sink, Item(active.call.id, payload)),
                own_entry=wrote,
            )
            active.credit -= 1
            if active.credit <= 0:
                await _credit(host, active)
            elif activation.gate.depth:
                await asyncio.sleep(0)  # a suspension: whoever waits gets in


async def _credit(host: Host, active: ActiveCall) -> None:
    """The object is free while the reader catches up."""
    while active.credit <= 0 and active.stage is Stage.RUNNING:
        active.credit_waiter = host.loop.create_future()
        active.waits_for = "its reader"
        try:
            await active.credit_waiter
        finally:
            active.credit_waiter = None
    active.waits_for = None
