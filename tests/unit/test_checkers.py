from __future__ import annotations

import random
from typing import Any

from simulator.checkers import Operation, is_linearizable


def register(state: Any, request: Any) -> tuple[Any, Any]:
    if request[0] == "write":
        return request[1], None
    if request[0] == "cas":
        return (request[2], True) if state == request[1] else (state, False)
    return state, state


def op(start: float, end: float | None, request: tuple[Any, ...], result: Any = None) -> Operation:
    return Operation(start, end, request, result)


def test_a_read_may_see_a_write_that_overlaps_it_or_not() -> None:
    for value in (0, 1):
        history = [op(0, 10, ("write", 1)), op(1, 2, ("read",), value)]
        assert is_linearizable(history, register, 0)


def test_a_read_may_not_miss_a_write_that_had_ended() -> None:
    history = [op(0, 1, ("write", 1)), op(2, 3, ("read",), 0)]
    assert not is_linearizable(history, register, 0)


def test_two_reads_may_not_see_a_value_come_and_go() -> None:
    history = [op(0, 10, ("write", 1)), op(1, 2, ("read",), 1), op(3, 4, ("read",), 0)]
    assert not is_linearizable(history, register, 0)


def test_an_unanswered_write_may_count_or_not() -> None:
    for value in (0, 1):
        history = [op(0, None, ("write", 1)), op(5, 6, ("read",), value)]
        assert is_linearizable(history, register, 0)


def test_only_one_of_two_equal_swaps_may_win() -> None:
    both = [op(0, 5, ("cas", 0, 1), True), op(0, 5, ("cas", 0, 2), True)]
    assert not is_linearizable(both, register, 0)
    one = [op(0, 5, ("cas", 0, 1), True), op(0, 5, ("cas", 0, 2), False)]
    assert is_linearizable(one, register, 0)


def test_a_long_history_is_checked_quickly() -> None:
    history = [op(i, i + 3.5, ("write", i)) for i in range(2000)]
    history.append(op(3000, 3001, ("read",), 1999))
    assert is_linearizable(history, register, 0)


def test_a_history_of_a_hundred_thousand_operations_is_judged() -> None:
    rng = random.Random(1)
    at = 0.0
    history = []
    for number in range(100_000):
        at += rng.random()
        # Ten callers: each call overlaps with those of the others.
        history.append(
            Operation(at - 5 * rng.random(), at + 5 * rng.random(), ("add",), number + 1)
        )

    def model(state: Any, request: Any) -> tuple[Any, Any]:
        return state + 1, state + 1

    assert is_linearizable(history, model, 0)
    doubled = history[77_777]
    history[77_777] = Operation(doubled.start, doubled.end, ("add",), 77_777)
    assert not is_linearizable(history, model, 0)
