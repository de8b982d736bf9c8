"""Asking servers what operators want to know: one request, to the first address that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from roost.adapters.addresses import checked
from roost.adapters.channel import OPTIONS, error_of, said_by_roost
from roost.errors import UnavailableError
from roost.v1 import admin_pb2_grpc

ReplyT = TypeVar("ReplyT")
REACH_S = 5.0  # one that is just being started
PAUSE_S = 0.1
READS = frozenset(
    (
        "Status",
        "ListObjects",
        "ShowObject",
        "ClusterStatus",
        "Shards",
        "Plan",
        "Explain",
        "Copies",
        "Events",
    )
)
"""What changes nothing: without an answer it is known that nothing happened."""


class _Asked(grpc.aio.UnaryUnaryClientInterceptor):
    """Remembers what the last request was."""

    name = ""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        """Send it on."""
        method: str | bytes = client_call_details.method
        self.name = (method if isinstance(method, str) else method.decode()).rpartition("/")[2]
        return await continuation(client_call_details, request)


async def ask(
    addresses: Sequence[str],
    timeout_s: float,
    request: Callable[[admin_pb2_grpc.AdminStub, float], Awaitable[ReplyT]],
) -> ReplyT:
    """The answer. `request` may be sent again while no server can be reached, for `REACH_S`.

    Raises what the server says, or when the time is over UnavailableError; of an order that was sent,
    OutcomeUnknownError.
    """
    asked, servers = _Asked(), checked(addresses)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    end = begun + timeout_s
    while True:
        for address in servers:
            async with grpc.aio.insecure_channel(
                address, options=OPTIONS, interceptors=[asked]
            ) as channel:
                stub = admin_pb2_grpc.AdminStub(channel)
                try:
                    return await request(stub, max(end - loop.time(), 0.001))
                except grpc.aio.AioRpcError as error:
                    failure = error_of(error, address, is_read=asked.name in READS)
                    if error.code() is grpc.StatusCode.UNAVAILABLE and not said_by_roost(error):
                        failure = UnavailableError(
                            f"no server answers ({address}: {failure}): is it running, and is the "
                            f"address right?"
                        )
            if not isinstance(failure, UnavailableError):
                raise failure
        if loop.time() + PAUSE_S > min(end, begun + REACH_S):
            raise failure
        await asyncio.sleep(PAUSE_S)
