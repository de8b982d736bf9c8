"""gRPC in, from operators: this node's own objects, and the cluster as any node sees it.

About the cluster each answer comes from a linearizable read made for it, so it is never older than the
question; nothing is remembered here. What operators order (drain a store, let a store own a shard) is only
written down in the coordination store: the controller acts on it, and nodes that restart find it there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

import grpc
import grpc.aio
import msgspec

from roost.adapters.serving import abort, answer
from roost.adapters.translate import info_to_pb
from roost.cluster.ids import ShardId, check_key, shard_of
from roost.errors import InvalidArgumentError, RoostError
from roost.v1 import admin_pb2
from roost_node.core.moves import Moves
from roost_node.core.overview import (
    NodeView,
    ShardView,
    overview,
    places_now,
    state_of,
    store_of,
)
from roost_node.core.placement.plan import Situation
from roost_node.core.placement.preview import Preview, preview
from roost_node.core.placement.roster import Place, Standing
from roost_node.core.placement.starts import Budgets
from roost_node.core.record import NO_SESSION, Map, StoreId
from roost_node.host import catalog
from roost_node.host.explain import explain
from roost_node.node import Node
from roost_node.rescue import RescueServicer
from roost_node.storage.sizes import Sizes
from roost_node.view import ClusterView, told


class Admin(RescueServicer):
    """The service of operators."""

    def __init__(self, node: Node, view: ClusterView, sizes: Sizes, moves: Moves) -> None:
        super().__init__(node, view)
        self._moves = moves
        self._node = node
        self._sizes = sizes
        self._view = view

    async def Status(
        self,
        request: admin_pb2.StatusRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.StatusRequest, Awaitable[admin_pb2.StatusReply]
        ],
    ) -> admin_pb2.StatusReply:
        """What the node says of itself."""
        status = self._node.status()
        return admin_pb2.StatusReply(
            store_id=status.store_id,
            cluster_id=status.cluster_id,
            build=status.build,
            server_time_ms=status.server_time_ms,
            started_ms=status.started_ms,
            classes=status.classes,
            activations=status.activations,
            calls_running=status.calls_running,
            calls_queued=status.calls_queued,
            shards=status.shards,
            behind=[
                admin_pb2.LearnerBehind(
                    shard=one.shard,
                    store_id=one.store,
                    entries=one.entries,
                    entries_per_s=one.entries_per_s,
                    snapshot_bytes=one.snapshot_bytes,
                    snapshot_of=one.snapshot_of,
                    bytes_per_s=one.bytes_per_s,
                )
                for one in self._node.host.ownership.behind()
            ],
            audits=[
                admin_pb2.ShardAudit(
                    shard=one.shard,
                    at_ms=one.at_ms,
                    compared=one.compared,
                    differ=one.differ,
                    bad=one.bad,
                )
                for one in self._node.host.ownership.last_audits()
            ],
        )

    async def ListObjects(
        self,
        request: admin_pb2.ListObjectsRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.ListObjectsRequest, Awaitable[admin_pb2.ListObjectsReply]
        ],
    ) -> admin_pb2.ListObjectsReply:
        """A page of the catalog."""
        page = await answer(
            context,
            catalog.list_objects(
                self._node.host,
                request.class_name,
                request.prefix,
                request.limit,
                request.page_token,
            ),
        )
        return admin_pb2.ListObjectsReply(
            objects=map(info_to_pb, page.objects),
            next_page_token=page.next_token,
            unlisted=page.unlisted,
        )

    async def ShowObject(
        self,
        request: admin_pb2.ShowObjectRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.ShowObjectRequest, Awaitable[admin_pb2.ShowObjectReply]
        ],
    ) -> admin_pb2.ShowObjectReply:
        """One object."""
        detail = await answer(
            context, catalog.show_object(self._node.host, request.class_name, request.key)
        )
        if detail is None:
            return admin_pb2.ShowObjectReply()
        return admin_pb2.ShowObjectReply(
            found=True,
            info=info_to_pb(detail.info),
            fields_json=detail.fields_json,
            storage_rows=detail.storage_rows,
        )

    async def DeleteObject(
        self,
        request: admin_pb2.DeleteObjectRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.DeleteObjectRequest, Awaitable[admin_pb2.DeleteObjectReply]
        ],
    ) -> admin_pb2.DeleteObjectReply:
        """Delete all that it stores."""
        found = await answer(context, self._node.delete_object(request.class_name, request.key))
        return admin_pb2.DeleteObjectReply(found=found)

    async def ClusterStatus(
        self,
        request: admin_pb2.ClusterStatusRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.ClusterStatusRequest, Awaitable[admin_pb2.ClusterStatusReply]
        ],
    ) -> admin_pb2.ClusterStatusReply:
        """Nodes, and how shards are."""
        try:
            found, leader = await self._view.read(), await self._view.leader()
        except RoostError as error:
            await abort(context, told(error))
        seen = overview(found, leader)
        return admin_pb2.ClusterStatusReply(
            cluster_id=seen.cluster_id,
            shards=found.config.shards,
            replicas=found.config.replicas,
            min_in_sync=found.config.min_in_sync,
            revision=seen.revision,
            nodes=[_node(node) for node in seen.nodes],
            states={state.value: count for state, count in seen.counts().items()},
            waits_for={str(store): count for store, count in seen.waits_for().items()},
        )

    async def Shards(
        self,
        request: admin_pb2.ShardsRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.ShardsRequest, Awaitable[admin_pb2.ShardsReply]
        ],
    ) -> admin_pb2.ShardsReply:
        """Each shard."""
        try:
            found = await self._view.read()
            store = store_of(request.store_id, found) if request.store_id else None
            state = state_of(request.state) if request.state else None
        except RoostError as error:
            await abort(context, told(error))
        return admin_pb2.ShardsReply(
            shards=[
                _shard(view)
                for view in overview(found, None).shards
                if state in (None, view.state) and (store is None or view.concerns(store))
            ]
        )

    async def Plan(
        self,
        request: admin_pb2.PlanRequest,
        context: grpc.aio.ServicerContext[admin_pb2.PlanRequest, Awaitable[admin_pb2.PlanReply]],
    ) -> admin_pb2.PlanReply:
        """What the controller intends, or would."""
        try:
            found = await self._view.read()
            situation = _supposed(
                found,
                {store_of(text, found) for text in request.drain},
                frozenset(store_of(text, found) for text in request.without),
                self._sizes(),
            )
        except RoostError as error:
            await abort(context, told(error))
        return _plan(await asyncio.to_thread(preview, situation, Budgets()))

    async def Drain(
        self,
        request: admin_pb2.DrainRequest,
        context: grpc.aio.ServicerContext[admin_pb2.DrainRequest, Awaitable[admin_pb2.DrainReply]],
    ) -> admin_pb2.DrainReply:
        """Write the order down."""
        try:
            store = store_of(request.store_id, await self._view.read())
            await self._view.drain(store, not request.off)
        except RoostError as error:
            await abort(context, told(error))
        return admin_pb2.DrainReply(store_id=store)

    async def Move(
        self,
        request: admin_pb2.MoveRequest,
        context: grpc.aio.ServicerContext[admin_pb2.MoveRequest, Awaitable[admin_pb2.MoveReply]],
    ) -> admin_pb2.MoveReply:
        """Write the order down."""
        try:
            found = await self._view.read()
            if request.shard >= found.config.shards:
                raise InvalidArgumentError(
                    f"there is no shard {request.shard}: the last is {found.config.shards - 1}"
                )
            store = store_of(request.store_id, found) if request.store_id else None
            if store is not None and places_now(found)[store].standing is not Standing.LIVE:
                raise InvalidArgumentError(
                    f"store {store} is {places_now(found)[store].standing.value}: a shard can be"
                    " given only to one that is live"
                )
            await self._view.pin(ShardId(request.shard), store)
        except RoostError as error:
            await abort(context, told(error))
        return admin_pb2.MoveReply(store_id=store or "")

    async def Explain(
        self,
        request: admin_pb2.ExplainRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.ExplainRequest, Awaitable[admin_pb2.ExplainReply]
        ],
    ) -> admin_pb2.ExplainReply:
        """Where an object is, and what goes on in it if that is here."""
        host = self._node.host
        try:
            check_key(request.key)
            host.objects.spec(request.class_name)
            found = await self._view.read()
        except RoostError as error:
            await abort(context, told(error))
        config = found.config
        shard = shard_of(request.class_name, request.key, seed=config.seed, shards=config.shards)
        view = overview(found, None).shards[shard]
        info = found.sessions.get(view.record.owner) if view.record is not None else None
        reply = admin_pb2.ExplainReply(shard=_shard(view), address=info.address if info else "")
        for move in self._moves.of(ShardId(shard)):
            reply.moves.add(
                epoch=move.epoch,
                owner=move.owner,
                how=move.how.value,
                seen_ms=move.seen_ms,
                why=move.why,
            )
        if shard in host.ownership.owned():
            inside = explain(host, request.class_name, request.key)
            reply.local, reply.live, reply.queued = True, inside.live, inside.queued
            reply.awake_because = inside.awake_because
            for call in inside.calls:
                reply.calls.add(
                    method=call.method,
                    stage=call.stage,
                    age_ms=call.age_ms,
                    waits_for=call.waits_for,
                )
        return reply


def _supposed(
    found: Map,
    drained: set[StoreId],
    gone: frozenset[StoreId],
    sizes: Mapping[ShardId, int],
) -> Situation:
    """As if some stores were drained, and others never came back."""
    places = places_now(found, gone) | {
        store: Place(Standing.DRAINING, place.zone, place.weight)
        for store, place in places_now(found).items()
        if store in drained and place.standing not in (Standing.AWAY, Standing.GONE)
    }
    sessions = {store: info for store, info in found.sessions.items() if store not in gone}
    return Situation(msgspec.structs.replace(found, sessions=sessions), places, dict(sizes))


def _node(node: NodeView) -> admin_pb2.NodeInfo:
    info = node.info
    reply = admin_pb2.NodeInfo(
        store_id=node.store,
        standing=node.standing.value,
        controller=node.is_controller,
        drained=node.is_drained,
        owners=node.owners,
        replicas=node.replicas,
        learners=node.learners,
    )
    if info is not None:
        reply.session = f"{info.session:016x}" if info.session != NO_SESSION else ""
        reply.address, reply.zone, reply.weight = info.address, info.zone, info.weight
        reply.build, reply.short_of_disk = info.build, info.short_of_disk
        reply.unreachable.extend(info.unreachable)
        reply.stuck_on.extend(info.stuck_on)
    return reply


def _shard(view: ShardView) -> admin_pb2.ShardInfo:
    reply = admin_pb2.ShardInfo(
        shard=view.shard,
        state=view.state.value,
        pinned=view.pin or "",
        waits_for=view.waits_for,
    )
    if view.record is not None:
        record = view.record
        reply.epoch, reply.owner, reply.how = record.epoch, record.owner, record.how.value
        reply.in_sync.extend(record.in_sync)
        reply.learners.extend(record.learners)
        reply.suspects.extend(record.suspects)
    if view.wish is not None:
        reply.wished_owner, reply.begun = view.wish.owner, view.wish.go
        reply.wished.extend(view.wish.replicas)
    return reply


def _plan(seen: Preview) -> admin_pb2.PlanReply:
    before, after = seen.peaks()
    return admin_pb2.PlanReply(
        moves=[
            admin_pb2.ShardMove(
                shard=move.shard,
                why=move.why.name.lower(),
                owner=move.owner,
                new_owner=move.new_owner,
                copy_to=move.copy_to,
                drop_from=move.drop_from,
                bytes=move.bytes,
                begun=move.begun,
            )
            for move in seen.moves
        ],
        copies=seen.copies,
        handoffs=seen.handoffs,
        bytes=seen.bytes,
        loads=[
            admin_pb2.StoreLoad(
                store_id=store,
                owners_before=load.owners,
                copies_before=load.copies,
                owners_after=seen.after[store].owners,
                copies_after=seen.after[store].copies,
            )
            for store, load in seen.before.items()
        ],
        peak_before=before,
        peak_after=after,
        waiting=seen.waiting,
    )
