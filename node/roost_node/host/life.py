"""Starting, reloading and stopping a host in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from roost.object import ClassSpec
from roost_node.host.call import Cancelled, Stage

if TYPE_CHECKING:
    from roost_node.host.host import Host

log = logging.getLogger(__name__)

POLL_S = 0.005


async def drain(host: Host) -> None:
    """Stop taking calls; finish or cancel the running ones; let every object leave; flush.

    Calls that were cut off get `UnavailableError`: their callers send them again, elsewhere or later.
    """
    host.closing = True
    await _settle(host, Cancelled.SHUTDOWN)
    await _deactivate_all(host, "shutdown")
    await host.committer.drained()
    for shard in host.objects.shards():
        shard.close()


async def reload(host: Host, classes: Mapping[str, ClassSpec]) -> None:
    """Run on with other code: state, connections and waiting calls stay."""
    if host.paused is None:
        host.paused = []
    try:
        await _settle(host, Cancelled.RELOAD)
        await _deactivate_all(host, "reload")
        host.classes = dict(classes)
    finally:
        parked, host.paused = host.paused, None
        for call, sink in parked:
            host.objects.submit_again(call, sink)


async def _settle(host: Host, why: Cancelled) -> None:
    """Let open calls end within the grace period, then tell them to."""
    grace_end = host.loop.time() + host.limits.grace_s
    host.settling = True
    try:
        while host.admission.open_calls and host.loop.time() < grace_end:
            await asyncio.sleep(POLL_S)
    finally:
        host.settling = False
    if not host.admission.open_calls:
        return
    cut = 0
    for activation in list(host.activations.values()):
        for active in list(activation.calls.values()):
            if active.stage is not Stage.DONE:
                host.waits.stop(active, why)
                cut += 1
    log.info("cut off calls that outlived the grace period", extra={"calls": cut})
    end = host.loop.time() + host.limits.cancel_s
    while host.admission.open_calls and host.loop.time() < end:
        await asyncio.sleep(POLL_S)
    for activation in list(host.activations.values()):
        if activation.calls:
            host.objects.reset(activation, f"a call ignored its cancellation: {why.value}")


async def _deactivate_all(host: Host, reason: str) -> None:
    end = host.loop.time() + host.limits.hook_s + 1.0
    for count, activation in enumerate(list(host.activations.values())):
        host.objects.deactivate(activation, reason)
        if count % 256 == 255:
            await asyncio.sleep(0)  # a hundred thousand objects are not to stall the loop
    while host.activations and host.loop.time() < end:
        await asyncio.sleep(POLL_S)
    for activation in list(host.activations.values()):
        if activation.calls:  # its hook goes on: what it does has no effect any more
            host.objects.reset(activation, f"it did not leave in time: {reason}")
        else:
            host.objects.discard(activation)
