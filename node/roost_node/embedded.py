"""A node in the caller's own process: what `roost.local` runs."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roost.adapters.transport import NodeStatus, ObjectDetail, ObjectPage, Opened, Receiver
from roost.errors import OutcomeUnknownError, RoostError
from roost.object import DurableObject
from roost.wire.messages import (
    Call,
    Cancel,
    Credit,
    Query,
    Reply,
    Skip,
    ToClient,
    ToServer,
)
from roost.wire.status import to_status
from roost_node.config import Limits
from roost_node.host import catalog
from roost_node.host.call import ActiveCall, Cancelled
from roost_node.host.loader import specs_of
from roost_node.node import Node


async def start(
    classes: Sequence[type[DurableObject]],
    path: str | Path | None,
    *,
    check_effects: bool = False,
    **limits: Any,
) -> Embedded:
    """Start a node for these classes; `path` None: in a temporary directory."""
    known = {knob.name for knob in dataclasses.fields(Limits)}
    unknown = set(limits) - known
    if unknown:
        raise RoostError(f"unknown setting {sorted(unknown)[0]!r}: there is {sorted(known)}")
    temporary = tempfile.mkdtemp(prefix="roost-") if path is None else None
    link = Embedded(temporary)
    node = Node(
        Path(temporary or str(path)),
        specs_of(classes),
        link.on_fatal,
        limits=Limits(**limits),
        check_effects=check_effects,
    )
    try:
        link.node = await node.__aenter__()
    except BaseException:
        link.remove()
        raise
    return link


class Embedded:
    """The link between a client and a node in one process: calls are handed over as they are."""

    def __init__(self, temporary: str | None) -> None:
        self.node: Node
        self._temporary = temporary
        self._receiver: Receiver | None = None
        self._calls: dict[int, ActiveCall] = {}
        self._answers = _Answers(self)
        self._failed: BaseException | None = None

    async def open(self, receiver: Receiver) -> Opened:
        """Begin."""
        self._receiver = receiver
        return Opened(self.node.clock.now_ms(), self.node.store.cluster_id)

    def send(self, messages: list[ToServer]) -> None:
        """Hand messages to the node."""
        host = self.node.host
        now_ms = host.now_ms()
        for message in messages:
            if isinstance(message, Call):
                if self._failed is not None:
                    self._refuse(message)
                    continue
                # A copy: the client uses its own again for the next attempt.
                call = Call(
                    message.id, message.class_name, message.key, message.method,
                    message.arguments, message.request_id, message.encoding,
                    message.deadline_ms, message.stub_id, message.sequence, message.oldest,
                    0, (), "", message.credit,
                )  # fmt: skip
                active = host.submit(call, self._answers, now_ms)
                if active is not None:
                    self._calls[call.id] = active
            elif isinstance(message, Cancel):
                found = self._calls.pop(message.id, None)
                if found is not None:
                    host.cancel(found, self._answers, message.id, Cancelled.CALLER)
            elif isinstance(message, Skip):
                host.skip(message)
            elif isinstance(message, Credit):
                streaming = self._calls.get(message.id)
                if streaming is not None:
                    host.add_credit(streaming, message.items)
            elif isinstance(message, Query):
                host.query(message, self._answers)

    def _refuse(self, call: Call) -> None:
        status, info = to_status(
            OutcomeUnknownError(f"the store has failed, nothing is known any more: {self._failed}")
        )
        self._answers.send(Reply(call.id, int(status), b"", 0, info))

    def on_fatal(self, error: BaseException) -> None:
        """The disk failed: nothing is released any more; the process is its owner's to end."""
        self._failed = error

    async def close(self) -> None:
        """Drain the node."""
        self._receiver = None
        try:
            await self.node.__aexit__(None, None, None)
        finally:
            self.remove()

    def remove(self) -> None:
        """Delete a temporary directory."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    async def list_objects(
        self, class_name: str, prefix: str, limit: int, page_token: bytes
    ) -> ObjectPage:
        """A page of the catalog."""
        return await catalog.list_objects(self.node.host, class_name, prefix, limit, page_token)

    async def show_object(self, class_name: str, key: str) -> ObjectDetail | None:
        """One object."""
        return await catalog.show_object(self.node.host, class_name, key)

    async def delete_object(self, class_name: str, key: str) -> bool:
        """Delete all that it stores."""
        return await self.node.delete_object(class_name, key)

    async def status(self) -> NodeStatus:
        """What the node says of itself."""
        return self.node.status()


class _Answers:
    """The node's answers, gathered for one turn of the loop (a `Sink`)."""

    def __init__(self, link: Embedded) -> None:
        self._link = link
        self._waiting: list[ToClient] = []
        self._loop = asyncio.get_running_loop()

    def send(self, message: ToClient) -> None:
        """An answer."""
        if isinstance(message, Reply):
            self._link._calls.pop(message.id, None)
        self._waiting.append(message)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._flush)

    def taken(self, call_id: int, active: ActiveCall) -> None:
        """A call that was kept back is open now."""
        self._link._calls[call_id] = active

    def room(self) -> None:
        """Always: they are handed over in the next turn, and the client's credit bounds them."""

    def _flush(self) -> None:
        answers, self._waiting = self._waiting, []
        receiver = self._link._receiver
        if receiver is not None:
            receiver.on_messages(answers)
