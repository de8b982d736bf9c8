"""Every value in the database: msgpack arrays whose first element is the record's format.

A reader accepts its own format and older ones; fields are only ever added at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import msgspec

from roost.cluster.ids import first_sent_ms
from roost.errors import CorruptionError
from roost.wire.messages import ErrorInfo
from roost_node.core.dedup import minute_of
from roost_node.core.log import DeleteRange, Head, Rows
from roost_node.core.record import Epoch
from roost_node.core.replication.messages import LogEntry
from roost_node.storage import layout

FORMAT = 1
DIGEST_BYTES = 32
PAYLOAD_BYTES_MAX = 31  # below the size of a hash, so no payload can pass for one


class ObjectRecord(msgspec.Struct, array_like=True, gc=False):
    """What is kept of an object: metadata, small fields (encoded), names of large ones."""

    format: int
    version: int  # of the class that stored it
    created_ms: int
    changed_ms: int
    size_bytes: int
    fields: dict[str, msgspec.Raw]
    large: list[str] = []


class DedupRecord(msgspec.Struct, array_like=True, gc=False):
    """What is kept of a call that wrote: enough to answer it again."""

    format: int
    status: int
    payload: bytes
    encoding: int
    digest: bytes  # of method and arguments
    principal: str
    started: bool = False  # an interleaving call that has committed a stretch and not ended
    error: ErrorInfo | None = None


class HeadRecord(msgspec.Struct, array_like=True, gc=False):
    """Where a shard's log stands."""

    format: int
    epoch: int
    index: int
    hash: bytes
    log_time_ms: int


class ReplicaRecord(msgspec.Struct, array_like=True, gc=False):
    """What a store knows of its copy of a shard: written with the entries that it speaks of."""

    format: int
    seen: int  # the highest epoch: lower ones are refused for good (O7)
    starts: tuple[tuple[int, int], ...]  # (epoch, index of its first entry)
    end: int  # index of the last entry
    base: int  # entries up to here are in the state only
    hash: bytes  # running hash at the end
    installing: bool = False  # a snapshot is under way: the store counts as empty of it (M7)


class EntryRecord(msgspec.Struct, array_like=True, gc=False):
    """One entry of a replicated shard's log."""

    format: int
    epoch: int
    index: int
    previous_epoch: int
    hash: bytes
    log_time_ms: int
    body: bytes


class EntryFacts(msgspec.Struct, array_like=True, gc=False):
    """The beginning of an entry's record: what a start needs to know."""

    format: int
    epoch: int
    index: int
    previous_epoch: int
    hash: bytes


class _Body(msgspec.Struct, array_like=True, gc=False):
    format: int
    rows: dict[bytes, bytes | None]
    ranges: list[tuple[bytes, bytes]]


_encode = msgspec.msgpack.Encoder().encode
_decode_object = msgspec.msgpack.Decoder(ObjectRecord).decode
_decode_dedup = msgspec.msgpack.Decoder(DedupRecord).decode
_decode_head = msgspec.msgpack.Decoder(HeadRecord).decode
_decode_replica = msgspec.msgpack.Decoder(ReplicaRecord).decode
_decode_entry = msgspec.msgpack.Decoder(EntryRecord).decode
_decode_facts = msgspec.msgpack.Decoder(EntryFacts).decode
_decode_body = msgspec.msgpack.Decoder(_Body).decode


def encode_object(
    version: int,
    created_ms: int,
    changed_ms: int,
    size_bytes: int,
    fields: Mapping[str, bytes],
    large: Sequence[str] = (),
) -> bytes:
    """An object's record; `fields` are encoded values."""
    raw = {name: msgspec.Raw(value) for name, value in fields.items()}
    return _encode((FORMAT, version, created_ms, changed_ms, size_bytes, raw, large))


