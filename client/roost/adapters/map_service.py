"""`Map.Watch` as nodes and routers serve it: the whole map, then what changes.

A watcher that reads slowly misses steps, never the last one: what it has not taken is kept by shard,
so it costs at most one record a shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
import grpc.aio

from roost.adapters.map_news import records_to_pb, shape_to_pb
from roost.cluster.shard_map import ShardMap, ShardRecord
from roost.v1 import shard_map_pb2, shard_map_pb2_grpc

Watching = grpc.aio.ServicerContext[
    shard_map_pb2.WatchRequest, AsyncIterator[shard_map_pb2.MapUpdate]
]


class _Watcher:
    """What one watcher has not taken."""

    def __init__(self) -> None:
        self.news: dict[int, ShardRecord] = {}
        self.more = asyncio.Event()


class MapService(shard_map_pb2_grpc.MapServicer):
    """The service; `publish` feeds it."""

    def __init__(self) -> None:
        self._map: ShardMap | None = None
        self._known = asyncio.Event()
        self._watchers: dict[_Watcher, None] = {}  # in order: a simulated run is to be repeatable
        self._revision = 0

    def publish(self, shards: ShardMap, changed: Iterable[ShardRecord]) -> None:
        """`changed` are the records that are new in `shards`."""
        self._map = shards
        self._revision += 1
        self._known.set()
        for watcher in self._watchers:
            watcher.news.update((record.shard, record) for record in changed)
            watcher.more.set()

    async def Watch(  # noqa: N802  # the protocol's name
        self, request: shard_map_pb2.WatchRequest, context: Watching
    ) -> AsyncIterator[shard_map_pb2.MapUpdate]:
        """The map, and what changes."""
        await self._known.wait()
        assert self._map is not None
        cluster_id = self._map.shape.cluster_id
        if request.cluster_id and request.cluster_id != cluster_id:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this is a server of cluster {cluster_id}, not of {request.cluster_id}",
            )
        watcher = _Watcher()
        self._watchers[watcher] = None
        try:
            yield shard_map_pb2.MapUpdate(
                revision=self._revision,
                shape=shape_to_pb(self._map.shape),
                shards=records_to_pb(self._map),
            )
            while True:
                await watcher.more.wait()
                watcher.more.clear()
                news, watcher.news = watcher.news, {}
                yield shard_map_pb2.MapUpdate(
                    revision=self._revision, shards=records_to_pb(news.values())
                )
        finally:
            self._watchers.pop(watcher, None)
