"""Bytes of frames to messages of the core, and back: the one place that knows both.

A frame is read twice: as what it is, which checks every byte of it and gives the fields that routing
needs, and closed (`proto/roost/v1/forward.proto`), which gives each call's bytes to send on. Another
id is given by appending it. Both readings are C code; together they cost about as much as one call of
a Python function, and what is held of a call is its bytes and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from roost.adapters.translate import ENVELOPE_BYTES, error_to_pb
from roost.errors import InvalidArgumentError
from roost.v1 import forward_pb2, objects_pb2, types_pb2
from roost.wire.messages import FRAME_BYTES_MAX, MAYBE_EFFECT, ErrorInfo, Status
from roost_router.core.calls import Client, Forwarded, Kind, Sent
from roost_router.core.forward import Forwarder
from roost_router.core.table import Table

BATCH_BYTES = FRAME_BYTES_MAX // 4
DEADLINE_DEFAULT_MS = 30_000
DEADLINE_MAX_MS = 24 * 3_600_000
QUERY_MS = 30_000

_ID, _DEADLINE, _OLDEST = b"\x08", b"\x40", b"\x58"  # tags of Call's fields 1, 8, 11


def varint(number: int) -> bytes:
    """Protobuf's way to write a number."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def take_client_frame(
    raw: bytes, client: Client, core: Forwarder, table: Table, now_ms: int
) -> None:
    """Hand a client's frame to the core. Raises InvalidArgumentError when it is none."""
    try:
        frame = objects_pb2.ClientFrame.FromString(raw)
        closed = forward_pb2.ClosedClientFrame.FromString(raw)
    except DecodeError:
        raise InvalidArgumentError("that is not a frame") from None
    for call, body in zip(frame.calls, closed.calls, strict=True):
        deadline_ms = call.deadline_ms
        if not 0 < deadline_ms <= now_ms + DEADLINE_MAX_MS:
            deadline_ms = now_ms + (DEADLINE_MAX_MS if deadline_ms else DEADLINE_DEFAULT_MS)
            body = body + _DEADLINE + varint(deadline_ms)  # all attempts share it
        core.on_call(
            Forwarded(
                client,
                Kind.STREAM if call.credit else Kind.CALL,
                call.id,
                body,
                table.shard_of(call.class_name, call.key),
                deadline_ms,
                call.stub_id,
                call.sequence,
                call.oldest,
            )
        )
    for cancel in frame.cancels:
        core.on_cancel(client, cancel.id)
    for skip, body in zip(frame.skips, closed.skips, strict=True):
        shard = table.shard_of(skip.class_name, skip.key)
        core.on_skip(client, shard, skip.stub_id, skip.sequence, body)
    for credit in frame.credits:
        core.on_credit(client, credit.id, credit.items)
    for query, body in zip(frame.queries, closed.queries, strict=True):
        shard = table.shard_of(query.class_name, query.key)
        core.on_call(Forwarded(client, Kind.QUERY, query.id, body, shard, now_ms + QUERY_MS))


def client_frames(messages: list[Sent]) -> Iterator[bytes]:
    """Frames for a node, none over its bound."""
    for batch in batches(messages):
        frame = forward_pb2.ClosedClientFrame()
        calls: list[bytes] = []
        for kind, link_id, body, number in batch:
            if kind <= Kind.STREAM:
                body = body + _ID + varint(link_id)
                calls.append(body + _OLDEST + varint(number) if number else body)
            elif kind is Kind.CANCEL:
                frame.cancels.add(id=link_id)
            elif kind is Kind.SKIP:
                frame.skips.append(body)
            elif kind is Kind.CREDIT:
                frame.credits.add(id=link_id, items=number)
            else:
                frame.queries.append(body + _ID + varint(link_id))
        frame.calls.extend(calls)
        yield frame.SerializeToString()


def server_frames(messages: list[Sent]) -> Iterator[tuple[bytes, int]]:
    """Frames for a client, none over its bound, and how much of its unread bytes each is."""
    for batch in batches(messages):
        frame = forward_pb2.ClosedServerFrame()
        replies: list[bytes] = []
        size = 0
        for kind, call_id, body, _ in batch:
            size += len(body) + 32
            answer = body + _ID + varint(call_id)
            if kind is Kind.REPLY:
                replies.append(answer)
            elif kind is Kind.ITEM:
                frame.items.append(answer)
            else:
                frame.outcomes.append(answer)
        frame.replies.extend(replies)
        yield frame.SerializeToString(), size


def batches(messages: list[Sent]) -> Iterator[list[Sent]]:
    """Cut where a frame would be over its bound."""
    size = start = 0
    for at, message in enumerate(messages):
        size += len(message.body) + ENVELOPE_BYTES
        if size > BATCH_BYTES and at > start:
            yield messages[start:at]
            start, size = at, len(message.body) + ENVELOPE_BYTES
    if start < len(messages):
        yield messages[start:]


def closed_error(reply: objects_pb2.Reply | objects_pb2.OutcomeReply) -> bytes:
    """The answer's bytes without the traceback, which is for those whom the node trusts alone."""
    reply.error.ClearField("traceback")
    return reply.SerializeToString()


# Appended to a message: of a field that comes twice the last one counts, and messages in it are merged.
_UNSURE = objects_pb2.Reply(
    error=types_pb2.Error(took_effect=types_pb2.TookEffect.ValueType(MAYBE_EFFECT))
).SerializeToString()


class PlainWords:
    """The router's own errors, as protobuf."""

    def reply(self, status: Status, info: ErrorInfo) -> bytes:
        """The body of a reply."""
        message = objects_pb2.Reply(
            status=types_pb2.Status.ValueType(status), error=error_to_pb(info)
        )
        return message.SerializeToString()

    def outcome(self, status: Status, info: ErrorInfo) -> bytes:
        """The body of the answer to a query."""
        message = objects_pb2.OutcomeReply(
            status=types_pb2.Status.ValueType(status), error=error_to_pb(info)
        )
        return message.SerializeToString()

    def name(self, body: bytes) -> str:
        """A call as people are to read of it."""
        call = objects_pb2.Call.FromString(body)
        return f"{call.class_name}/{call.key}.{call.method}"

    def unsure(self, refusal: bytes) -> bytes:
        """A refusal that does not say any more that nothing happened."""
        return refusal + _UNSURE
