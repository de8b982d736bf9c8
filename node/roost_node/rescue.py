"""gRPC in, from operators in trouble: recover the cluster, give data up, raise the format.

`Rescue` asks all nodes for what their disks hold, lets `core/rescue.py` decide, and carries it out: first the
shards' records, each compared with what was read, then the generation, so that nobody acts before the records are
right. What was interrupted is run again. Each order leaves an event in the coordination store, for good.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Collection, Sequence

import grpc
import grpc.aio

from roost.adapters.channel import OPTIONS, error_of
from roost.adapters.serving import answer
from roost.cluster.ids import ShardId
from roost.errors import InvalidArgumentError, UnavailableError
from roost.v1 import admin_pb2, admin_pb2_grpc
from roost_node.core.overview import store_of
from roost_node.core.record import (
    FORMAT_LEVEL,
    Epoch,
    Event,
    Map,
    StoreId,
    Swap,
    Transaction,
    batches,
)
from roost_node.core.rescue import Copies, Copy, given_up, missing, recovered
from roost_node.node import Node
from roost_node.ownership.coordinator import CoordinatorRefusedError
from roost_node.view import ClusterView

ASK_S = 5.0

RECOVERED = "the cluster was recovered from its nodes' disks"
GIVEN_UP = "data was given up"


class Rescue:
    """Carries out what an operator orders, at whichever node hears it."""

    def __init__(self, node: Node, view: ClusterView) -> None:
        self._node = node
        self._view = view

    async def recover(
        self, without: Collection[str], *, only_look: bool
    ) -> tuple[Event | None, list[Swap], Copies]:
        """O7: records from disks, and a new generation."""
        found = await self._view.read()
        left_out = {store_of(text, found) for text in without}
        if there := sorted(left_out & set(found.sessions)):
            raise InvalidArgumentError(f"store {there[0]} is there: it cannot be left out")
        if gone := sorted(missing(found) - left_out):
            raise InvalidArgumentError(
                f"these stores are not there to be asked: {', '.join(gone)}; start their nodes, or name them"
                " with --without and lose what only they have"
            )
        copies, generation = await self._ask_all(found)
        now_ms = self._node.clock.now_ms()
        swaps = recovered(found, copies, left_out=bool(left_out), now_ms=now_ms)
        if only_look:
            return None, swaps, copies
        for some in batches(swaps, ()):
            await self._apply(some)
        event = self._event(
            RECOVERED, swaps, max(generation, found.config.generation) + 1, left_out
        )
        await self._view.raise_generation(event)
        return event, swaps, copies

    async def give_up(
        self, shards: Collection[ShardId], *, accept_data_loss: bool
    ) -> tuple[Event | None, list[Swap], Copies]:
        """M8: go on with what is left of shards that wait for stores which will never come back."""
        found = await self._view.read()
        for shard in shards:
            versioned = found.shards.get(shard)
            if versioned is None:
                raise InvalidArgumentError(
                    f"shard {shard} has no record: there is nothing to give up"
                )
            there = [store for store in versioned.record.in_sync if store in found.sessions]
            if there:
                raise InvalidArgumentError(
                    f"store {there[0]} is there and has all of shard {shard}: nothing is to be given up"
                )
        copies, _ = await self._ask_all(found)
        swaps = given_up(found, copies, shards, self._node.clock.now_ms())
        if not accept_data_loss:
            return None, swaps, copies
        lost = {s for swap in swaps for s in found.shards[swap.shard].record.in_sync}
        event = self._event(GIVEN_UP, swaps, 0, lost)
        first, *others = batches(swaps, ())
        await self._apply(Transaction(first.swaps, event=event))
        for some in others:
            await self._apply(some)
        return event, swaps, copies

    async def raise_format(self, level: int) -> int:
        """To a level, or as high as every node can."""
        if not level:
            sessions = (await self._view.read()).sessions
            level = min((info.format_level for info in sessions.values()), default=FORMAT_LEVEL)
        try:
            return (await self._view.raise_format_level(level)).format_level
        except CoordinatorRefusedError as error:
            raise InvalidArgumentError(error.message) from None

    async def events(self) -> list[Event]:
        """What was done."""
        return await self._view.events()

    def copies(self) -> admin_pb2.CopiesReply:
        """What our own disk holds."""
        ownership = self._node.host.ownership
        return admin_pb2.CopiesReply(
            store_id=self._node.store.store_id,
            generation=ownership.generation(),
            copies=[
                admin_pb2.ShardCopy(
                    shard=shard,
                    seen=copy.seen,
                    last_epoch=copy.last_epoch,
                    end=copy.end,
                    members=copy.members,
                )
                for shard, copy in ownership.copies().items()
            ],
        )

    async def _ask_all(self, found: Map) -> tuple[Copies, int]:
        """What all disks hold, and the highest generation on them. Raises when one does not answer."""
        replies = await asyncio.gather(
            *(self._ask(info.address) for info in found.sessions.values())
        )
        copies = {
            StoreId(reply.store_id): {
                ShardId(one.shard): Copy(
                    Epoch(one.seen),
                    Epoch(one.last_epoch),
                    one.end,
                    tuple(map(StoreId, one.members)),
                )
                for one in reply.copies
            }
            for reply in replies
        }
        if silent := sorted(set(found.sessions) - set(copies)):
            raise UnavailableError(f"store {silent[0]} is about to restart: again when it is there")
        return copies, max((reply.generation for reply in replies), default=0)

    async def _ask(self, address: str) -> admin_pb2.CopiesReply:
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            stub = admin_pb2_grpc.AdminStub(channel)
            try:
                return await stub.Copies(admin_pb2.CopiesRequest(), timeout=ASK_S)
            except grpc.aio.AioRpcError as error:
                raise UnavailableError(
                    f"the node at {address} does not say what it has: {error_of(error).message}"
                ) from None

    async def _apply(self, wanted: Transaction) -> None:
        if not (await self._view.apply(wanted)).succeeded:
            raise UnavailableError("records were changed at the same time: run it again")

    def _event(
        self, what: str, swaps: Sequence[Swap], generation: int, stores: Collection[StoreId]
    ) -> Event:
        now_ms = self._node.clock.now_ms()
        return Event(
            event_id(now_ms),
            now_ms,
            what,
            StoreId(self._node.store.store_id),
            generation,
            tuple(swap.shard for swap in swaps),
            tuple(sorted(stores)),
        )


class RescueServicer(admin_pb2_grpc.AdminServicer):
    """This part of the service of operators."""

    def __init__(self, node: Node, view: ClusterView) -> None:
        self._rescue = Rescue(node, view)

    async def Copies(
        self,
        request: admin_pb2.CopiesRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.CopiesRequest, Awaitable[admin_pb2.CopiesReply]
        ],
    ) -> admin_pb2.CopiesReply:
        """What this disk holds."""
        return self._rescue.copies()

    async def Recover(
        self,
        request: admin_pb2.RecoverRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.RecoverRequest, Awaitable[admin_pb2.RescueReply]
        ],
    ) -> admin_pb2.RescueReply:
        """Records from disks."""
        done = await answer(
            context, self._rescue.recover(request.without, only_look=request.only_look)
        )
        return _renewed(*done)

    async def GiveUp(
        self,
        request: admin_pb2.GiveUpRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.GiveUpRequest, Awaitable[admin_pb2.RescueReply]
        ],
    ) -> admin_pb2.RescueReply:
        """Go on with what is left."""
        shards = {ShardId(shard) for shard in request.shards}
        done = await answer(
            context, self._rescue.give_up(shards, accept_data_loss=request.accept_data_loss)
        )
        return _renewed(*done)

    async def RaiseFormat(
        self,
        request: admin_pb2.RaiseFormatRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.RaiseFormatRequest, Awaitable[admin_pb2.RaiseFormatReply]
        ],
    ) -> admin_pb2.RaiseFormatReply:
        """Let everybody write a newer format."""
        level = await answer(context, self._rescue.raise_format(request.level))
        return admin_pb2.RaiseFormatReply(level=level)

    async def Events(
        self,
        request: admin_pb2.EventsRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.EventsRequest, Awaitable[admin_pb2.EventsReply]
        ],
    ) -> admin_pb2.EventsReply:
        """What was done."""
        found = await answer(context, self._rescue.events())
        return admin_pb2.EventsReply(events=map(_event, found))


def event_id(now_ms: int) -> str:
    """Events sort by their time."""
    return f"{now_ms:013d}-{secrets.token_hex(4)}"


def _event(event: Event) -> admin_pb2.Event:
    return admin_pb2.Event(
        id=event.id,
        at_ms=event.at_ms,
        what=event.what,
        by=event.by,
        generation=event.generation,
        shards=event.shards,
        stores=event.stores,
    )


def _renewed(event: Event | None, swaps: Sequence[Swap], copies: Copies) -> admin_pb2.RescueReply:
    return admin_pb2.RescueReply(
        event=_event(event) if event is not None else None,
        shards=[
            admin_pb2.RenewedShard(
                shard=swap.shard,
                epoch=swap.record.epoch,
                owner=swap.record.owner,
                in_sync=swap.record.in_sync,
                end=copies[swap.record.owner].get(swap.shard, Copy()).end,
            )
            for swap in swaps
        ],
    )
