"""Messages as protobuf, and back: the one place that knows both.

Bytes from the network are checked here for shape alone; what they mean is the host's business.
"""

from __future__ import annotations

from collections.abc import Iterable

from roost.adapters.transport import NodeStatus, ObjectDetail, ObjectInfo, ObjectPage
from roost.v1 import admin_pb2, objects_pb2, types_pb2
from roost.wire.messages import (
    Call,
    Cancel,
    Credit,
    ErrorInfo,
    Item,
    Link,
    Moved,
    Outcome,
    Query,
    Reply,
    Skip,
    ToClient,
    ToServer,
)

ENVELOPE_BYTES = 160  # more than the fixed part of any message takes


def call_to_pb(call: Call, message: objects_pb2.Call) -> None:
    """Fill in a message of the wire, field by field: that costs half of what keywords do."""
    message.id = call.id
    message.class_name = call.class_name
    message.key = call.key
    message.method = call.method
    message.arguments = call.arguments
    message.request_id = call.request_id
    message.deadline_ms = call.deadline_ms
    message.stub_id = call.stub_id
    message.sequence = call.sequence
    message.oldest = call.oldest
    if call.encoding:
        message.encoding = types_pb2.Encoding.ValueType(call.encoding)
    if call.credit:
        message.credit = call.credit
    if call.epoch:
        message.epoch = call.epoch
    if call.chain:
        message.chain.extend(_chain_to_pb(call.chain))
    if call.principal:
        message.principal = call.principal


def node_call_from_pb(message: objects_pb2.Call) -> Call:
    """A call that another node passes on, with the chain that it is part of."""
    call = call_from_pb(message)
    call.chain = _chain_from_pb(message.chain)
    call.principal = message.principal
    return call


def call_from_pb(message: objects_pb2.Call) -> Call:
    """A caller's call: chain and principal are not believed (only nodes set them)."""
    return Call(
        message.id,
        message.class_name,
        message.key,
        message.method,
        message.arguments,
        message.request_id,
        message.encoding,
        message.deadline_ms,
        message.stub_id,
        message.sequence,
        message.oldest,
        message.epoch,
        (),
        "",
        message.credit,
    )


def client_frame(messages: list[ToServer]) -> objects_pb2.ClientFrame:
    """A batch from a client."""
    frame = objects_pb2.ClientFrame()
    add_call = frame.calls.add
    for message in messages:
        if isinstance(message, Call):
            call_to_pb(message, add_call())
        elif isinstance(message, Cancel):
            frame.cancels.add(id=message.id)
        elif isinstance(message, Skip):
            frame.skips.add(
                class_name=message.class_name,
                key=message.key,
                stub_id=message.stub_id,
                sequence=message.sequence,
            )
        elif isinstance(message, Credit):
            frame.credits.add(id=message.id, items=message.items)
        else:
            frame.queries.add(
                id=message.id,
                class_name=message.class_name,
                key=message.key,
                request_id=message.request_id,
            )
    return frame


def from_client_frame(frame: objects_pb2.ClientFrame) -> list[ToServer]:
    """Everything but calls; calls are taken by `call_from_pb` one by one."""
    messages: list[ToServer] = [Cancel(m.id) for m in frame.cancels]
    messages += [Skip(m.class_name, m.key, m.stub_id, m.sequence) for m in frame.skips]
    messages += [Credit(m.id, m.items) for m in frame.credits]
    messages += [Query(m.id, m.class_name, m.key, m.request_id) for m in frame.queries]
    return messages


def server_frame(messages: list[ToClient | Moved]) -> objects_pb2.ServerFrame:
    """A batch from a server. Replies and items of one call keep their order: items come first."""
    frame = objects_pb2.ServerFrame()
    add_reply = frame.replies.add
    for message in messages:
        if isinstance(message, Reply):
            reply = add_reply()
            reply.id = message.id
            reply.epoch = message.epoch
            if message.status:
                reply.status = types_pb2.Status.ValueType(message.status)
                reply.error.CopyFrom(error_to_pb(message.error))
            else:
                reply.payload = message.payload
        elif isinstance(message, Item):
            frame.items.add(id=message.id, payload=message.payload)
        elif isinstance(message, Moved):
            frame.moved.add(
                shard=message.shard,
                epoch=message.epoch,
                owner=message.owner,
                address=message.address,
            )
        else:
            outcome = frame.outcomes.add(
                id=message.id,
                state=objects_pb2.OutcomeReply.State.ValueType(message.state),
                payload=message.payload,
                encoding=types_pb2.Encoding.ValueType(message.encoding),
                status=types_pb2.Status.ValueType(message.status),
                epoch=message.epoch,
            )
            if message.error is not None:
                outcome.error.CopyFrom(error_to_pb(message.error))
    return frame


