"""Whether a cluster is whole, by what operators see."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from roost.adapters.operators import ask
from roost.v1 import admin_pb2

ASK_S = 10.0

Status = admin_pb2.ClusterStatusReply


async def status(addresses: Sequence[str]) -> Status:
    """From the first of these nodes that answers. Raises RoostError."""
    request = admin_pb2.ClusterStatusRequest()
    return await ask(addresses, ASK_S, lambda stub, s: stub.ClusterStatus(request, timeout=s))


def is_whole(found: Status, addresses: Collection[str]) -> bool:
    """Just these nodes live and reach each other, and every shard has all its copies where they should be."""
    live = {n.address for n in found.nodes if n.standing == "live" and not n.unreachable}
    return live == set(addresses) and dict(found.states) == {"in sync": found.shards}
