"""The shard map as protobuf, and back."""

from __future__ import annotations

from collections.abc import Iterable

from roost.cluster.shard_map import Shape, ShardRecord
from roost.v1 import objects_pb2, shard_map_pb2


def shape_to_pb(shape: Shape) -> shard_map_pb2.MapShape:
    """For the wire."""
    return shard_map_pb2.MapShape(
        cluster_id=shape.cluster_id,
        hash_name=shape.hash_name,
        seed=shape.seed,
        shard_count=shape.shards,
    )


def shape_from_pb(message: shard_map_pb2.MapShape) -> Shape:
    """From the wire."""
    return Shape(message.cluster_id, message.hash_name, message.seed, message.shard_count)


def records_to_pb(records: Iterable[ShardRecord]) -> list[shard_map_pb2.ShardRecord]:
    """For the wire."""
    return [
        shard_map_pb2.ShardRecord(
            shard=record.shard,
            epoch=record.epoch,
            owner=record.owner,
            address=record.address,
            in_sync=record.in_sync,
            change=record.change,
        )
        for record in records
    ]


def records_from_pb(
    messages: Iterable[shard_map_pb2.ShardRecord], reached_at: str
) -> list[ShardRecord]:
    """From the wire; an empty address means the one at which its sender was reached."""
    return [
        ShardRecord(m.shard, m.epoch, m.owner, m.address or reached_at, tuple(m.in_sync), m.change)
        for m in messages
    ]


def moved_from_pb(message: objects_pb2.Moved) -> ShardRecord:
    """From the wire."""
    return ShardRecord(message.shard, message.epoch, message.owner, message.address)
