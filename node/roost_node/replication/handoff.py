"""Bringing a shard's calls to rest before it is handed over (H1)."""

from __future__ import annotations

import asyncio

from roost_node.host.call import Cancelled, Stage
from roost_node.host.host import Host
from roost_node.host.shard import Shard

POLL_S = 0.002
OUTPUTS_S = (
    1.0  # for what calls have said to be committed and covered: it could not leave afterwards
)


async def quiesce(host: Host, shard: Shard) -> None:
    """Let running calls end within the grace period, then cancel them; let every object leave, and every answer.

    No new call is taken meanwhile (`Shard.refusal`), but for those that its running ones wait for.
    """
    live = host.objects.live.get(shard.id, {})
    end = host.loop.time() + host.limits.grace_s
    while any(a.calls for a in live) and host.loop.time() < end:
        await asyncio.sleep(POLL_S)
    for activation in list(live):
        for active in list(activation.calls.values()):
            if active.stage is not Stage.DONE:
                host.waits.stop(active, Cancelled.HANDOFF)
    end = host.loop.time() + host.limits.cancel_s
    while any(a.calls for a in live) and host.loop.time() < end:
        await asyncio.sleep(POLL_S)
    for activation in list(live):
        if activation.calls:
            host.reset(activation, "a call ignored its cancellation: handoff")
        else:
            host.deactivate(activation, "handoff")
    end = host.loop.time() + host.limits.hook_s
    while live and host.loop.time() < end:
        await asyncio.sleep(POLL_S)
    end = host.loop.time() + OUTPUTS_S
    while shard.gate.waiting_count() and host.loop.time() < end:
        await asyncio.sleep(POLL_S)