def decode_object(raw: bytes) -> ObjectRecord:
    """Raises CorruptionError when it is not one, or of a newer format."""
    try:
        record = _decode_object(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptionError(f"an object's record cannot be read: {error}") from None
    _check(record.format, "object")
    return record


def digest_of(method: str, arguments: bytes) -> bytes:
    """What tells two payloads of one request id apart: itself where it is short, else a hash."""
    payload = b"%b\0%b" % (method.encode(), arguments)
    if len(payload) <= PAYLOAD_BYTES_MAX:
        return payload  # costs 0.2 us, a hash 0.9
    return blake2b(payload, digest_size=DIGEST_BYTES).digest()


def encode_dedup_ok(
    method: str, arguments: bytes, payload: bytes, encoding: int, principal: str
) -> bytes:
    """The record of a call that returned."""
    return _encode((FORMAT, 0, payload, encoding, digest_of(method, arguments), principal))


def encode_dedup_error(
    method: str, arguments: bytes, status: int, error: ErrorInfo, principal: str
) -> bytes:
    """The record of a call that failed after something of it was committed."""
    digest = digest_of(method, arguments)
    return _encode((FORMAT, status, b"", 0, digest, principal, False, error))


def encode_dedup_started(method: str, arguments: bytes, principal: str) -> bytes:
    """The record of an interleaving call in its first entry."""
    return _encode((FORMAT, 0, b"", 0, digest_of(method, arguments), principal, True))


def decode_dedup(raw: bytes) -> DedupRecord:
    """Raises CorruptionError when it is not one, or of a newer format."""
    try:
        record = _decode_dedup(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptionError(f"the record of a call cannot be read: {error}") from None
    _check(record.format, "dedup")
    return record


def find_dedup(
    get: Callable[[bytes, bytes], bytes | None], shard: int, group: bytes, request_id: bytes
) -> DedupRecord | None:
    """Look a request up; `get` takes group and key."""
    minute = minute_of(first_sent_ms(request_id))
    raw = get(group, layout.dedup_key(shard, minute, group, request_id))
    return decode_dedup(raw) if raw is not None else None


def encode_head(epoch: int, index: int, running_hash: bytes, log_time_ms: int) -> bytes:
    """Where a shard's log stands."""
    return _encode((FORMAT, epoch, index, running_hash, log_time_ms))


def decode_head(raw: bytes) -> Head:
    """Raises CorruptionError when it is not one, or of a newer format."""
    try:
        record = _decode_head(raw)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"a shard's head cannot be read: {error}") from None
    _check(record.format, "head")
    return Head(record.epoch, record.index, record.hash, record.log_time_ms)


def encode_replica(
    seen: int,
    starts: Sequence[tuple[int, int]],
    end: int,
    base: int,
    running_hash: bytes,
    *,
    installing: bool,
) -> bytes:
    """What a store knows of its copy of a shard."""
    return _encode((FORMAT, seen, starts, end, base, running_hash, installing))


def decode_replica(raw: bytes) -> ReplicaRecord:
    """Raises CorruptionError when it is not one, or of a newer format."""
    try:
        record = _decode_replica(raw)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"a replica's record cannot be read: {error}") from None
    _check(record.format, "replica")
    return record


def encode_entry(entry: LogEntry) -> bytes:
    """One entry of a log."""
    return _encode(
        (
            FORMAT,
            entry.epoch,
            entry.index,
            entry.previous_epoch,
            entry.hash,
            entry.log_time_ms,
            entry.body,
        )
    )


def decode_entry(raw: bytes) -> LogEntry:
    """Raises CorruptionError when it is not one, or of a newer format."""
    try:
        record = _decode_entry(raw)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"an entry of a log cannot be read: {error}") from None
    _check(record.format, "entry")
    return LogEntry(
        Epoch(record.epoch),
        record.index,
        Epoch(record.previous_epoch),
        record.hash,
        record.log_time_ms,
        record.body,
    )


def decode_entry_facts(raw: bytes) -> EntryFacts:
    """An entry without its body. Raises CorruptionError like `decode_entry`."""
    try:
        facts = _decode_facts(raw)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"an entry of a log cannot be read: {error}") from None
    _check(facts.format, "entry")
    return facts


def encode_body(rows: Rows, ranges: Sequence[DeleteRange]) -> bytes:
    """What an entry writes: first its ranges are deleted, then its rows written, in this order.

    Keys are whole, shard first: a replica applies them as they are.
    """
    return _encode((FORMAT, rows, [(deleted.start, deleted.end) for deleted in ranges]))


def decode_body(raw: bytes) -> tuple[Rows, Sequence[DeleteRange]]:
    """The writes of an entry; none for the first entry of an epoch, whose body is empty."""
    if not raw:
        return {}, ()
    try:
        body = _decode_body(raw)
    except msgspec.DecodeError as error:
        raise CorruptionError(f"the writes of an entry cannot be read: {error}") from None
    _check(body.format, "body")
    return body.rows, tuple(DeleteRange(start, end) for start, end in body.ranges)


def encode_generation(generation: int) -> bytes:
    """The cluster's generation."""
    return _encode((FORMAT, generation))


def decode_generation(raw: bytes) -> int:
    """Raises CorruptionError when it is not that."""
    try:
        found, generation = msgspec.msgpack.decode(raw, type=tuple[int, int])
    except msgspec.DecodeError as error:
        raise CorruptionError(f"the generation's record cannot be read: {error}") from None
    _check(found, "generation")
    return generation


def encode_clock(now_ms: int) -> bytes:
    """How far server time has come."""
    return _encode((FORMAT, now_ms))


def decode_clock(raw: bytes) -> int:
    """Raises CorruptionError when it is not that."""
    try:
        found, now_ms = msgspec.msgpack.decode(raw, type=tuple[int, int])
    except msgspec.DecodeError as error:
        raise CorruptionError(f"the clock's record cannot be read: {error}") from None
    _check(found, "clock")
    return now_ms


def _check(found: int, what: str) -> None:
    if not 1 <= found <= FORMAT:
        raise CorruptionError(
            f"a record ({what}) has format {found}, this build reads up to {FORMAT}: was the data "
            f"written by a newer build?"
        )
