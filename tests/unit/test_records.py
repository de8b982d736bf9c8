"""What is written is read back; what was not written so is corrupt, whatever it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from roost.cluster.ids import request_id
from roost.errors import CorruptionError
from roost.wire.messages import ErrorInfo, Link
from roost_node.core.log import DeleteRange, Head
from roost_node.core.record import Epoch
from roost_node.core.replication.messages import LogEntry
from roost_node.storage import layout, records

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
millis = st.integers(0, 2**48)
DECODERS: list[Callable[[bytes], object]] = [
    records.decode_object,
    records.decode_dedup,
    records.decode_head,
    records.decode_clock,
    records.decode_replica,
    records.decode_entry,
    records.decode_entry_facts,
    records.decode_body,
]


@given(
    st.integers(1, 2**31),
    millis,
    millis,
    st.dictionaries(st.text(), values, max_size=4),
    st.lists(st.text(), max_size=3),
)
def test_an_objects_record_is_read_back(
    version: int, created_ms: int, changed_ms: int, state: dict[str, object], large: list[str]
) -> None:
    fields = {name: msgspec.msgpack.encode(value) for name, value in state.items()}
    raw = records.encode_object(version, created_ms, changed_ms, 77, fields, large)
    found = records.decode_object(raw)
    assert (found.version, found.created_ms, found.changed_ms) == (version, created_ms, changed_ms)
    assert (found.size_bytes, found.large) == (77, large)
    assert {name: bytes(value) for name, value in found.fields.items()} == fields


@given(st.text(), st.binary(), st.binary(), st.integers(0, 1), st.text())
def test_a_calls_record_is_read_back(
    method: str, arguments: bytes, payload: bytes, encoding: int, principal: str
) -> None:
    found = records.decode_dedup(
        records.encode_dedup_ok(method, arguments, payload, encoding, principal)
    )
    assert (found.status, found.payload, found.encoding) == (0, payload, encoding)
    assert (found.principal, found.started, found.error) == (principal, False, None)
    assert found.digest == records.digest_of(method, arguments)


def test_a_failed_calls_record_keeps_the_whole_error() -> None:
    error = ErrorInfo(
        "no room", 2, "Full", b"\x91\x01", "trace", 0.5, (Link("A", "k", "m", b"i"),), True
    )
    found = records.decode_dedup(records.encode_dedup_error("m", b"a", 17, error, "ann"))
    assert (found.status, found.error, found.principal) == (17, error, "ann")
    started = records.decode_dedup(records.encode_dedup_started("m", b"a", "ann"))
    assert started.started
    assert started.digest == found.digest


@given(st.text(), st.text(), st.binary(), st.binary())
@example("a", "a\0", b"\0b", b"b")
def test_two_payloads_have_one_digest_only_where_they_are_equal(
    one: str, two: str, a: bytes, b: bytes
) -> None:
    # A method's name has no NUL in it: it is a Python identifier.
    one, two = one.replace("\0", ""), two.replace("\0", "")
    same = records.digest_of(one, a) == records.digest_of(two, b)
    assert same == ((one, a) == (two, b))


@given(st.integers(0, 2**40), st.integers(0, 2**60), st.binary(max_size=16), millis)
def test_a_head_is_read_back(epoch: int, index: int, running_hash: bytes, log_time_ms: int) -> None:
    raw = records.encode_head(epoch, index, running_hash, log_time_ms)
    assert records.decode_head(raw) == Head(epoch, index, running_hash, log_time_ms)


@given(
    st.integers(0, 2**40),
    st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**60)), max_size=4),
    st.integers(0, 2**60),
    st.binary(max_size=16),
    st.booleans(),
)
def test_a_replicas_record_is_read_back(
    seen: int, starts: list[tuple[int, int]], end: int, running_hash: bytes, installing: bool
) -> None:
    raw = records.encode_replica(seen, starts, end, 5, running_hash, installing=installing)
    found = records.decode_replica(raw)
    assert (found.seen, found.starts, found.end, found.base) == (seen, tuple(starts), end, 5)
    assert (found.hash, found.installing) == (running_hash, installing)


@given(st.integers(0, 2**40), st.integers(0, 2**60), st.binary(max_size=16), millis, st.binary())
def test_an_entry_is_read_back(
    epoch: int, index: int, running_hash: bytes, log_time_ms: int, body: bytes
) -> None:
    entry = LogEntry(Epoch(epoch), index, Epoch(3), running_hash, log_time_ms, body)
    raw = records.encode_entry(entry)
    assert records.decode_entry(raw) == entry
    facts = records.decode_entry_facts(raw)
    assert (facts.epoch, facts.index, facts.hash) == (epoch, index, running_hash)


@given(
    st.dictionaries(st.binary(), st.none() | st.binary(), max_size=5),
    st.lists(st.builds(DeleteRange, st.binary(), st.binary()), max_size=3),
)
def test_the_writes_of_an_entry_are_read_back_in_order(
    rows: dict[bytes, bytes | None], ranges: list[DeleteRange]
) -> None:
    found, found_ranges = records.decode_body(records.encode_body(rows, ranges))
    assert list(found.items()) == list(rows.items())
    assert list(found_ranges) == ranges


def test_the_first_entry_of_an_epoch_writes_nothing() -> None:
    assert records.decode_body(b"") == ({}, ())


@given(millis)
def test_the_clock_is_read_back(now_ms: int) -> None:
    assert records.decode_clock(records.encode_clock(now_ms)) == now_ms


@given(st.binary(max_size=40) | st.binary(max_size=30).map(lambda raw: b"\x97\x01" + raw))
@example(b"\x97\x01\x01\x01\x01\x01\x81\xa1\xff\x01\x90")  # a name that is not UTF-8
def test_bytes_that_are_no_record_are_corrupt_and_nothing_worse(raw: bytes) -> None:
    for decode in DECODERS:
        with contextlib.suppress(CorruptionError):
            decode(raw)


@pytest.mark.parametrize("decode", DECODERS)
def test_a_record_of_a_newer_format_says_so(decode: Callable[[bytes], object]) -> None:
    newer: dict[object, object] = {
        records.decode_object: [2, 1, 1, 1, 1, {}],
        records.decode_dedup: [2, 0, b"", 0, b"", ""],
        records.decode_head: [2, 1, 1, b"", 1],
        records.decode_clock: [2, 1],
        records.decode_replica: [2, 1, [], 1, 1, b""],
        records.decode_entry: [2, 1, 1, 1, b"", 1, b""],
        records.decode_entry_facts: [2, 1, 1, 1, b"", 1, b""],
        records.decode_body: [2, {}, []],
    }
    with pytest.raises(CorruptionError, match="newer build"):
        decode(msgspec.msgpack.encode(newer[decode]))


@pytest.mark.parametrize("decode", [each for each in DECODERS if each != records.decode_clock])
def test_a_record_with_a_field_more_at_its_end_is_read(decode: Callable[[bytes], object]) -> None:
    longer: dict[object, object] = {
        records.decode_object: [1, 1, 1, 1, 1, {}, [], "later"],
        records.decode_dedup: [1, 0, b"", 0, b"", "", False, None, "later"],
        records.decode_head: [1, 1, 1, b"", 1, "later"],
        records.decode_replica: [1, 1, [], 1, 1, b"", False, "later"],
        records.decode_entry: [1, 1, 1, 1, b"", 1, b"", "later"],
        records.decode_entry_facts: [1, 1, 1, 1, b"", 1, b"", "later"],
        records.decode_body: [1, {}, [], "later"],
    }
    decode(msgspec.msgpack.encode(longer[decode]))


def test_a_request_is_found_under_its_first_sent_minute() -> None:
    group = layout.object_id("Counter", "a")
    request = request_id(60_000 * 7 + 59_999, 5)
    key = layout.dedup_key(3, 7, group, request)
    rows = {key: records.encode_dedup_ok("m", b"", b"r", 0, "")}
    found = records.find_dedup(lambda _, k: rows.get(k), 3, group, request)
    assert found is not None
    assert found.payload == b"r"
    other = request_id(60_000 * 8, 5)
    assert records.find_dedup(lambda _, k: rows.get(k), 3, group, other) is None
