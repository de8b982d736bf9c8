"""Messages between nodes to and from bytes: protobuf stops here.

A frame is a run of framed messages, so a message is encoded once, when it is said, and joined with
others when the stream has room. Nothing is decided here. Bytes that are no frame raise ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from google.protobuf.message import DecodeError, Message

from roost.cluster.ids import ShardId
from roost.errors import CorruptionError
from roost.v1 import replication_pb2 as pb
from roost_node.core.record import Epoch, How, SessionId, ShardRecord, StoreId
from roost_node.core.replication.audit import Outcome
from roost_node.core.replication.epochs import Shape
from roost_node.core.replication.messages import (
    Append,
    Appended,
    Audit,
    Audited,
    Fetch,
    Fetched,
    FromFollower,
    FromOwner,
    HandedOver,
    Heartbeat,
    HeartbeatAck,
    LogEntry,
    Mismatch,
    Refused,
    Register,
    Registered,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotRows,
)
from roost_node.storage.records import decode_entry, encode_entry

STREAM_VERSION = 1
"""Of `replication.proto`."""

_MESSAGES_TAG = b"\x12"  # field 2, with a length: `messages` of both frames


class Hello(msgspec.Struct, frozen=True):
    """Who opens a stream, and to whom."""

    store: StoreId
    session: SessionId
    cluster_id: str
    generation: int
    version: int
    to_store: StoreId


class Welcome(msgspec.Struct, frozen=True):
    """Who took it."""

    store: StoreId
    version: int
    audits: bool = False  # older builds know no `Audit`


def hello_frame(hello: Hello) -> bytes:
    """The first frame of an owner."""
    return pb.OwnerFrame(
        hello=pb.OwnerHello(
            store=hello.store,
            session=hello.session,
            cluster_id=hello.cluster_id,
            generation=hello.generation,
            wire_version=hello.version,
            to_store=hello.to_store,
        )
    ).SerializeToString()


def read_hello(raw: bytes) -> Hello:
    """Raises ValueError where it is not one."""
    frame = _parse(pb.OwnerFrame, raw)
    if not frame.HasField("hello"):
        raise ValueError("the first frame of an owner is its hello")
    hello = frame.hello
    return Hello(
        StoreId(hello.store),
        SessionId(hello.session),
        hello.cluster_id,
        hello.generation,
        hello.wire_version,
        StoreId(hello.to_store),
    )


def welcome_frame(welcome: Welcome) -> bytes:
    """The first frame of a follower."""
    return pb.FollowerFrame(
        welcome=pb.FollowerWelcome(
            store=welcome.store, wire_version=welcome.version, audits=welcome.audits
        )
    ).SerializeToString()


def read_welcome(raw: bytes) -> Welcome:
    """Raises ValueError where it is not one."""
    frame = _parse(pb.FollowerFrame, raw)
    if not frame.HasField("welcome"):
        raise ValueError("the first frame of a follower is its welcome")
    welcome = frame.welcome
    return Welcome(StoreId(welcome.store), welcome.wire_version, welcome.audits)


def from_owner(message: FromOwner) -> bytes:
    """A framed message."""
    return _framed(_OWNER_TO_PB[type(message)](message))


def from_follower(message: FromFollower) -> bytes:
    """A framed message."""
    return _framed(_FOLLOWER_TO_PB[type(message)](message))


def read_owner_frame(raw: bytes) -> list[FromOwner]:
    """The messages of a frame, in order."""
    return [_read(_OWNER_FROM_PB, each) for each in _parse(pb.OwnerFrame, raw).messages]


def read_follower_frame(raw: bytes) -> list[FromFollower]:
    """The messages of a frame, in order."""
    return [_read(_FOLLOWER_FROM_PB, each) for each in _parse(pb.FollowerFrame, raw).messages]


def _framed(message: Message) -> bytes:
    raw = message.SerializeToString()
    length, size = bytearray(), len(raw)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return b"".join((_MESSAGES_TAG, length, raw))


def _parse(kind: Any, raw: bytes) -> Any:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise ValueError(f"not a frame between nodes: {error}") from None


def _read(kinds: dict[str, Callable[[Any], Any]], message: Any) -> Any:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise ValueError("a message of a kind that this build does not know")
    return kinds[kind](getattr(message, kind))


# -- what several messages hold ------------------------------------------------------------


def _entries(entries: Iterable[LogEntry]) -> list[bytes]:
    return [encode_entry(entry) for entry in entries]


def _read_entries(entries: Iterable[bytes]) -> tuple[LogEntry, ...]:
    try:
        return tuple([decode_entry(raw) for raw in entries])
    except CorruptionError as error:
        raise ValueError(str(error)) from None


def _shape(shape: Shape) -> pb.LogShape:
    starts = [pb.EpochStart(epoch=epoch, first=first) for epoch, first in shape.starts]
    return pb.LogShape(starts=starts, end=shape.end, base=shape.base)


def _read_shape(shape: pb.LogShape) -> Shape:
    starts = tuple((Epoch(start.epoch), start.first) for start in shape.starts)
    return Shape(starts, shape.end, shape.base)


def _handed_over(message: HandedOver) -> Message:
    record = message.record
    return pb.OwnerMessage(
        handed_over=pb.OwnerMessage.HandedOver(
            shard=message.shard,
            revision=message.revision,
            epoch=record.epoch,
            owner=record.owner,
            session=record.session,
            previous=record.previous,
            in_sync=record.in_sync,
            learners=record.learners,
            target=record.target,
            nonce=record.nonce,
            reborn=record.reborn,
            given_up_ms=record.given_up_ms,
            suspects=record.suspects,
        )
    )


def _read_handed_over(message: pb.OwnerMessage.HandedOver) -> HandedOver:
    record = ShardRecord(
        Epoch(message.epoch),
        StoreId(message.owner),
        SessionId(message.session),
        How.HANDOFF,
        tuple(map(StoreId, message.in_sync)),
        tuple(map(StoreId, message.learners)),
        SessionId(message.previous),
        StoreId(message.target),
        message.nonce,
        Epoch(message.reborn),
        message.given_up_ms,
        tuple(map(StoreId, message.suspects)),
    )
    return HandedOver(ShardId(message.shard), record.epoch, message.revision, record)


# -- kinds ---------------------------------------------------------------------------------

_Owner = pb.OwnerMessage
_Follower = pb.FollowerMessage

_OWNER_TO_PB: dict[type, Callable[[Any], Message]] = {
    Register: lambda m: _Owner(register=_Owner.Register(shard=m.shard, epoch=m.epoch)),
    Heartbeat: lambda m: _Owner(heartbeat=_Owner.Heartbeat(number=m.number)),
    Append: lambda m: _Owner(
        append=_Owner.Append(
            shard=m.shard,
            epoch=m.epoch,
            previous_index=m.previous_index,
            previous_epoch=m.previous_epoch,
            entries=_entries(m.entries),
            commit=m.commit,
        )
    ),
    Fetch: lambda m: _Owner(fetch=_Owner.Fetch(shard=m.shard, epoch=m.epoch, after=m.after)),
    SnapshotBegin: lambda m: _Owner(
        snapshot_begin=_Owner.SnapshotBegin(
            shard=m.shard, epoch=m.epoch, shape=_shape(m.shape), hash=m.hash
        )
    ),
    SnapshotRows: lambda m: _Owner(
        snapshot_rows=_Owner.SnapshotRows(
            shard=m.shard,
            epoch=m.epoch,
            rows=[pb.Row(key=key, value=value) for key, value in m.rows],
        )
    ),
    SnapshotEnd: lambda m: _Owner(snapshot_end=_Owner.SnapshotEnd(shard=m.shard, epoch=m.epoch)),
    HandedOver: _handed_over,
    Audit: lambda m: _Owner(
        audit=_Owner.Audit(
            shard=m.shard,
            epoch=m.epoch,
            number=m.number,
            index=m.index,
            start=m.start,
            bytes_max=m.bytes_max,
            bytes_per_s=m.bytes_per_s,
        )
    ),
}

_OWNER_FROM_PB: dict[str, Callable[[Any], FromOwner]] = {
    "register": lambda m: Register(ShardId(m.shard), Epoch(m.epoch)),
    "heartbeat": lambda m: Heartbeat(m.number),
    "append": lambda m: Append(
        ShardId(m.shard),
        Epoch(m.epoch),
        m.previous_index,
        Epoch(m.previous_epoch),
        _read_entries(m.entries),
        m.commit,
    ),
    "fetch": lambda m: Fetch(ShardId(m.shard), Epoch(m.epoch), m.after),
    "snapshot_begin": lambda m: SnapshotBegin(
        ShardId(m.shard), Epoch(m.epoch), _read_shape(m.shape), m.hash
    ),
    "snapshot_rows": lambda m: SnapshotRows(
        ShardId(m.shard), Epoch(m.epoch), tuple((row.key, row.value) for row in m.rows)
    ),
    "snapshot_end": lambda m: SnapshotEnd(ShardId(m.shard), Epoch(m.epoch)),
    "handed_over": _read_handed_over,
    "audit": lambda m: Audit(
        ShardId(m.shard), Epoch(m.epoch), m.number, m.index, m.start, m.bytes_max, m.bytes_per_s
    ),
}

_FOLLOWER_TO_PB: dict[type, Callable[[Any], Message]] = {
    Registered: lambda m: _Follower(
        registered=_Follower.Registered(shard=m.shard, epoch=m.epoch, shape=_shape(m.shape))
    ),
    Refused: lambda m: _Follower(
        refused=_Follower.Refused(shard=m.shard, epoch=m.epoch, seen=m.seen)
    ),
    HeartbeatAck: lambda m: _Follower(heartbeat_ack=_Follower.HeartbeatAck(number=m.number)),
    Appended: lambda m: _Follower(
        appended=_Follower.Appended(shard=m.shard, epoch=m.epoch, index=m.index, hash=m.hash)
    ),
    Mismatch: lambda m: _Follower(
        mismatch=_Follower.Mismatch(shard=m.shard, epoch=m.epoch, shape=_shape(m.shape))
    ),
    Fetched: lambda m: _Follower(
        fetched=_Follower.Fetched(shard=m.shard, epoch=m.epoch, entries=_entries(m.entries))
    ),
    Audited: lambda m: _Follower(
        audited=_Follower.Audited(
            shard=m.shard, epoch=m.epoch, number=m.number, outcome=m.outcome, digest=m.digest
        )
    ),
}

_FOLLOWER_FROM_PB: dict[str, Callable[[Any], FromFollower]] = {
    "registered": lambda m: Registered(ShardId(m.shard), Epoch(m.epoch), _read_shape(m.shape)),
    "refused": lambda m: Refused(ShardId(m.shard), Epoch(m.epoch), Epoch(m.seen)),
    "heartbeat_ack": lambda m: HeartbeatAck(m.number),
    "appended": lambda m: Appended(ShardId(m.shard), Epoch(m.epoch), m.index, m.hash),
    "mismatch": lambda m: Mismatch(ShardId(m.shard), Epoch(m.epoch), _read_shape(m.shape)),
    "fetched": lambda m: Fetched(ShardId(m.shard), Epoch(m.epoch), _read_entries(m.entries)),
    "audited": lambda m: Audited(
        ShardId(m.shard), Epoch(m.epoch), m.number, Outcome(m.outcome), m.digest
    ),
}
