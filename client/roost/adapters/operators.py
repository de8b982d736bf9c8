"""Asking servers what operators want to know: one request, to the first address that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
import grpc.aio

from roost.adapters.channel import OPTIONS, error_of, said_by_roost
from roost.errors import UnavailableError
from roost.v1 import admin_pb2_grpc

ReplyT = TypeVar("ReplyT")
REACH_S = 5.0  # one that is just being started
PAUSE_S = 0.1


async def ask(
    addresses: Sequence[str],
    timeout_s: float,
    request: Callable[[admin_pb2_grpc.AdminStub, float], Awaitable[ReplyT]],
) -> ReplyT:
    """The answer. `request` may be sent again while no server can be reached, for `REACH_S`.

    Raises what the server says, or UnavailableError when the time is over.
    """
    loop = asyncio.get_running_loop()
    begun = loop.time()
    end = begun + timeout_s
    while True:
        for address in addresses:
            async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
                stub = admin_pb2_grpc.AdminStub(channel)
                try:
                    return await request(stub, max(end - loop.time(), 0.001))
                except grpc.aio.AioRpcError as error:
                    failure = error_of(error)
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
