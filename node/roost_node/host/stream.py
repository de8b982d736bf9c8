"""Running a streaming method: each `yield` ends a turn, then its item leaves, if there is credit.

Credit is what the reader says it has room for, and a reader may say anything. So a generator that never
awaits gives way by itself now and then, and what it has yielded is bounded here too: before it goes on,
the disk has what it wrote, and its peer's queue of answers has room.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from roost.wire.messages import Item
from roost_node.host.call import ActiveCall, Output, Stage
from roost_node.host.worker import SLICE_S

if TYPE_CHECKING:
    from roost_node.host.host import Host

ITEMS_AT_ONCE = 64
BYTES_AT_ONCE = 256 * 1024


async def run_stream(host: Host, active: ActiveCall, generator: AsyncGenerator[Any, None]) -> None:
    """Step the generator; its worker drives this coroutine like any other method's."""
    method = active.method
    assert method is not None
    activation = active.activation
    time = host.loop.time
    since = time()
    items = size = 0  # since it was last caught up with
    async with aclosing(generator) as values:
        async for value in values:
            payload = method.encode_result(value, active.call.encoding)
            wrote = host.turns.commit_stretch(active)
            active.started_entry = True  # an item that has left cannot be taken back
            activation.shard.release(
                activation.last_index,
                Output(active.sink, Item(active.call.id, payload)),
                own_entry=wrote,
            )
            active.credit -= 1
            items += 1
            size += len(payload)
            if active.credit <= 0:
                await _credit(host, active)
                since = time()
            if items >= ITEMS_AT_ONCE or size >= BYTES_AT_ONCE:
                await _caught_up(host, active)
                items = size = 0
                since = time()
            elif activation.gate.depth or time() - since > SLICE_S:
                await asyncio.sleep(0)  # a suspension: whoever waits gets in
                since = time()


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


async def _caught_up(host: Host, active: ActiveCall) -> None:
    """Until what it yielded has left, and its peer has room for more; others run at least once."""
    activation = active.activation
    left = host.loop.create_future()
    activation.shard.release(activation.last_index, Output(None, None, None, left), own_entry=False)
    active.waits_for = "the disk"
    await (asyncio.sleep(0) if left.done() else left)
    active.waits_for = "its reader"
    while (room := active.sink.room()) is not None:
        await room
    active.waits_for = None
