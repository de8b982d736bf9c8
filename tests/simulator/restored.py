"""A story of the whole cluster: its etcd is restored from an old backup, and an operator recovers it (O7).

While a backup grows old, things go wrong as in any run, so that owners and members change. Then etcd shows the
cluster as it was. No node acts on that, so no record changes, until the cluster is recovered (`roost cluster
recover`, as a node does it). Then all that was ever acknowledged is there, and the run ends as any other.

Not here: nodes that start between the two. They have not seen the newer etcd (docs/COORDINATION.md).
"""

from __future__ import annotations

import asyncio

import grpc.aio

from roost.v1 import admin_pb2, admin_pb2_grpc
from simulator.clients import Client
from simulator.havoc import Havoc
from simulator.history import ViolationError
from simulator.machines import seeded
from simulator.whole import Whole

RECOVER_S = 5.0
RECOVERED_S = 60.0
STARTED_S = 60.0
SETTLED_S = 5.0


async def etcd_is_restored(whole: Whole, havoc: Havoc, operator: Client) -> None:
    """Goes in the place of a run's usual faults."""
    rng = seeded(whole.seed, "restored")
    havoc.taste.weights["wipe"] = 0  # its store could not be asked
    await havoc.strike_for(1.5 + rng.random() * 3)
    backup = whole.etcd.backup()
    whole.trace.note("etcd is backed up")
    await havoc.strike_for(2 + rng.random() * 8)
    havoc.heal()
    await asyncio.wait_for(_all_have_started(whole), STARTED_S)
    await asyncio.sleep(rng.random() * SETTLED_S)
    whole.trace.note("etcd is restored")
    whole.etcd.stop()
    await asyncio.sleep(rng.random() * 3)
    whole.etcd.restore(backup)
    whole.etcd.resume()
    before = dict(whole.etcd.registry.shards)
    await asyncio.sleep(rng.random() * 10)
    moved = sorted(s for s, now in whole.etcd.registry.shards.items() if before.get(s) != now)
    if moved:
        raise ViolationError(
            f"the records of {moved} were changed before the cluster was recovered"
        )
    recovering = operator.process.start(_recover(whole))
    await asyncio.wait_for(recovering, RECOVERED_S)
    havoc.heal()  # drains and pins of the backup, too


async def _all_have_started(whole: Whole) -> None:
    """Also those that were told to stop: one that starts later has not seen the newer etcd."""
    while not all(
        whole.is_registered(machine) and not machine.stop.is_set()
        for machine in whole.machines.values()
    ):
        await asyncio.sleep(0.1)


async def _recover(whole: Whole) -> None:
    """Ask one node after another, until one has done it."""
    while True:
        for machine in list(whole.machines.values()):
            async with grpc.aio.insecure_channel(machine.address) as channel:
                stub = admin_pb2_grpc.AdminStub(channel)
                try:
                    reply = await stub.Recover(admin_pb2.RecoverRequest(), timeout=RECOVER_S)
                except grpc.aio.AioRpcError as error:
                    whole.trace.note(f"{machine.name} does not recover: {error.details()}")
                else:
                    whole.trace.note(f"recovered: {len(reply.shards)} shards")
                    return
            await asyncio.sleep(0.3)
