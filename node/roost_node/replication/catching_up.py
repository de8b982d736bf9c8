"""How far learners are behind, and how fast they come: what operators want to know of a copy under way.

The owner knows what each learner has acknowledged. Two looks make a rate, the rate and what is missing a time;
both are of the last seconds, and promise nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from roost.cluster.ids import ShardId
from roost_node.core.overview import Behind
from roost_node.core.record import StoreId
from roost_node.core.replication.progress import Progress
from roost_node.core.replication.replicas import Replicas
from roost_node.storage.sizes import Sizes


class _Seen(NamedTuple):
    """One learner at one moment."""

    entries: int  # that it has acknowledged
    snapshot_bytes: int
    at_s: float


class _Rate(NamedTuple):
    entries_per_s: float = 0.0
    bytes_per_s: float = 0.0


class CatchingUp:
    """The learners of the shards that one node owns."""

    def __init__(self, replicas: Replicas, sizes: Sizes) -> None:
        self._replicas = replicas
        self._sizes = sizes  # of shards, about
        self._seen: dict[tuple[ShardId, StoreId], _Seen] = {}
        self._rates: dict[tuple[ShardId, StoreId], _Rate] = {}

    def look(self, now_s: float) -> None:
        """Take the rates since the last look."""
        seen, rates = {}, {}
        for shard, store, progress, _ in self._learners():
            now = _Seen(0, 0, now_s)
            if progress is not None:
                now = _Seen(progress.match, progress.snapshot_bytes, now_s)
            seen[shard, store] = now
            before = self._seen.get((shard, store))
            if before is not None and now_s > before.at_s:
                took_s = now_s - before.at_s
                rates[shard, store] = _Rate(
                    max(0, now.entries - before.entries) / took_s,
                    max(0, now.snapshot_bytes - before.snapshot_bytes) / took_s,
                )
        self._seen, self._rates = seen, rates

    def behind(self) -> list[Behind]:
        """Each learner, as of now."""
        sizes: Mapping[ShardId, int] | None = None
        found = []
        for shard, store, progress, end in self._learners():
            rate = self._rates.get((shard, store), _Rate())
            match = progress.match if progress is not None else 0
            one = Behind(shard, store, end - match, rate.entries_per_s)
            if progress is not None and progress.snapshot:
                sizes = self._sizes() if sizes is None else sizes
                sent = progress.snapshot_bytes
                about = max(sizes.get(shard, 0), sent)
                one = Behind(shard, store, end - match, 0.0, sent, about, rate.bytes_per_s)
            found.append(one)
        return found

    def _learners(self) -> Iterator[tuple[ShardId, StoreId, Progress | None, int]]:
        for shard, owner in self._replicas.owners.items():
            for store in owner.members.record.learners:
                yield shard, store, owner.progress.get(store), owner.shape.end
