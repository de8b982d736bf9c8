"""Which copy is wrong, and what becomes of it: the auditor's judgement, and what an owner does about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost_node.core.record import Epoch, How, SessionId, ShardRecord, StoreId
from roost_node.core.replication import audit
from roost_node.core.replication.audit import Finding, Outcome, judge

A, B, C, D, E = map(StoreId, "abcde")
GONE, MISSED = Finding(Outcome.UNREADABLE), Finding(Outcome.MISSED)


def hashed(text: str) -> Finding:
    return Finding(Outcome.HASHED, text.encode())


RIGHT, WRONG = hashed("right"), hashed("wrong")


def test_equal_copies_are_no_alarm() -> None:
    found = judge((A, B, C), {A: RIGHT, B: RIGHT, C: RIGHT})
    assert (found.compared, found.is_alarm, found.bad) == (3, False, ())


@pytest.mark.parametrize("odd", [A, B, C])
def test_of_three_the_odd_one_is_bad_be_it_the_owner(odd: StoreId) -> None:
    found = judge((A, B, C), dict.fromkeys((A, B, C), RIGHT) | {odd: WRONG})
    assert found.is_alarm
    assert found.bad == (odd,)


def test_of_two_that_differ_nobody_knows_which_is_wrong() -> None:
    found = judge((A, B), {A: RIGHT, B: WRONG})
    assert found.is_alarm
    assert found.bad == ()


def test_a_majority_is_one_of_all_copies_not_of_those_that_answered() -> None:
    two_of_five = judge((A, B, C, D, E), {A: RIGHT, B: RIGHT, C: WRONG, D: MISSED})
    assert two_of_five.is_alarm
    assert two_of_five.bad == ()
    assert judge((A, B, C), {A: RIGHT, B: WRONG, C: MISSED}).bad == ()
    assert judge((A, B, C), {A: RIGHT, B: RIGHT}).is_alarm is False


def test_a_copy_that_cannot_be_read_says_so_itself() -> None:
    assert judge((A, B), {A: RIGHT, B: GONE}).bad == (B,)
    assert judge((A, B, C), {A: GONE, B: RIGHT, C: MISSED}).bad == (A,)
    assert judge((A, B, C, D), {A: RIGHT, B: RIGHT, C: WRONG, D: GONE}).bad == (D, C)


def test_nothing_is_bad_where_nothing_can_be_read_or_the_rest_differ() -> None:
    assert judge((A, B), {A: GONE, B: GONE}).bad == ()
    assert judge((A, B), {A: GONE}).bad == ()
    found = judge((A, B, C), {A: RIGHT, B: WRONG, C: GONE})
    assert found.bad == (), "a snapshot would be of a copy that may be the wrong one"
    assert found.unreadable == (C,)


STORES = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=7, unique=True)


@given(STORES, st.data())
def test_no_good_copy_is_ever_called_bad_while_fewer_than_half_are_wrong(
    names: list[str], data: st.DataObject
) -> None:
    stores = [StoreId(name) for name in names]
    wrong = data.draw(st.sets(st.sampled_from(stores), max_size=(len(stores) - 1) // 2))
    findings: dict[StoreId, Finding] = {}
    for store in stores:
        bad = st.sampled_from([WRONG, hashed("other"), GONE, MISSED])
        findings[store] = data.draw(bad if store in wrong else st.sampled_from([RIGHT, MISSED]))
    found = judge(stores, findings)
    assert set(found.bad) <= wrong
    assert set(found.bad) < set(stores)
    if all(findings[store] == RIGHT for store in stores if store not in wrong):
        seen = {store for store in wrong if findings[store] != MISSED}
        assert set(found.bad) == seen


def test_as_many_leave_the_set_as_may() -> None:
    record = ShardRecord(Epoch(3), A, SessionId(1), How.CREATED, (A, B, C, D), (E,))
    left = audit.without(record, (C, D), 2)
    assert left is not None
    assert (left.in_sync, left.learners, left.suspects) == ((A, B), (E, C, D), (C, D))
    left = audit.without(record, (C, D), 3)
    assert left is not None
    assert (left.in_sync, left.suspects) == ((A, B, D), (C,))
    assert audit.without(record, (C,), 4) is None, "M3"
    assert audit.without(record, (E,), 2) is None, "it does not count anyway"
