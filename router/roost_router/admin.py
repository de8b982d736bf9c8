"""The service of operators, for the whole cluster: asks the owner, any node, or all and merges."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio

from roost.adapters.serving import abort, answer
from roost.errors import InvalidArgumentError
from roost.v1 import admin_pb2, admin_pb2_grpc
from roost_router.operators import ANSWER_S, Operators
from roost_router.router import Router

ReplyT = TypeVar("ReplyT")
RequestT = TypeVar("RequestT")


class Admin(admin_pb2_grpc.AdminServicer):
    """The service."""

    def __init__(self, router: Router) -> None:
        self._operators = Operators(router)

    async def close(self) -> None:
        """Hang up."""
        await self._operators.close()

    async def Status(
        self,
        request: admin_pb2.StatusRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.StatusRequest, Awaitable[admin_pb2.StatusReply]
        ],
    ) -> admin_pb2.StatusReply:
        """What all nodes say, as one."""
        return await answer(context, self._operators.status(_left_s(context)))

    async def ListObjects(
        self,
        request: admin_pb2.ListObjectsRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.ListObjectsRequest, Awaitable[admin_pb2.ListObjectsReply]
        ],
    ) -> admin_pb2.ListObjectsReply:
        """A page."""
        return await answer(context, self._operators.list_objects(request, _left_s(context)))

    async def ShowObject(
        self,
        request: admin_pb2.ShowObjectRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.ShowObjectRequest, Awaitable[admin_pb2.ShowObjectReply]
        ],
    ) -> admin_pb2.ShowObjectReply:
        """One object."""
        return await answer(context, self._operators.show_object(request, _left_s(context)))

    async def DeleteObject(
        self,
        request: admin_pb2.DeleteObjectRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.DeleteObjectRequest, Awaitable[admin_pb2.DeleteObjectReply]
        ],
    ) -> admin_pb2.DeleteObjectReply:
        """Delete all that it stores."""
        return await answer(context, self._operators.delete_object(request, _left_s(context)))

    async def ClusterStatus(
        self,
        request: admin_pb2.ClusterStatusRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.ClusterStatusRequest, Awaitable[admin_pb2.ClusterStatusReply]
        ],
    ) -> admin_pb2.ClusterStatusReply:
        """Nodes, and how shards are."""
        return await self._forward(
            context, lambda stub, left_s: stub.ClusterStatus(request, timeout=left_s)
        )

    async def Shards(
        self,
        request: admin_pb2.ShardsRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.ShardsRequest, Awaitable[admin_pb2.ShardsReply]
        ],
    ) -> admin_pb2.ShardsReply:
        """Each shard."""
        return await self._forward(
            context, lambda stub, left_s: stub.Shards(request, timeout=left_s)
        )

    async def Plan(
        self,
        request: admin_pb2.PlanRequest,
        context: grpc.aio.ServicerContext[admin_pb2.PlanRequest, Awaitable[admin_pb2.PlanReply]],
    ) -> admin_pb2.PlanReply:
        """What the controller intends, or would."""
        return await self._forward(context, lambda stub, left_s: stub.Plan(request, timeout=left_s))

    async def Drain(
        self,
        request: admin_pb2.DrainRequest,
        context: grpc.aio.ServicerContext[admin_pb2.DrainRequest, Awaitable[admin_pb2.DrainReply]],
    ) -> admin_pb2.DrainReply:
        """An order."""
        return await self._order(context, lambda stub, left_s: stub.Drain(request, timeout=left_s))

    async def Move(
        self,
        request: admin_pb2.MoveRequest,
        context: grpc.aio.ServicerContext[admin_pb2.MoveRequest, Awaitable[admin_pb2.MoveReply]],
    ) -> admin_pb2.MoveReply:
        """An order."""
        return await self._order(context, lambda stub, left_s: stub.Move(request, timeout=left_s))

    async def Explain(
        self,
        request: admin_pb2.ExplainRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.ExplainRequest, Awaitable[admin_pb2.ExplainReply]
        ],
    ) -> admin_pb2.ExplainReply:
        """One object, from its owner."""
        return await answer(context, self._operators.explain(request, _left_s(context)))

    async def Copies(
        self,
        request: admin_pb2.CopiesRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.CopiesRequest, Awaitable[admin_pb2.CopiesReply]
        ],
    ) -> admin_pb2.CopiesReply:
        """A router has no disk."""
        await abort(context, InvalidArgumentError("a router keeps nothing: ask a node"))

    async def Recover(
        self,
        request: admin_pb2.RecoverRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.RecoverRequest, Awaitable[admin_pb2.RescueReply]
        ],
    ) -> admin_pb2.RescueReply:
        """An order."""
        return await self._order(
            context, lambda stub, left_s: stub.Recover(request, timeout=left_s)
        )

    async def GiveUp(
        self,
        request: admin_pb2.GiveUpRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.GiveUpRequest, Awaitable[admin_pb2.RescueReply]
        ],
    ) -> admin_pb2.RescueReply:
        """An order."""
        return await self._order(context, lambda stub, left_s: stub.GiveUp(request, timeout=left_s))

    async def RaiseFormat(
        self,
        request: admin_pb2.RaiseFormatRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.RaiseFormatRequest, Awaitable[admin_pb2.RaiseFormatReply]
        ],
    ) -> admin_pb2.RaiseFormatReply:
        """An order."""
        return await self._order(
            context, lambda stub, left_s: stub.RaiseFormat(request, timeout=left_s)
        )

    async def Events(
        self,
        request: admin_pb2.EventsRequest,
        context: grpc.aio.ServicerContext[
            admin_pb2.EventsRequest, Awaitable[admin_pb2.EventsReply]
        ],
    ) -> admin_pb2.EventsReply:
        """What was done that cannot be undone."""
        return await self._forward(
            context, lambda stub, left_s: stub.Events(request, timeout=left_s)
        )

    async def _forward(
        self,
        context: grpc.aio.ServicerContext[RequestT, Awaitable[ReplyT]],
        ask: Callable[[admin_pb2_grpc.AdminStub, float], Awaitable[ReplyT]],
    ) -> ReplyT:
        return await answer(context, self._operators.from_any(ask, _left_s(context), is_read=True))

    async def _order(
        self,
        context: grpc.aio.ServicerContext[RequestT, Awaitable[ReplyT]],
        ask: Callable[[admin_pb2_grpc.AdminStub, float], Awaitable[ReplyT]],
    ) -> ReplyT:
        return await answer(context, self._operators.from_any(ask, _left_s(context), is_read=False))


def _left_s(context: grpc.aio.ServicerContext) -> float:  # type: ignore[type-arg]  # any pair
    left_s: float | None = context.time_remaining()
    return ANSWER_S if left_s is None else left_s
