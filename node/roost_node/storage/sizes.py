"""About how many bytes each shard takes on this store: for the plan, which only weighs them.

Files are sorted by key and keys begin with the shard, so a file's size is shared by the copies that lie
between its first key and its last; what is in memory is shared by all. Nothing is read for it. Shards
of which there is no copy here are taken for as large as the mean of those that are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from roost.cluster.ids import ShardId
from roost_node.storage.engine import Store, TableFile

FRESH_S = 10.0

Sizes = Callable[[], Mapping[ShardId, int]]
"""Bytes of a copy of each shard, as far as known."""


def estimate(
    files: Iterable[TableFile], memory_bytes: int, held: Collection[ShardId], shards: int
) -> dict[ShardId, int]:
    """Of each shard; nothing where no copy is held."""
    if not held:
        return {}
    found = dict.fromkeys(sorted(held), memory_bytes // len(held))
    for file in files:
        inside = [shard for shard in found if file.first <= shard <= file.last]
        for shard in inside:
            found[shard] += file.size_bytes // len(inside)
    mean = sum(found.values()) // len(found)
    return {shard: found.get(shard, mean) for shard in map(ShardId, range(shards))}


class ShardSizes:
    """An estimate that is at most `FRESH_S` old; one of nothing is made anew at once."""

    def __init__(
        self,
        store: Store,
        held: Callable[[], Collection[ShardId]],
        now_s: Callable[[], float],
    ) -> None:
        self._store = store
        self._held = held
        self._now_s = now_s
        self._made_s = -FRESH_S
        self._found: dict[ShardId, int] = {}

    def __call__(self) -> dict[ShardId, int]:
        """Bytes by shard."""
        now_s = self._now_s()
        if not self._found or now_s - self._made_s >= FRESH_S:
            store = self._store
            self._made_s = now_s
            self._found = estimate(
                store.table_files(), store.memory_bytes(), self._held(), store.shards
            )
        return self._found
