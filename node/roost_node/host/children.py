"""Calls from object to object.

A child call is output of its parent: it leaves when every earlier entry that the parent could have
seen is committed (R3). Its request id is made from the parent's and from what is called, with a count
of equal calls, so a parent that runs again and makes the same calls finds their answers instead of
doubling them. Its deadline is the parent's less 5 %, so that the parent can still say what it waited for.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol

from roost.cluster.ids import check_key, child_request_id
from roost.context import current_call
from roost.errors import DeadlineExceededError, OverloadedError, StaleCallError
from roost.stub import Stub
from roost.wire.codec import encode_arguments
from roost.wire.messages import Call, Item, Link, Reply, Skip, Status, ToClient
from roost.wire.session import may_be_asked_again
from roost.wire.status import to_error
from roost_node.host.call import ActiveCall, Cancelled, Output, Sink, Waiter

if TYPE_CHECKING:
    from roost_node.host.host import Host

DEADLINE_SHARE = 0.95
RETRY_S_MIN = 0.005
RETRY_S_MAX = 0.5
CREDIT = 64


class Elsewhere(Protocol):
    """The way to objects of other nodes."""

    async def send(self, call: Call, sink: Sink) -> int:
        """Send a call; its answers go to `sink`. The number by which to speak of it."""

    def cancel(self, number: int) -> None:
        """Nobody waits for that call any more."""

    def add_credit(self, number: int, items: int) -> None:
        """The reader of that stream has room."""

    def skip(self, skip: Skip) -> None:
        """That call of the stub was given up."""


class Children:
    """Carries the calls that objects of this host make (a `roost.stub.Caller`)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._ids = 0
        self.elsewhere: Elsewhere | None = None  # a node alone has all objects

    async def invoke(
        self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call another object and wait for its result."""
        parent = _parent(stub, method)
        call = self._call(parent, stub, method, args, kwargs)
        order = stub._order
        call.stub_id, call.sequence = order.stub_id, order.begin()
        target = f"{call.class_name}/{call.key}.{call.method}"
        waited = parent.waits_for
        parent.waits_for = target
        try:
            await self._may_leave(parent)
            reply = await self._send(parent, call, stub)
        except asyncio.CancelledError:
            skip = Skip(call.class_name, call.key, call.stub_id, call.sequence)
            self._host.skip(skip)
            if self.elsewhere is not None:
                self.elsewhere.skip(skip)
            raise
        finally:
            order.end(call.sequence)
            if parent.cancelled is None:
                parent.waits_for = waited
        if reply.status:
            raise to_error(reply.status, reply.error)
        spec = stub._spec or self._host.classes.get(call.class_name)
        return _decode(spec, method, reply.payload)

    async def _send(self, parent: ActiveCall, call: Call, stub: Stub) -> Reply:
        host = self._host
        pause_s = RETRY_S_MIN
        refused: Reply | None = None
        unsure: Reply | None = None  # the last one that does not say "nothing happened"
        while True:
            call.oldest = stub._order.oldest()
            self._ids += 1
            attempt = Call(
                self._ids, call.class_name, call.key, call.method, call.arguments, call.request_id,
                deadline_ms=call.deadline_ms, stub_id=call.stub_id, sequence=call.sequence,
                oldest=call.oldest, chain=call.chain, principal=call.principal,
            )  # fmt: skip
            waiter = Waiter(host.loop)
            waiter.active = host.submit(attempt, waiter)
            if pause_s > RETRY_S_MIN:  # again: the object may have forgotten which came before
                for sequence in stub._order.finished_before(call.sequence):
                    host.skip(Skip(call.class_name, call.key, call.stub_id, sequence))
            try:
                reply = await waiter.future
            except asyncio.CancelledError:
                if waiter.active is not None:
                    host.cancel(waiter.active, waiter, attempt.id, Cancelled.CALLER)
                raise
            if reply.status == Status.NOT_OWNER and self.elsewhere is not None:
                reply = await self._send_elsewhere(attempt, self.elsewhere)
            if reply.status == 0:
                return reply
            error = to_error(reply.status, reply.error)
            if error.took_effect != "no":
                unsure = reply
            elif refused is not None and isinstance(error, DeadlineExceededError):
                return unsure or refused  # it tells more than the time
            left_s = (call.deadline_ms - host.now_ms()) / 1000
            # Also one that may have taken effect: its owner was deposed before it was confirmed, and the
            # next one has its record, or never heard of it.
            if not may_be_asked_again(error):
                return reply
            if left_s <= pause_s:
                return unsure or reply  # "nothing happened" was said of one attempt
            refused = reply
            if isinstance(error, OverloadedError):
                pause_s = max(pause_s, min(error.retry_after_s, RETRY_S_MAX))
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, RETRY_S_MAX)

    async def _send_elsewhere(self, attempt: Call, elsewhere: Elsewhere) -> Reply:
        waiter = Waiter(self._host.loop)
        number = await elsewhere.send(attempt, waiter)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            elsewhere.cancel(number)
            raise

    async def stream(
        self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Read a streaming method of another object."""
        parent = _parent(stub, method)
        call = self._call(parent, stub, method, args, kwargs)
        call.credit = CREDIT
        await self._may_leave(parent)
        self._ids += 1
        call.id = self._ids
        inbox = _Inbox(self._host.loop)
        inbox.active = self._host.submit(call, inbox)
        taken = away = 0
        elsewhere = self.elsewhere
        spec = stub._spec or self._host.classes.get(call.class_name)
        try:
            while True:
                message = await inbox.next()
                if isinstance(message, Item):
                    yield _decode(spec, method, message.payload)
                    taken += 1
                    if taken == CREDIT // 2:
                        if away and elsewhere is not None:
                            elsewhere.add_credit(away, taken)
                        elif inbox.active is not None:
                            self._host.add_credit(inbox.active, taken)
                        taken = 0
                    continue
                assert isinstance(message, Reply)
                inbox.active = None
                if message.status == Status.NOT_OWNER and elsewhere is not None and not away:
                    away = await elsewhere.send(call, inbox)
                    continue
                away = 0
                if message.status:
                    raise to_error(message.status, message.error)
                return
        finally:
            if inbox.active is not None:
                self._host.cancel(inbox.active, inbox, call.id, Cancelled.CALLER)
            if away and elsewhere is not None:
                elsewhere.cancel(away)

    async def _may_leave(self, parent: ActiveCall) -> None:
        """Wait until what the parent could have seen is committed."""
        activation = parent.activation
        shard = activation.shard
        if shard.replica is None and activation.last_index <= shard.log.committed:
            return  # with cover, which one store always has (R3)
        waiter = self._host.loop.create_future()
        shard.release(activation.last_index, Output(None, None, None, waiter), own_entry=False)
        await waiter

    def _call(
        self,
        parent: ActiveCall,
        stub: Stub,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Call:
        check_key(stub._key)
        arguments = encode_arguments(args, kwargs)
        target = b"\0".join(
            (stub._class_name.encode(), stub._key.encode(), method.encode(), arguments)
        )
        counts = parent.child_counts
        if counts is None:
            counts = parent.child_counts = {}
        # By digest: a parent that goes on for hours must not hold the arguments of all its calls.
        equal = hashlib.blake2b(target, digest_size=16).digest()
        count = counts.get(equal, 0)
        counts[equal] = count + 1
        now_ms = self._host.now_ms()
        left_ms = parent.deadline_ms - now_ms
        if stub._timeout_s is not None:
            left_ms = min(left_ms, int(stub._timeout_s * 1000))
        deadline_ms = now_ms + int(left_ms * DEADLINE_SHARE)
        if deadline_ms <= now_ms:
            raise DeadlineExceededError(
                f"no time left to call {stub._class_name}/{stub._key}.{method}", took_effect="no"
            )
        call = parent.call
        link = Link(call.class_name, call.key, call.method, call.request_id)
        return Call(
            0,
            stub._class_name,
            stub._key,
            method,
            arguments,
            stub._take_request_id() or child_request_id(call.request_id, target, count),
            deadline_ms=deadline_ms,
            chain=(*call.chain, link),
            principal=call.principal,
        )


class _Inbox:
    """Takes the items of a child's stream; credit bounds it."""

    __slots__ = ("_loop", "_messages", "_waiter", "active")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._messages: deque[ToClient] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.active: ActiveCall | None = None  # while it is open

    def taken(self, call_id: int, active: ActiveCall) -> None:
        self.active = active

    def room(self) -> None:
        """What it has room for is its credit."""

    def send(self, message: ToClient) -> None:
        self._messages.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> ToClient:
        while not self._messages:
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._messages.popleft()


def _parent(stub: Stub, method: str) -> ActiveCall:
    parent: ActiveCall | None = current_call.get()
    if parent is None or not parent.is_open:
        raise StaleCallError(
            f"{stub._class_name}/{stub._key}.{method} was called by a task whose call has ended: await "
            f"your tasks before the method returns"
        )
    return parent


def _decode(spec: Any, method: str, payload: bytes) -> Any:
    known = spec.methods.get(method) if spec is not None else None
    if known is None:
        import msgspec

        return msgspec.msgpack.decode(payload)
    return known.decode_result(payload)