def from_server_frame(frame: objects_pb2.ServerFrame) -> list[ToClient]:
    """What a server answered."""
    messages: list[ToClient] = [Item(m.id, m.payload) for m in frame.items]
    for m in frame.replies:
        status = m.status
        messages.append(
            Reply(m.id, status, b"", m.epoch, error_from_pb(m.error))
            if status
            else Reply(m.id, 0, m.payload, m.epoch)
        )
    for o in frame.outcomes:
        error = error_from_pb(o.error) if o.HasField("error") else None
        messages.append(Outcome(o.id, o.state, o.payload, o.encoding, o.status, error, o.epoch))
    return messages


def size_of(message: ToServer | ToClient | Moved) -> int:
    """About how many bytes it takes on the wire; never less."""
    if isinstance(message, Reply | Outcome):
        size = ENVELOPE_BYTES + len(message.payload)
        error = message.error
        if error is not None:
            size += 4 * (len(error.message) + len(error.traceback) + len(error.type))
            size += len(error.data) + sum(64 + 4 * len(link.class_name) for link in error.chain)
        return size
    if isinstance(message, Call):
        size = len(message.arguments) + 4 * len(message.key) + len(message.class_name)
        return ENVELOPE_BYTES + size + len(message.method)
    if isinstance(message, Query | Skip):
        return ENVELOPE_BYTES + 4 * (len(message.key) + len(message.class_name))
    if isinstance(message, Item):
        return ENVELOPE_BYTES + len(message.payload)
    return ENVELOPE_BYTES


def _chain_to_pb(chain: Iterable[Link]) -> list[types_pb2.ChainLink]:
    return [
        types_pb2.ChainLink(
            class_name=link.class_name,
            key=link.key,
            method=link.method,
            request_id=link.request_id,
        )
        for link in chain
    ]


def _chain_from_pb(chain: Iterable[types_pb2.ChainLink]) -> tuple[Link, ...]:
    return tuple(Link(m.class_name, m.key, m.method, m.request_id) for m in chain)


def error_to_pb(error: ErrorInfo | None) -> types_pb2.Error:
    """For the wire."""
    if error is None:
        return types_pb2.Error()
    return types_pb2.Error(
        message=error.message,
        took_effect=types_pb2.TookEffect.ValueType(error.took_effect),
        type=error.type,
        data=error.data,
        traceback=error.traceback,
        retry_after_s=error.retry_after_s,
        chain=_chain_to_pb(error.chain),
        final=error.final,
    )


def error_from_pb(error: types_pb2.Error) -> ErrorInfo:
    """From the wire."""
    return ErrorInfo(
        error.message,
        error.took_effect,
        error.type,
        error.data,
        error.traceback,
        error.retry_after_s,
        _chain_from_pb(error.chain),
        error.final,
    )


def info_to_pb(info: ObjectInfo) -> admin_pb2.ObjectInfo:
    """For the wire."""
    return admin_pb2.ObjectInfo(
        class_name=info.class_name,
        key=info.key,
        created_ms=info.created_ms,
        changed_ms=info.changed_ms,
        size_bytes=info.size_bytes,
        version=info.version,
        owner=info.owner,
        live=info.live,
        position=info.position,
    )


def page_from_pb(reply: admin_pb2.ListObjectsReply) -> ObjectPage:
    """From the wire."""
    return ObjectPage(
        list(map(info_from_pb, reply.objects)), reply.next_page_token, tuple(reply.unlisted)
    )


def info_from_pb(info: admin_pb2.ObjectInfo) -> ObjectInfo:
    """From the wire."""
    return ObjectInfo(
        info.class_name,
        info.key,
        info.created_ms,
        info.changed_ms,
        info.size_bytes,
        info.version,
        info.owner,
        info.live,
        info.position,
    )


def detail_from_pb(reply: admin_pb2.ShowObjectReply) -> ObjectDetail | None:
    """From the wire; None: nothing of it is stored."""
    if not reply.found:
        return None
    return ObjectDetail(info_from_pb(reply.info), reply.fields_json, reply.storage_rows)


def status_from_pb(reply: admin_pb2.StatusReply) -> NodeStatus:
    """From the wire."""
    return NodeStatus(
        reply.store_id, reply.cluster_id, reply.build, reply.server_time_ms, reply.started_ms,
        tuple(reply.classes), reply.activations, reply.calls_running, reply.calls_queued,
        reply.shards,
    )  # fmt: skip
