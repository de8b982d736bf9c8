"""The router's cores, with plain values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.cluster.ids import HASH_NAME
from roost.cluster.shard_map import Shape, ShardRecord
from roost.errors import RoostError
from roost.wire.messages import ErrorInfo, Status
from roost_router.core.admission import Admission
from roost_router.core.calls import FINISHED_MAX, Client, Forwarded, Kind, Link, Sent, Stub
from roost_router.core.clock import ServerTime
from roost_router.core.forward import ANSWER_SLACK_MS, EARLIER_MAX, Forwarder
from roost_router.core.retry import (
    PAUSE_MS_MAX,
    PAUSE_MS_MIN,
    TRIES_IN_ORDER,
    Verdict,
    pause_ms,
    verdict,
)
from roost_router.core.table import Table

SHAPE = Shape("c", HASH_NAME, b"", 4)


class Words:
    def reply(self, status: Status, info: ErrorInfo) -> bytes:
        return f"{status.name} {info.took_effect} {info.message}".encode()

    outcome = reply

    def name(self, body: bytes) -> str:
        return body.decode()

    def unsure(self, refusal: bytes) -> bytes:
        return b"maybe: " + refusal


class Rig:
    """A forwarder with links that keep what was sent."""

    def __init__(self, calls_max: int = 100) -> None:
        self.table = Table()
        self.table.on_shape(SHAPE)
        self.core = Forwarder(
            self.table,
            Admission(calls_max, 2**20),
            Words(),
            lambda: 0.5,
            lambda address: Link(address, lambda: None),
        )
        self.client = Client(lambda: None)

    def own(self, address: str, epoch: int = 1, *, up: bool = True) -> Link:
        self.core.on_news([ShardRecord(shard, epoch, "s", address) for shard in range(4)])
        link = self.core.links[address]
        if up and not link.is_open:
            self.core.on_link_open(link)
        return link

    def call(self, number: int, shard: int = 0, kind: Kind = Kind.CALL) -> Forwarded:
        call = Forwarded(
            self.client, kind, number, b"call %d" % number, shard, 1000, 7, number, oldest=1
        )
        self.core.on_call(call)
        return call

    def reply(self, link: Link, sent: Sent, status: int = 0, epoch: int = 0, now: int = 0) -> None:
        self.core.on_reply(link, sent.id, status, epoch, b"answer", now)


def calls(sent: list[Sent]) -> list[bytes]:
    return [message.body for message in sent if message.kind <= Kind.STREAM]


def test_a_call_goes_to_the_owner_and_its_answer_comes_back_under_its_own_id() -> None:
    rig = Rig()
    link = rig.own("a")
    rig.call(40)
    (sent,) = link.take()
    rig.reply(link, sent)
    assert rig.client.take() == [Sent(Kind.REPLY, 40, b"answer")]
    assert rig.core.is_idle


def test_calls_wait_for_an_owner_and_leave_in_the_order_in_which_they_came() -> None:
    rig = Rig()
    link = rig.own("a", up=False)
    for number in (3, 1, 2):
        rig.call(number, shard=number % 2)
    assert rig.core.parked_count == 3
    rig.core.on_link_open(link)
    assert calls(link.take()) == [b"call 3", b"call 1", b"call 2"]
    assert rig.core.parked_count == 0


def test_a_broken_link_sends_what_is_unfinished_again_and_says_what_is_finished() -> None:
    rig = Rig()
    link = rig.own("a")
    for number in (1, 2, 3):
        rig.call(number)
    first, second, _ = link.take()
    rig.reply(link, first)
    rig.core.on_link_lost(link)
    rig.core.on_link_open(link)
    again = link.take()
    assert calls(again) == [b"call 2", b"call 3"]
    # The first is answered: an owner that does not know the stub is not to wait for it.
    assert [message.number for message in again] == [2, 2]
    assert not {message.id for message in again} & {second.id}, "an id is never used twice"


def test_a_draining_node_gets_nothing_new_and_what_it_has_may_end_there() -> None:
    rig = Rig()
    link = rig.own("a")
    rig.call(1)
    (sent,) = link.take()
    rig.core.on_link_leaving(link)
    rig.call(2)
    assert link.take() == []
    rig.reply(link, sent)
    assert [answer.id for answer in rig.client.take()] == [1]
    other = rig.own("b", epoch=2)
    assert calls(other.take()) == [b"call 2"]


def test_a_call_follows_its_shard_and_the_first_answer_counts() -> None:
    rig = Rig()
    old = rig.own("a")
    rig.call(1)
    (first,) = old.take()
    new = rig.own("b", epoch=2)
    (second,) = new.take()
    assert second.body == b"call 1"
    rig.reply(old, first)  # R2, R3: whatever was released is true
    rig.reply(new, second)
    assert len(rig.client.take()) == 1
    assert not old.attempts
    assert not new.attempts


def test_a_final_error_takes_the_other_attempts_back_first() -> None:
    rig = Rig()
    old = rig.own("a")
    rig.call(1)
    (first,) = old.take()
    new = rig.own("b", epoch=2)
    rig.reply(new, new.take()[0], status=Status.OBJECT_ERROR)
    assert old.take() == [Sent(Kind.CANCEL, first.id)]


def test_old_news_changes_no_way() -> None:
    rig = Rig()
    new = rig.own("b", epoch=2)
    rig.core.on_news([ShardRecord(0, 1, "s", "a", change=9)])
    rig.call(1)
    assert calls(new.take()) == [b"call 1"]


def test_the_epoch_of_an_answer_is_news() -> None:
    rig = Rig()
    first = rig.own("a")
    rig.call(1)
    (sent,) = first.take()
    second = rig.own("b", epoch=2)
    second.take()
    rig.reply(first, sent, epoch=3)  # it took the shard back, and the map does not know yet
    rig.call(2)
    assert calls(first.take()) == [b"call 2"]
    assert calls(second.take()) == []


def test_not_owner_waits_for_a_better_map_or_a_pause() -> None:
    rig = Rig()
    link = rig.own("a")
    rig.call(1)
    rig.reply(link, link.take()[0], status=Status.NOT_OWNER, now=100)
    assert rig.client.take() == []
    rig.core.on_tick(100)
    assert link.take() == []
    rig.core.on_tick(200)
    assert calls(link.take()) == [b"call 1"]
    rig.core.on_news([ShardRecord(0, 2, "s2", "b")])
    rig.core.on_link_open(rig.core.links["b"])
    assert calls(rig.core.links["b"].take()) == [b"call 1"]


def test_refused_calls_follow_news_at_once_and_in_order_and_pauses_begin_anew() -> None:
    rig = Rig()
    link = rig.own("a")
    for number in (1, 2, 3):
        rig.call(number)
    now = 0
    for _ in range(4):  # the pause has grown long
        for sent in link.take():
            rig.reply(link, sent, status=Status.NOT_OWNER, now=now)
        now += 200
        rig.core.on_tick(now)
    for sent in reversed(link.take()):
        rig.reply(link, sent, status=Status.NOT_OWNER, now=now)
    other = rig.own("b", epoch=2)
    attempts = other.take()
    assert calls(attempts) == [b"call 1", b"call 2", b"call 3"]
    for sent in attempts:  # it is not the owner yet: soon it will be
        rig.reply(other, sent, status=Status.NOT_OWNER, now=now)
    rig.core.on_tick(now + 2 * PAUSE_MS_MIN + 10)
    assert calls(other.take()) == [b"call 1", b"call 2", b"call 3"]
    for call in list(rig.client.calls.values()):
        rig.core.on_cancel(rig.client, call.id)
    assert rig.core.paused_count == 0


def test_a_deadline_ends_a_call_that_was_never_sent_as_one_without_effect() -> None:
    rig = Rig()
    rig.own("a", up=False)
    rig.call(1)
    rig.core.on_tick(1000 + ANSWER_SLACK_MS - 10)
    assert rig.client.take() == []
    rig.core.on_tick(1000 + ANSWER_SLACK_MS + 10)
    (answer,) = rig.client.take()
    assert answer.body.startswith(b"DEADLINE_EXCEEDED 0")
    assert rig.core.parked_count == 0


def test_a_deadline_takes_an_attempt_back_before_it_is_told_and_does_not_claim_to_know() -> None:
    rig = Rig()
    link = rig.own("a")
    rig.call(1)
    (sent,) = link.take()
    rig.core.on_tick(1000 + ANSWER_SLACK_MS + 10)
    assert link.take() == [Sent(Kind.CANCEL, sent.id)]
    (answer,) = rig.client.take()
    assert answer.body.startswith(b"DEADLINE_EXCEEDED 1")


def test_a_stream_of_which_items_came_ends_by_its_deadline_and_not_by_its_owners_silence() -> None:
    rig = Rig()
    link = rig.own("a")
    rig.call(1, kind=Kind.STREAM)
    (sent,) = link.take()
    rig.core.on_item(link, sent.id, b"item")
    rig.core.on_tick(1000 + ANSWER_SLACK_MS + 10)
    _, answer = rig.client.take()
    assert answer.body == b"DEADLINE_EXCEEDED 1 the deadline of call 1 passed"


def test_an_attempt_that_was_lost_may_have_had_its_effect() -> None:
    rig = Rig()
    link = rig.own("a")
    rig.call(1)
    rig.core.on_link_lost(link)
    rig.core.on_tick(1000 + ANSWER_SLACK_MS + 10)
    (answer,) = rig.client.take()
    assert answer.body.startswith(b"DEADLINE_EXCEEDED 1")


REFUSALS = (Status.OVERLOADED, Status.DISK_FULL, Status.DEADLINE_EXCEEDED)


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_says_nothing_of_an_attempt_that_was_lost_or_is_under_way(status: Status) -> None:
    for is_lost in (True, False):
        rig = Rig()
        first = rig.own("a")
        rig.call(1)
        (sent,) = first.take()
        if is_lost:
            rig.core.on_link_lost(first)
        second = rig.own("b", epoch=2)
        rig.reply(second, second.take()[0], status)
        (answer,) = rig.client.take()
        assert answer.body == b"maybe: answer"
        assert first.take() == (
            [Sent(Kind.CANCEL, sent.id)]
            if status is Status.DEADLINE_EXCEEDED and not is_lost
            else []
        )


@pytest.mark.parametrize("status", REFUSALS)
def test_the_refusal_of_the_only_attempt_is_told_as_it_is(status: Status) -> None:
    rig = Rig()
    link = rig.own("a")
    rig.call(1)
    rig.reply(link, link.take()[0], status)
    assert rig.client.take() == [Sent(Kind.REPLY, 1, b"answer")]


def test_an_attempt_that_was_forgotten_may_have_had_its_effect() -> None:
    rig = Rig()
    rig.call(1)
    attempts = []
    for epoch in range(1, EARLIER_MAX + 3):  # the shard moves on and on, and nobody answers
        link = rig.own(f"node-{epoch}", epoch)
        attempts += [(link, sent) for sent in link.take()]
    for link, sent in attempts:
        rig.reply(link, sent, Status.NOT_OWNER, now=900)
    rig.core.on_tick(1000 + ANSWER_SLACK_MS + 10)
    (answer,) = rig.client.take()
    assert answer.body.startswith(b"DEADLINE_EXCEEDED 1")


def test_a_stream_breaks_once_items_have_arrived_and_begins_anew_before() -> None:
    rig = Rig()
    link = rig.own("a")
    rig.call(1, kind=Kind.STREAM)
    rig.call(2, kind=Kind.STREAM)
    first, _ = link.take()
    rig.core.on_item(link, first.id, b"item")
    rig.core.on_link_lost(link)
    item, broken = rig.client.take()
    assert item == Sent(Kind.ITEM, 1, b"item")
    assert broken.body.startswith(b"OUTCOME_UNKNOWN 1")
    rig.core.on_link_open(link)
    assert calls(link.take()) == [b"call 2"]


def test_a_client_that_hangs_up_leaves_nothing_behind_but_its_calls_at_their_owners() -> None:
    rig = Rig()
    link = rig.own("a")
    rig.call(1)
    rig.call(2, kind=Kind.STREAM)
    _, stream = link.take()
    rig.core.on_client_gone(rig.client)
    assert link.take() == [Sent(Kind.CANCEL, stream.id)]
    assert rig.core.is_idle
    assert not link.attempts


def test_behind_a_call_without_room_its_stub_is_refused_until_it_comes_again() -> None:
    rig = Rig(calls_max=1)
    link = rig.own("a")
    rig.call(1)
    rig.call(2)
    rig.reply(link, link.take()[0])
    rig.call(3)  # there is room, and it would wait for 2 in it
    refused = rig.client.take()
    assert [(m.id, m.body.split()[0]) for m in refused] == [
        (2, b"OVERLOADED"), (1, b"answer"), (3, b"OVERLOADED"),
    ]  # fmt: skip
    rig.call(2)
    assert calls(link.take()) == [b"call 2"]


def test_what_has_to_do_with_where_is_solved_here_and_the_rest_is_told() -> None:
    for status in Status:
        decided = verdict(status, 1, in_order=True, is_final=False)
        if status in (Status.NOT_OWNER, Status.UNAVAILABLE):
            assert decided is Verdict.AGAIN
        elif status in (Status.OVERLOADED, Status.DISK_FULL, Status.OUTCOME_UNKNOWN):
            assert decided is Verdict.BACK
        else:
            assert decided is Verdict.FINAL
        assert verdict(status, 1, in_order=True, is_final=True) is Verdict.FINAL
    assert (
        verdict(Status.UNAVAILABLE, TRIES_IN_ORDER, in_order=True, is_final=False) is Verdict.BACK
    )
    assert verdict(Status.UNAVAILABLE, 1000, in_order=False, is_final=False) is Verdict.AGAIN


def test_pauses_grow_to_a_bound() -> None:
    pauses = [pause_ms(tries, 0.5) for tries in range(1, 100)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_MS_MAX


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 40))
def test_what_a_call_says_is_finished_never_passes_an_unfinished_one(
    finished: list[int], sequence: int
) -> None:
    stub = Stub()
    for one in finished:
        stub.finish(one)
    said = stub.oldest(1, sequence)
    assert said <= sequence
    assert set(range(1, said)) <= set(finished)


def test_what_is_remembered_of_a_stub_is_bounded() -> None:
    stub = Stub()
    stub.on_call(1)  # a caller that never says that anything has ended
    for sequence in range(2, 3 * FINISHED_MAX):
        stub.finish(sequence)
    assert len(stub._finished) <= FINISHED_MAX


def test_a_router_serves_one_cluster() -> None:
    table = Table()
    table.on_shape(SHAPE)
    table.on_shape(SHAPE)
    with pytest.raises(RoostError, match="one cluster"):
        table.on_shape(Shape("other", HASH_NAME, b"", 4))


def test_server_time_follows_the_nodes_and_never_stands_still_nor_runs_back() -> None:
    clock = ServerTime()
    clock.on_hello(1_000_000, 500)
    assert clock.now_ms(600) == 1_000_100
    clock.on_hello(999_000, 600)
    assert clock.now_ms(680) == 1_000_170, "a retry after 80 ms must not wait for 1.1 s"
    assert [clock.now_ms(681 + n) for n in range(8)][-1] == 1_000_177, "however often it is asked"
    assert clock.now_ms(60_600) == 1_059_000, "it has been caught up with"
    clock.on_hello(1_100_000, 60_600)
    assert clock.now_ms(60_601) == 1_100_001
