"""The router's door: what goes through it unopened arrives unchanged but for the id."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.cluster.ids import HASH_NAME
from roost.cluster.shard_map import Shape, ShardRecord
from roost.errors import InvalidArgumentError
from roost.v1 import admin_pb2, objects_pb2, types_pb2
from roost_router.core.admission import Admission
from roost_router.core.calls import Client, Kind, Link, Sent
from roost_router.core.forward import Forwarder
from roost_router.core.table import Table
from roost_router.frames import (
    BATCH_BYTES,
    DEADLINE_DEFAULT_MS,
    DEADLINE_MAX_MS,
    PlainWords,
    client_frames,
    closed_error,
    server_frames,
    take_client_frame,
)
from roost_router.operators import merge_pages

NOW_MS = 1_700_000_000_000


def through(frame: objects_pb2.ClientFrame) -> list[objects_pb2.ClientFrame]:
    """What a node gets of it."""
    table = Table()
    table.on_shape(Shape("c", HASH_NAME, b"", 1))
    core = Forwarder(
        table, Admission(1000, 2**30), PlainWords(), lambda: 0.5, lambda a: Link(a, lambda: None)
    )
    core.on_news([ShardRecord(0, 1, "s", "a")])
    core.on_link_open(core.links["a"])
    client = Client(lambda: None)
    take_client_frame(frame.SerializeToString(), client, core, table, NOW_MS)
    sent = core.links["a"].take()
    return [objects_pb2.ClientFrame.FromString(raw) for raw in client_frames(sent)]


@given(st.integers(0, 2**63), st.text(), st.binary(), st.integers(1, 2**63), st.integers(0, 2**62))
def test_a_call_arrives_as_it_was_but_for_its_id(
    number: int, name: str, arguments: bytes, deadline: int, stub: int
) -> None:
    call = objects_pb2.Call(
        id=number, class_name=name, key=name, method="m", arguments=arguments, request_id=b"r" * 16,
        deadline_ms=min(deadline, NOW_MS + DEADLINE_MAX_MS), stub_id=stub, sequence=3, oldest=2,
        credit=1,
    )  # fmt: skip
    (frame,) = through(objects_pb2.ClientFrame(calls=[call]))
    (arrived,) = frame.calls
    assert arrived.id == 1
    arrived.id = call.id
    assert arrived == call


def test_a_call_without_a_deadline_gets_one_that_all_its_attempts_share() -> None:
    calls = [objects_pb2.Call(id=1), objects_pb2.Call(id=2, deadline_ms=2**63)]
    (frame,) = through(objects_pb2.ClientFrame(calls=calls))
    assert [call.deadline_ms - NOW_MS for call in frame.calls] == [
        DEADLINE_DEFAULT_MS,
        DEADLINE_MAX_MS,
    ]


def test_everything_that_a_client_says_is_passed_on() -> None:
    frame = objects_pb2.ClientFrame(
        calls=[objects_pb2.Call(id=5, credit=3), objects_pb2.Call(id=6)],
        cancels=[objects_pb2.Cancel(id=6)],
        skips=[objects_pb2.Skip(class_name="C", key="k", stub_id=9, sequence=4)],
        credits=[objects_pb2.Credit(id=5, items=7)],
        queries=[objects_pb2.OutcomeQuery(id=8, class_name="C", key="k", request_id=b"r" * 16)],
    )
    (arrived,) = through(frame)
    assert [call.id for call in arrived.calls] == [1, 2]
    assert [cancel.id for cancel in arrived.cancels] == [2]
    assert list(arrived.skips) == list(frame.skips)
    assert [(credit.id, credit.items) for credit in arrived.credits] == [(1, 7)]
    (query,) = arrived.queries
    assert (query.id, query.request_id) == (3, b"r" * 16)


def test_bytes_that_are_no_frame_do_not_pass() -> None:
    whole = objects_pb2.ClientFrame(calls=[objects_pb2.Call(class_name="x" * 40)])
    raw = whole.SerializeToString()
    broken = raw.replace(b"xxxx", b"\xff\xff\xff\xff", 1)  # a call whose text is not UTF-8
    for bad in (raw[:-1], broken):
        with pytest.raises(InvalidArgumentError):
            take_client_frame(bad, Client(lambda: None), None, None, 0)  # type: ignore[arg-type]  # never reached


def test_another_oldest_replaces_the_one_in_the_bytes() -> None:
    body = objects_pb2.Call(id=9, oldest=3, sequence=8).SerializeToString()
    (raw,) = client_frames([Sent(Kind.CALL, 300, body, 7)])
    (call,) = objects_pb2.ClientFrame.FromString(raw).calls
    assert (call.id, call.oldest, call.sequence) == (300, 7, 8)


def test_answers_come_back_in_frames_that_a_client_takes() -> None:
    big = objects_pb2.Reply(id=7, payload=b"x" * (BATCH_BYTES // 2), epoch=4).SerializeToString()
    item = objects_pb2.Item(id=1, payload=b"i").SerializeToString()
    sent = [Sent(Kind.ITEM, 500, item), *(Sent(Kind.REPLY, n, big) for n in range(4))]
    frames = list(server_frames(sent))
    assert len(frames) > 1
    assert sum(size for _, size in frames) == sum(len(m.body) + 32 for m in sent)
    parsed = [objects_pb2.ServerFrame.FromString(raw) for raw, _ in frames]
    assert [item.id for frame in parsed for item in frame.items] == [500]
    replies = [reply for frame in parsed for reply in frame.replies]
    assert [(reply.id, reply.epoch) for reply in replies] == [(n, 4) for n in range(4)]


def test_a_traceback_stays_inside() -> None:
    reply = objects_pb2.Reply(id=1, status=16)  # type: ignore[arg-type]  # OBJECT_ERROR
    reply.error.message, reply.error.traceback = "m", "secret"
    left = objects_pb2.Reply.FromString(closed_error(reply))
    assert (left.error.message, left.error.traceback) == ("m", "")


def page(positions: list[int], owner: str, *, more: bool) -> admin_pb2.ListObjectsReply:
    objects = [admin_pb2.ObjectInfo(position=bytes([p]), owner=owner) for p in positions]
    return admin_pb2.ListObjectsReply(objects=objects, next_page_token=b"more" if more else b"")


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 7),
)
def test_pages_of_all_nodes_merge_to_one_list_without_gaps_or_repeats(
    placed: list[tuple[int, bool]], limit: int
) -> None:
    """Object n is at node `placed[n][0]`, and a stale copy at node 0 where the flag says so."""
    shelves = [
        [n for n, (node, stale) in enumerate(placed) if node == number or (stale and number == 0)]
        for number in range(3)
    ]
    token = -1
    seen: list[int] = []
    while True:
        pages = []
        for number, shelf in enumerate(shelves):
            rest = [n for n in shelf if n > token]
            pages.append(page(rest[:limit], f"{number}", more=len(rest) > limit))
        merged = merge_pages(
            pages, limit, lambda info: info.owner == f"{placed[info.position[0]][0]}", shards=16
        )
        assert len(merged.objects) <= limit
        for info in merged.objects:
            assert info.owner == f"{placed[info.position[0]][0]}"
            seen.append(info.position[0])
        if not merged.next_page_token:
            break
        token = merged.next_page_token[0]
    assert seen == list(range(len(placed)))


def test_what_no_node_owns_is_not_in_the_list() -> None:
    pages = [admin_pb2.ListObjectsReply(unlisted=unlisted) for unlisted in ([1, 2, 7], [0, 2, 7])]
    assert merge_pages(pages, 10, lambda info: True, shards=8).unlisted == [2, 7]
    assert merge_pages([], 10, lambda info: True, shards=3).unlisted == [0, 1, 2]


def test_a_refusal_that_says_maybe_says_all_else_as_before() -> None:
    refusal = objects_pb2.Reply(
        status=types_pb2.OVERLOADED,
        epoch=7,
        error=types_pb2.Error(message="full", type="OverloadedError", retry_after_s=0.5),
    )
    told = objects_pb2.Reply.FromString(PlainWords().unsure(refusal.SerializeToString()))
    assert told.error.took_effect == types_pb2.MAYBE
    told.error.ClearField("took_effect")
    assert told == refusal
