"""Which shards this host runs.

A node that is alone owns every shard and opens it when it is first needed. In a cluster the
replicator opens shards and takes them away; a call for any other shard is refused, and its caller
follows the owner by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from roost.cluster.ids import ShardId
from roost_node.core.log import Head
from roost_node.core.overview import Behind, LastAudit
from roost_node.core.rescue import Copy
from roost_node.host.shard import Shard
from roost_node.storage import layout, records

if TYPE_CHECKING:
    from roost_node.host.host import Host


class Ownership(Protocol):
    """What the host asks."""

    def open(self, shard_id: int, now_ms: int) -> Shard:
        """The shard, which no call has needed before. Raises NotOwnerError where it is another's."""

    def owned(self) -> Iterable[int]:
        """Shards whose objects are listed here."""

    def copies(self) -> Mapping[ShardId, Copy]:
        """What the disk holds of shards that have copies elsewhere."""

    def behind(self) -> Sequence[Behind]:
        """Learners of shards that are owned here."""

    def last_audits(self) -> Sequence[LastAudit]:
        """Of shards that are owned here."""

    def generation(self) -> int:
        """The highest of the cluster that the disk has seen; 0: it is in none."""


class Alone:
    """One node, all shards."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def open(self, shard_id: int, now_ms: int) -> Shard:
        """Every shard is ours."""
        host = self._host
        raw = host.store.get(layout.head_key(shard_id))
        head = records.decode_head(raw) if raw is not None else Head()
        return Shard(
            shard_id,
            host.store,
            head,
            max(1, head.epoch),
            now_ms,
            host.loop.time,
            host.telemetry.call_us,
            host.limits.kept_bytes_max,
        )

    def owned(self) -> Iterable[int]:
        """All of them."""
        return range(self._host.store.shards)

    def copies(self) -> Mapping[ShardId, Copy]:
        """There is no elsewhere."""
        return {}

    def behind(self) -> Sequence[Behind]:
        """There are none."""
        return ()

    def last_audits(self) -> Sequence[LastAudit]:
        """There is nothing to compare with."""
        return ()

    def generation(self) -> int:
        """It is in no cluster."""
        return 0
