"""The door for other nodes' streams: `roost.v1.Replication` on the node's gRPC server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from roost.adapters.serving import HELLO_S
from roost_node.replication import translate
from roost_node.replication.peers import Inbound, Peers

log = logging.getLogger(__name__)

SERVICE = "roost.v1.Replication"

_Context = grpc.aio.ServicerContext[bytes, bytes]


class PeerServer:
    """Serves streams for a `Peers`."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on that server. Frames stay bytes: `translate` reads and makes them."""
        follow: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self.follow
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Follow": follow}),)
        )

    async def follow(self, _requests: AsyncIterator[bytes], context: _Context) -> None:
        """One stream of another node."""
        peers = self._peers
        try:
            async with asyncio.timeout(HELLO_S):
                hello = translate.read_hello(await _read(context))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no hello within {HELLO_S} s")
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except EOFError:
            return
        why = peers.refusal(hello)
        if why:
            log.warning("refused a node's stream", extra={"peer": hello.store, "why": why})
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, why)
        await context.write(
            translate.welcome_frame(
                translate.Welcome(peers.me, translate.STREAM_VERSION, audits=True)
            )
        )
        inbound = peers.take_inbound(hello.store, hello.session)
        create_task = asyncio.get_running_loop().create_task
        parts: list[asyncio.Task[object]] = [
            create_task(self._hear(inbound, context)),
            create_task(_answer(inbound, context)),
            create_task(inbound.ended.wait()),
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            peers.lose_inbound(inbound)
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _hear(self, inbound: Inbound, context: _Context) -> None:
        # Read only when what came before was heard: so a slow node slows who speaks to it.
        while True:
            raw = await _read(context)
            try:
                self._peers.hear(inbound, raw)
            except ValueError as error:
                log.warning(
                    "a node talks nonsense", extra={"peer": inbound.peer, "why": str(error)}
                )
                return
            except Exception as error:
                self._peers.fail(error)
                raise


async def _read(context: _Context) -> bytes:
    raw = await context.read()
    if not isinstance(raw, bytes):
        raise EOFError("the other node hung up")  # noqa: TRY004  # the end, not a wrong type
    return raw


async def _answer(inbound: Inbound, context: _Context) -> None:
    while True:
        frame = await inbound.outbox.frame()
        await context.write(frame)
        inbound.outbox.written(frame)
