"""Asking nodes what operators want to know: the owner, any of them, or all and merged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import grpc
import grpc.aio

from roost.adapters.channel import OPTIONS, error_of
from roost.cluster.ids import check_key
from roost.errors import DeadlineExceededError, RoostError, UnavailableError
from roost.v1 import admin_pb2, admin_pb2_grpc
from roost_router.router import NO_NODE, Router

ReplyT = TypeVar("ReplyT")

ANSWER_S = 10.0  # of a caller that sets no deadline
PAUSE_S = 0.05
READY_S = 2.0  # for a first node to be found: whoever asks asks again
ASK_SHARE = 0.9
"""Of the time that there is: our own word on what failed is to be there before the asker's deadline."""
MOVE_S = 2.0
"""How long a list waits for an owner of a shard."""
PAGE_DEFAULT = 100
PAGE_MAX = 1_000


class Operators:
    """Asks nodes. Channels of its own: an operator's long list is not to stand before calls."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def status(self, left_s: float) -> admin_pb2.StatusReply:
        """What all nodes say, as one."""
        request = admin_pb2.StatusRequest()
        found = await self._from_all(
            lambda stub, left_s: stub.Status(request, timeout=left_s), left_s
        )
        table = self._router.table
        return admin_pb2.StatusReply(
            store_id=",".join(sorted(reply.store_id for reply in found)),
            cluster_id=table.map.shape.cluster_id,
            build=",".join(sorted({reply.build for reply in found})),
            server_time_ms=self._router.now_ms(),
            started_ms=min((reply.started_ms for reply in found), default=0),
            classes=sorted({name for reply in found for name in reply.classes}),
            activations=sum(reply.activations for reply in found),
            calls_running=sum(reply.calls_running for reply in found),
            calls_queued=sum(reply.calls_queued for reply in found),
            shards=table.map.shape.shards,
            behind=[one for reply in found for one in reply.behind],
            audits=[one for reply in found for one in reply.audits],
        )

    async def list_objects(
        self, request: admin_pb2.ListObjectsRequest, left_s: float
    ) -> admin_pb2.ListObjectsReply:
        """A page: each node's next objects, of which the first are the cluster's next."""
        limit = min(request.limit or PAGE_DEFAULT, PAGE_MAX)
        end_s = self._router.monotonic_s() + min(left_s / 2, MOVE_S)
        while True:
            pages = await self._from_all(
                lambda stub, left_s: stub.ListObjects(request, timeout=left_s), left_s / 2
            )
            shards = self._router.table.map.shape.shards
            page = merge_pages(pages, limit, self._is_owner, shards)
            if not page.unlisted or self._router.monotonic_s() > end_s:
                return page
            await asyncio.sleep(PAUSE_S)  # a shard that moves is with nobody for a moment

    def _is_owner(self, info: admin_pb2.ObjectInfo) -> bool:
        table = self._router.table
        record = table.map.record(table.shard_of(info.class_name, info.key))
        return record is not None and record.owner == info.owner

    async def show_object(
        self, request: admin_pb2.ShowObjectRequest, left_s: float
    ) -> admin_pb2.ShowObjectReply:
        """One object, from its owner."""
        return await self._from_owner(
            request.class_name,
            request.key,
            lambda stub, left_s: stub.ShowObject(request, timeout=left_s),
            left_s,
            is_read=True,
        )

    async def delete_object(
        self, request: admin_pb2.DeleteObjectRequest, left_s: float
    ) -> admin_pb2.DeleteObjectReply:
        """Delete all that it stores, at its owner."""
        return await self._from_owner(
            request.class_name,
            request.key,
            lambda stub, left_s: stub.DeleteObject(request, timeout=left_s),
            left_s,
            is_read=False,
        )

    async def explain(
        self, request: admin_pb2.ExplainRequest, left_s: float
    ) -> admin_pb2.ExplainReply:
        """One object, from its owner; where that one cannot be reached, what any node knows of it."""
        check_key(request.key)
        await self._ready(left_s)
        router = self._router
        address = router.table.address_of(router.table.shard_of(request.class_name, request.key))
        if address is not None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return await self._stub(address).Explain(request, timeout=left_s / 2)
        return await self.from_any(
            lambda stub, left_s: stub.Explain(request, timeout=left_s), left_s / 2, is_read=True
        )

    async def from_any(
        self,
        ask: Callable[[admin_pb2_grpc.AdminStub, float], Awaitable[ReplyT]],
        left_s: float,
        *,
        is_read: bool,
    ) -> ReplyT:
        """The answer of the first node that has one; a refusal is an answer."""
        await self._ready(left_s)
        router = self._router
        end_s = router.monotonic_s() + left_s * ASK_SHARE
        while True:
            failure: RoostError = UnavailableError("no node is known")
            addresses = list(router.table.map.addresses())
            for count, address in enumerate(addresses):
                part_s = (end_s - router.monotonic_s()) / (len(addresses) - count)
                try:
                    return await ask(self._stub(address), max(0.001, part_s))
                except grpc.aio.AioRpcError as error:
                    failure = error_of(error, f"the node at {address}", is_read=is_read)
                if not isinstance(failure, (UnavailableError, DeadlineExceededError)):
                    raise failure
            if router.monotonic_s() + PAUSE_S > end_s:
                raise failure
            await asyncio.sleep(PAUSE_S)

    def _stub(self, address: str) -> admin_pb2_grpc.AdminStub:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.aio.insecure_channel(address, options=OPTIONS)
        return admin_pb2_grpc.AdminStub(channel)

    async def _close_unused(self, used: Collection[str]) -> None:
        for address in [address for address in self._channels if address not in used]:
            await self._channels.pop(address).close()

    async def close(self) -> None:
        """Hang up."""
        await self._close_unused(())

    async def _from_all(
        self,
        ask: Callable[[admin_pb2_grpc.AdminStub, float], Awaitable[ReplyT]],
        left_s: float,
    ) -> list[ReplyT]:
        """An answer of every owner. Raises when one of them has none: half a list is a wrong list."""
        await self._ready(left_s)
        addresses = list(self._router.table.map.addresses())
        await self._close_unused(addresses)

        async def asked(address: str) -> ReplyT:
            try:
                return await ask(self._stub(address), left_s * ASK_SHARE)
            except grpc.aio.AioRpcError as error:
                raise error_of(error, f"the node at {address}", is_read=True) from None

        return list(await asyncio.gather(*map(asked, addresses)))

    async def _from_owner(
        self,
        class_name: str,
        key: str,
        ask: Callable[[admin_pb2_grpc.AdminStub, float], Awaitable[ReplyT]],
        left_s: float,
        *,
        is_read: bool,
    ) -> ReplyT:
        """The owner's answer; it is asked again while it cannot be reached."""
        check_key(key)
        await self._ready(left_s)
        router = self._router
        end_s = router.monotonic_s() + left_s * ASK_SHARE
        shard = router.table.shard_of(class_name, key)
        while True:
            address = router.table.address_of(shard)
            failure: RoostError = UnavailableError(f"the owner of shard {shard} is not known")
            if address is not None:
                try:
                    return await ask(self._stub(address), max(0.001, end_s - router.monotonic_s()))
                except grpc.aio.AioRpcError as error:
                    failure = error_of(error, f"the node at {address}", is_read=is_read)
            if not isinstance(failure, UnavailableError) or router.monotonic_s() + PAUSE_S > end_s:
                raise failure
            await asyncio.sleep(PAUSE_S)

    async def _ready(self, left_s: float) -> None:
        try:
            async with asyncio.timeout(min(left_s * ASK_SHARE, READY_S)):
                await self._router.ready.wait()
        except TimeoutError:
            raise UnavailableError(NO_NODE) from None


def merge_pages(
    pages: list[admin_pb2.ListObjectsReply],
    limit: int,
    is_owner: Callable[[admin_pb2.ObjectInfo], bool],
    shards: int,
) -> admin_pb2.ListObjectsReply:
    """The first `limit` of all; of two lines about one object, the owner's. What none of them owns is not listed."""
    lines: dict[bytes, admin_pb2.ObjectInfo] = {}
    for page in pages:
        for info in page.objects:
            if info.position not in lines or is_owner(info):
                lines[info.position] = info
    positions = sorted(lines)
    more = len(positions) > limit or any(page.next_page_token for page in pages)
    # A node that stopped early may have objects before the others' last: go on behind its last.
    ends = [page.objects[-1].position for page in pages if page.next_page_token and page.objects]
    taken = [p for p in positions if not ends or p <= min(ends)][:limit]
    return admin_pb2.ListObjectsReply(
        objects=[lines[position] for position in taken],
        next_page_token=taken[-1] if more and taken else b"",
        unlisted=sorted(set(range(shards)).intersection(*(page.unlisted for page in pages))),
    )
