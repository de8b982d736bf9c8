from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roost_node.core.caller_order import Admission, CallerOrder


def test_calls_that_arrive_in_order_start_at_once() -> None:
    order: CallerOrder[str] = CallerOrder()
    assert order.arrive("1", 1, 1) is Admission.START
    assert order.arrive("2", 2, 1) is Admission.START
    assert order.arrive("3", 3, 3) is Admission.START


def test_a_call_waits_for_the_one_made_before_it() -> None:
    order: CallerOrder[str] = CallerOrder()
    assert order.arrive("2", 2, 1) is Admission.HOLD
    assert order.ready() is None
    assert order.arrive("1", 1, 1) is Admission.START
    assert order.ready() == "2"


def test_a_call_does_not_wait_for_those_its_caller_has_seen_the_end_of() -> None:
    order: CallerOrder[str] = CallerOrder()
    assert order.arrive("9", 9, 9) is Admission.START


def test_a_skip_stands_for_the_call_that_will_not_come() -> None:
    order: CallerOrder[str] = CallerOrder()
    assert order.arrive("3", 3, 1) is Admission.HOLD
    order.skip(2)
    assert order.ready() is None
    order.skip(1)
    assert order.ready() == "3"


def test_after_a_refusal_later_calls_are_refused_until_it_comes_again() -> None:
    order: CallerOrder[str] = CallerOrder()
    assert order.arrive("1", 1, 1) is Admission.START
    order.refuse(1)
    assert order.arrive("2", 2, 1) is Admission.REFUSE
    assert order.arrive("1 again", 1, 1) is Admission.START
    assert order.arrive("2 again", 2, 1) is Admission.START


def test_a_refused_call_that_was_given_up_stops_nobody() -> None:
    order: CallerOrder[str] = CallerOrder()
    order.arrive("1", 1, 1)
    order.refuse(1)
    order.skip(1)
    assert order.arrive("2", 2, 1) is Admission.START


def test_a_call_that_was_sent_again_after_it_had_started_may_ask_for_its_answer() -> None:
    order: CallerOrder[str] = CallerOrder()
    order.arrive("1", 1, 1)
    order.arrive("2", 2, 1)
    assert order.arrive("1 again", 1, 1) is Admission.START


@given(st.data())
def test_calls_start_in_the_order_in_which_they_were_made(data: st.DataObject) -> None:
    """The network reorders, the owner refuses; a refused call is sent again, in order."""
    total = data.draw(st.integers(1, 8))
    order: CallerOrder[int] = CallerOrder()
    started: list[int] = []
    on_the_way = list(range(1, total + 1))
    finished: set[int] = set()
    refusals = data.draw(st.integers(0, 8))

    def oldest() -> int:
        return next((s for s in range(1, total + 1) if s not in finished), total + 1)

    def start(sequence: int) -> None:
        nonlocal refusals
        if refusals and data.draw(st.booleans()):  # no room for it
            refusals -= 1
            order.refuse(sequence)
            on_the_way.append(sequence)
        else:
            started.append(sequence)

    steps = 0
    while len(started) < total:
        steps += 1
        assert steps < 200, "no progress"
        assert on_the_way, "a call was lost"
        sequence = on_the_way.pop(data.draw(st.integers(0, min(2, len(on_the_way) - 1))))
        match order.arrive(sequence, sequence, min(oldest(), sequence)):
            case Admission.START:
                start(sequence)
                while (held := order.ready()) is not None:
                    start(held)
            case Admission.REFUSE:
                on_the_way.append(sequence)
            case Admission.HOLD:
                pass
        if order.has_held and not on_the_way:
            on_the_way += order.take_held()
        seen = data.draw(st.booleans())
        if started and seen:
            finished.add(started[len(finished)] if len(finished) < len(started) else started[-1])
    assert started == sorted(started)


def test_a_held_call_that_is_given_up_is_handed_back() -> None:
    order: CallerOrder[str] = CallerOrder()
    assert order.arrive("2", 2, 1) is Admission.HOLD
    assert order.skip(2) == "2"
    assert not order.has_held
    assert order.arrive("1", 1, 1) is Admission.START
    assert order.arrive("3", 3, 1) is Admission.START


def test_a_second_call_of_a_held_sequence_does_not_take_its_place() -> None:
    order: CallerOrder[str] = CallerOrder()
    assert order.arrive("2", 2, 1) is Admission.HOLD
    assert order.arrive("another 2", 2, 1) is Admission.REFUSE
    assert order.take_held() == ["2"]
