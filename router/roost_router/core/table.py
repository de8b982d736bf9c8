"""The routing table: news of the shard map in, the owner's address out."""

from __future__ import annotations

from collections.abc import Iterable

from roost.cluster.shard_map import Shape, ShardMap, ShardRecord
from roost.errors import RoostError


class Table:
    """What this router knows of who owns what; empty until the first whole map."""

    __slots__ = ("_map",)

    def __init__(self) -> None:
        self._map: ShardMap | None = None

    @property
    def is_known(self) -> bool:
        """Has a node told the map?"""
        return self._map is not None

    @property
    def map(self) -> ShardMap:
        """The map, once it is known."""
        assert self._map is not None, "asked before a node has told the map"
        return self._map

    def on_shape(self, shape: Shape) -> None:
        """A node says how names become shards. Raises RoostError when it is of another cluster."""
        if self._map is None:
            self._map = ShardMap(shape)
        elif self._map.shape != shape:
            raise RoostError(
                f"a node belongs to cluster {shape.cluster_id}, this router to "
                f"{self._map.shape.cluster_id}: a router serves one cluster, mend --nodes"
            )

    def learn(self, news: Iterable[ShardRecord]) -> list[ShardRecord]:
        """Merge; the records that changed."""
        return self.map.merge(news)

    def shard_of(self, class_name: str, key: str) -> int:
        """The shard of an object."""
        return self.map.shard_of(class_name, key)

    def address_of(self, shard: int) -> str | None:
        """Where its owner is; None: not known."""
        record = self.map.record(shard)
        return record.address if record is not None else None

    def epoch_of(self, shard: int) -> int:
        """At which epoch; zero: not known."""
        record = self.map.record(shard)
        return record.epoch if record is not None else 0
