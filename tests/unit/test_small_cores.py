"""Cores that fit a few tests each: deadlines, answers and ages, eviction, admission."""

from __future__ import annotations

from roost.wire.deadlines import BUCKET_MS, Deadlines
from roost_node.core.admission import Admission
from roost_node.core.clock import ServerClock
from roost_node.core.dedup import Age, Answers, age_of, droppable_before, minute_of
from roost_node.core.eviction import EvictionRing
from roost_node.core.log import DEDUP_WINDOW_MS

NOW = 10_000_000


def test_a_deadline_is_due_soon_after_its_time_and_never_before() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("a", 1001)
    assert deadlines.due(1000) == []
    assert deadlines.due(1001 + BUCKET_MS) == ["a"]
    assert len(deadlines) == 0


def test_a_discarded_deadline_is_gone() -> None:
    deadlines: Deadlines[str] = Deadlines()
    bucket = deadlines.add("a", 1001)
    deadlines.discard("a", bucket)
    assert deadlines.due(5000) == []
    assert deadlines.next_ms() is None


def test_a_request_is_refused_when_its_record_may_be_gone() -> None:
    assert age_of(NOW - DEDUP_WINDOW_MS, NOW, NOW) is Age.FINE
    assert age_of(NOW - DEDUP_WINDOW_MS - 1, NOW, NOW) is Age.EXPIRED


def test_a_request_from_the_future_is_refused() -> None:
    assert age_of(NOW + 60_000, NOW, NOW) is Age.FINE
    assert age_of(NOW + 60_001, NOW, NOW) is Age.AHEAD


def test_a_bucket_is_dropped_only_when_every_request_in_it_is_expired() -> None:
    before = droppable_before(NOW)
    youngest_dropped = before * 60_000 - 1
    assert minute_of(youngest_dropped) < before
    assert age_of(youngest_dropped, NOW, NOW) is Age.EXPIRED


def test_answers_are_kept_until_their_deadline_and_are_bounded() -> None:
    answers: Answers[str] = Answers(2, 100)
    assert answers.remember(b"g", b"1", "one", 1, 100, 0)
    assert answers.remember(b"g", b"2", "two", 1, 200, 0)
    assert not answers.remember(b"g", b"3", "three", 1, 300, 0)
    assert answers.get(b"g", b"1") == "one"
    assert answers.get(b"other", b"1") is None
    assert answers.remember(b"g", b"3", "three", 1, 1300, 1150)
    assert answers.get(b"g", b"1") is None
    assert answers.size_bytes == 1


def test_large_answers_are_bounded_by_their_bytes() -> None:
    answers: Answers[str] = Answers(100, 100)
    assert answers.remember(b"g", b"1", "one", 60, 100, 0)
    assert not answers.remember(b"g", b"2", "two", 60, 200, 0)
    assert answers.remember(b"g", b"2", "two", 40, 200, 0)
    answers.expire(99, 10)
    assert (len(answers), answers.size_bytes) == (2, 100)
    answers.expire(100, 10)
    assert (len(answers), answers.size_bytes) == (1, 40)
    assert answers.get(b"g", b"1") is None
    assert answers.remember(b"g", b"1", "again", 60, 300, 100)


class Member:
    def __init__(self, used_ms: int) -> None:
        self.used_ms = used_ms
        self.idle_after_ms = 1000
        self.may_leave = True


def test_an_object_leaves_when_its_idle_time_is_over() -> None:
    ring: EvictionRing[Member] = EvictionRing()
    cold, warm, busy = Member(0), Member(900), Member(0)
    busy.may_leave = False
    for member in (cold, warm, busy):
        ring.add(member)
    assert ring.idle(1500, 10) == [cold]


def test_the_coldest_leave_first_when_there_is_no_room() -> None:
    ring: EvictionRing[Member] = EvictionRing()
    members = [Member(n) for n in range(4)]
    for member in members:
        ring.add(member)
    members[0].used_ms = 99  # used since
    assert ring.coldest(2, 100) == [members[1], members[2]]


def test_the_search_for_the_coldest_is_bounded_and_goes_on_where_it_ended() -> None:
    ring: EvictionRing[Member] = EvictionRing()
    members = [Member(n) for n in range(10)]
    for member in members:
        ring.add(member)
        member.may_leave = member.used_ms == 5
    assert ring.coldest(1, 4) == []
    assert ring.coldest(1, 4) == [members[5]]


def test_all_may_leave_where_more_are_asked_for_than_there_are() -> None:
    ring: EvictionRing[Member] = EvictionRing()
    members = [Member(n) for n in range(3)]
    for member in members:
        ring.add(member)
    assert ring.coldest(500, 2000) == members


def test_a_ring_that_is_made_anew_keeps_its_order() -> None:
    ring: EvictionRing[Member] = EvictionRing()
    members = [Member(n) for n in range(10)]
    for member in members:
        ring.add(member)
    ring.remove(members[0])
    ring.repack()
    assert ring.coldest(3, 100) == members[1:4]


def test_the_ring_forgets_what_is_gone() -> None:
    ring: EvictionRing[Member] = EvictionRing()
    member = Member(0)
    ring.add(member)
    ring.remove(member)
    assert ring.idle(5000, 10) == []
    assert len(ring) == 0


def test_a_refusal_names_the_bound_and_says_when_to_come_again() -> None:
    admission = Admission(open_max=2, bytes_max=100, wait_ms_max=50)
    assert admission.refusal(10, 0) is None
    assert "waited" in (admission.refusal(10, 51) or "")
    admission.open(60)
    assert "bytes" in (admission.refusal(60, 0) or "")
    admission.open(1)
    assert "open calls" in (admission.refusal(1, 0) or "")
    for now in range(100, 1100, 100):
        admission.finished += 100
        admission.tick(now)
    assert 0.05 < admission.retry_after_s(100) < 0.2  # some 1,000 calls are finished a second


def test_one_huge_call_fits_into_an_empty_node() -> None:
    assert Admission(2, 100, 50).refusal(1000, 0) is None


class Times:
    def __init__(self) -> None:
        self.wall = 1_000_000
        self.monotonic = 50

    def clock(self) -> ServerClock:
        return ServerClock(lambda: self.wall * 1_000_000, lambda: self.monotonic * 1_000_000)

    def later(self, ms: int) -> None:
        self.wall += ms
        self.monotonic += ms


def test_server_time_follows_the_wall_clock_forwards() -> None:
    times = Times()
    clock = times.clock()
    times.later(10)
    assert clock.now_ms() == 1_000_010
    times.wall += 5_000
    assert clock.now_ms() == 1_005_010


def test_server_time_neither_runs_back_nor_stands_still() -> None:
    times = Times()
    clock = times.clock()
    times.wall -= 500
    assert clock.now_ms() == 1_000_000
    times.later(80)
    assert clock.now_ms() == 1_000_070
    for _ in range(60):
        times.later(80)
        clock.now_ms()
    assert clock.now_ms() == times.wall  # caught up with


def test_server_time_goes_on_where_an_earlier_process_had_come() -> None:
    times = Times()
    clock = times.clock()
    clock.advance_to(1_000_400)
    assert clock.now_ms() == 1_000_400
