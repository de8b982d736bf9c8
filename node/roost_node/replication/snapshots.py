"""Sending a shard's whole state to a learner that the log cannot help any more (M7)."""

from __future__ import annotations

import asyncio
import logging

from roost.cluster.ids import ShardId
from roost_node.core.record import Epoch, StoreId
from roost_node.core.replication.messages import SnapshotBegin, SnapshotEnd, SnapshotRows
from roost_node.core.replication.replicas import Replicas
from roost_node.replication.peers import Peers
from roost_node.storage.replica_log import ReplicaLog

log = logging.getLogger(__name__)

UNSENT_BYTES_MAX = 4 * 1024 * 1024
POLL_S = 0.005


async def send_snapshot(
    replica_log: ReplicaLog,
    peers: Peers,
    replicas: Replicas,
    peer: StoreId,
    shard: ShardId,
    epoch: Epoch,
) -> None:
    """All rows as of one moment, page by page, as fast as the stream takes them.

    Ends by itself when the stream breaks or the shard is lost; the owner then begins anew.
    """
    owner = replicas.owners.get(shard)
    progress = owner.progress.get(peer) if owner is not None else None
    if owner is None or progress is None or owner.epoch != epoch:
        return
    head = replica_log.head(shard)
    pages = replica_log.snapshot(shard)  # in the same turn of the loop: of the same moment
    progress.snapshot_bytes = 0
    progress.kept_from = head.index  # L6: or the log would be cut behind it while it travels
    shape = owner.shape.cut(head.index) if head.index < owner.shape.end else owner.shape
    peers.send(peer, SnapshotBegin(shard, epoch, shape.trimmed(head.index), head.hash))
    log.info("snapshot", extra={"shard": shard, "store": peer, "index": head.index})
    for rows in pages:
        peers.send(peer, SnapshotRows(shard, epoch, tuple(rows)))
        progress.snapshot_bytes += sum(len(key) + len(value) for key, value in rows)
        while peers.pending_bytes(peer) > UNSENT_BYTES_MAX:
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(0)
        if not (
            progress.snapshot
            and replicas.is_linked(peer)
            and replicas.owners.get(shard) is owner
            and owner.progress.get(peer) is progress
        ):
            return  # its stream broke (a new one begins anew), or the shard is another's
    peers.send(peer, SnapshotEnd(shard, epoch))
