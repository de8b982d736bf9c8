"""How far learners are behind, and how fast they come: what operators want to know of a copy under way.

The owner knows what each learner has acknowledged. Two looks make a rate, the rate and what is missing a time;
both are of the last seconds, and promise nothing.
"""

from __future__ import annotations

from roost.cluster.ids import ShardId
from roost_node.core.overview import Behind
from roost_node.core.record import StoreId
from roost_node.core.replication.replicas import Replicas


class CatchingUp:
    """The learners of the shards that one node owns."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._seen: dict[tuple[ShardId, StoreId], tuple[int, float]] = {}
        self._rates: dict[tuple[ShardId, StoreId], float] = {}

    def look(self, now_s: float) -> None:
        """Take the rate since the last look."""
        seen, rates = {}, {}
        for shard, store, match, _ in self._learners():
            before, at_s = self._seen.get((shard, store), (match, now_s))
            seen[shard, store] = match, now_s
            if now_s > at_s:
                rates[shard, store] = max(0, match - before) / (now_s - at_s)
        self._seen, self._rates = seen, rates

    def behind(self) -> list[Behind]:
        """Each learner, as of now."""
        return [
            Behind(shard, store, missing, self._rates.get((shard, store), 0.0))
            for shard, store, _, missing in self._learners()
        ]

    def _learners(self) -> list[tuple[ShardId, StoreId, int, int]]:
        found = []
        for shard, owner in self._replicas.owners.items():
            for store in owner.members.record.learners:
                progress = owner.progress.get(store)
                match = progress.match if progress is not None else 0
                found.append((shard, store, match, owner.shape.end - match))
        return found
