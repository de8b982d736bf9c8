"""A router in the client's own process: what `roost.connect(..., direct=True)` runs.

The same core, links and map, with one client and no server: calls go straight to the owners.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from roost.adapters.direct import Identity
from roost.adapters.translate import (
    call_to_pb,
    detail_from_pb,
    from_server_frame,
    page_from_pb,
    status_from_pb,
)
from roost.adapters.transport import NodeStatus, ObjectDetail, ObjectPage, Opened, Receiver
from roost.errors import UnavailableError
from roost.v1 import admin_pb2, objects_pb2
from roost.wire.messages import Call, Cancel, Credit, Query, Skip, ToServer
from roost_router.core.calls import Client, Forwarded, Kind
from roost_router.frames import QUERY_MS, server_frames
from roost_router.operators import ANSWER_S, Operators
from roost_router.router import Router


class Direct:
    """A `Transport` with a link to every owner."""

    def __init__(
        self, addresses: Sequence[str], *, connect_timeout_s: float, who: Identity | None = None
    ) -> None:
        self._addresses = tuple(addresses)
        self._timeout_s = connect_timeout_s * len(self._addresses)
        self._loop = asyncio.get_running_loop()
        self._router = Router(self._addresses, who=who)
        self._operators = Operators(self._router)
        self._client = Client(self._wake)
        self._receiver: Receiver | None = None
        self._is_begun = False

    async def open(self, receiver: Receiver) -> Opened:
        """Learn the map. It is opened once: links that break are made again below."""
        if not self._is_begun:
            self._is_begun = True
            await self._router.__aenter__()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._router.ready.wait()
        except TimeoutError:
            raise UnavailableError(
                f"no server answers ({', '.join(self._addresses)}): is it running, and is the address "
                f"right?"
            ) from None
        self._receiver = receiver
        return Opened(self._router.now_ms(), self._router.table.map.shape.cluster_id)

    def send(self, messages: list[ToServer]) -> None:
        """Hand messages to the core."""
        core, table, client = self._router.core, self._router.table, self._client
        for message in messages:
            if isinstance(message, Call):
                call = objects_pb2.Call()
                call_to_pb(message, call)
                core.on_call(
                    Forwarded(
                        client,
                        Kind.STREAM if message.credit else Kind.CALL,
                        message.id,
                        call.SerializeToString(),
                        table.shard_of(message.class_name, message.key),
                        message.deadline_ms,
                        message.stub_id,
                        message.sequence,
                        message.oldest,
                    )
                )
            elif isinstance(message, Cancel):
                core.on_cancel(client, message.id)
            elif isinstance(message, Skip):
                skip = objects_pb2.Skip(
                    class_name=message.class_name,
                    key=message.key,
                    stub_id=message.stub_id,
                    sequence=message.sequence,
                )
                shard = table.shard_of(message.class_name, message.key)
                core.on_skip(
                    client, shard, message.stub_id, message.sequence, skip.SerializeToString()
                )
            elif isinstance(message, Credit):
                core.on_credit(client, message.id, message.items)
            elif isinstance(message, Query):
                self._ask(message)

    def _ask(self, message: Query) -> None:
        router = self._router
        query = objects_pb2.OutcomeQuery(
            class_name=message.class_name, key=message.key, request_id=message.request_id
        )
        shard = router.table.shard_of(message.class_name, message.key)
        due_ms = router.now_ms() + QUERY_MS
        body = query.SerializeToString()
        router.core.on_call(Forwarded(self._client, Kind.QUERY, message.id, body, shard, due_ms))

    def _wake(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        messages = self._client.take()
        self._client.unread_bytes = 0
        for raw, _ in server_frames(messages):
            if self._receiver is not None:
                frame = objects_pb2.ServerFrame.FromString(raw)
                self._receiver.on_messages(from_server_frame(frame))

    async def close(self) -> None:
        """Hang up on all."""
        self._receiver = None
        if self._is_begun:
            self._router.core.on_client_gone(self._client)
            await asyncio.sleep(0)  # what was taken back is still to be written
            await self._operators.close()
            await self._router.__aexit__(None, None, None)

    async def list_objects(
        self, class_name: str, prefix: str, limit: int, page_token: bytes
    ) -> ObjectPage:
        """A page of the catalogs of all nodes."""
        request = admin_pb2.ListObjectsRequest(
            class_name=class_name, prefix=prefix, limit=limit, page_token=page_token
        )
        return page_from_pb(await self._operators.list_objects(request, ANSWER_S))

    async def show_object(self, class_name: str, key: str) -> ObjectDetail | None:
        """One object, from its owner."""
        request = admin_pb2.ShowObjectRequest(class_name=class_name, key=key)
        return detail_from_pb(await self._operators.show_object(request, ANSWER_S))

    async def delete_object(self, class_name: str, key: str) -> bool:
        """Delete all that it stores, at its owner."""
        request = admin_pb2.DeleteObjectRequest(class_name=class_name, key=key)
        return (await self._operators.delete_object(request, ANSWER_S)).found

    async def status(self) -> NodeStatus:
        """What all nodes say, as one."""
        return status_from_pb(await self._operators.status(ANSWER_S))
