"""Who owns what: news in, in any order and from anywhere; the truth out.

News of a shard comes from watching a node, from `Moved`, from the epoch in a reply, late, twice or
from a node that is behind. So merging is a maximum: of two records of a shard the one of the higher
epoch stays, of one epoch that of the higher change. Any order of the same news ends in the same map,
and old news changes nothing.

Not here: how news travels, and what is done with calls whose owner is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from roost.cluster.ids import HASH_NAME, SHARDS_MAX, ShardId, shard_of
from roost.errors import RoostError

PLACES_MAX = 65_536  # shards of names, remembered


class Shape(msgspec.Struct, frozen=True):
    """How a cluster's names become shards; it never changes."""

    cluster_id: str
    hash_name: str
    seed: bytes
    shards: int


class ShardRecord(msgspec.Struct, frozen=True):
    """Who owned a shard at some epoch."""

    shard: int
    epoch: int
    owner: str  # a store's id; empty where only the address is known
    address: str
    in_sync: tuple[str, ...] = ()
    change: int = 0  # orders the records of one epoch


def rank(record: ShardRecord) -> tuple[int, int, str, str, tuple[str, ...]]:
    """Which of two records is newer. What follows `change` only makes the order total."""
    return record.epoch, record.change, record.owner, record.address, record.in_sync


class ShardMap:
    """Of one cluster."""

    __slots__ = ("_places", "_records", "shape")

    def __init__(self, shape: Shape) -> None:
        """Raises RoostError for a cluster of rules that this build does not know."""
        if shape.hash_name != HASH_NAME:
            raise RoostError(
                f"the cluster places names by {shape.hash_name!r}, this build knows {HASH_NAME!r}: "
                f"use the cluster's build"
            )
        if not 0 < shape.shards <= SHARDS_MAX or shape.shards & (shape.shards - 1):
            raise RoostError(
                f"the cluster says it has {shape.shards} shards: it is a power of two, at most "
                f"{SHARDS_MAX}"
            )
        self.shape = shape
        self._records: dict[int, ShardRecord] = {}
        self._places: dict[tuple[str, str], ShardId] = {}

    def merge(self, news: Iterable[ShardRecord]) -> list[ShardRecord]:
        """Take what is newer than what is known; those records, as they are now."""
        changed: dict[int, ShardRecord] = {}
        for record in news:
            if not 0 <= record.shard < self.shape.shards:
                continue  # of no shard that there is
            known = self._records.get(record.shard)
            if known is None or rank(record) > rank(known):
                self._records[record.shard] = changed[record.shard] = record
        return list(changed.values())

    def record(self, shard: int) -> ShardRecord | None:
        """What is known of a shard; None: nothing yet."""
        return self._records.get(shard)

    def shard_of(self, class_name: str, key: str) -> ShardId:
        """The shard of an object."""
        name = (class_name, key)
        shard = self._places.get(name)
        if shard is None:
            shape = self.shape
            shard = shard_of(class_name, key, seed=shape.seed, shards=shape.shards)
            if len(self._places) >= PLACES_MAX:
                self._places.clear()
            self._places[name] = shard
        return shard

    def addresses(self) -> dict[str, None]:
        """Of all owners, in order of shards."""
        return {record.address: None for record in self if record.address}

    def __iter__(self) -> Iterator[ShardRecord]:
        return iter([self._records[shard] for shard in sorted(self._records)])

    def __len__(self) -> int:
        return len(self._records)
