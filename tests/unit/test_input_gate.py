from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from roost_node.core.input_gate import InputGate


def test_writers_enter_one_at_a_time_in_order() -> None:
    gate: InputGate[str] = InputGate()
    assert gate.enter("a", shared=False)
    assert not gate.enter("b", shared=False)
    assert not gate.enter("c", shared=False)
    assert gate.leave(shared=False) == ["b"]
    assert gate.leave(shared=False) == ["c"]


def test_readers_overlap_with_each_other_only() -> None:
    gate: InputGate[str] = InputGate()
    assert gate.enter("r1", shared=True)
    assert gate.enter("r2", shared=True)
    assert not gate.enter("w", shared=False)
    assert gate.leave(shared=True) == []
    assert gate.leave(shared=True) == ["w"]


def test_a_waiting_writer_stops_later_readers() -> None:
    gate: InputGate[str] = InputGate()
    gate.enter("r1", shared=True)
    gate.enter("w", shared=False)
    assert not gate.enter("r2", shared=True)
    assert gate.leave(shared=True) == ["w"]
    assert gate.leave(shared=False) == ["r2"]


def test_withdrawing_a_waiting_writer_lets_the_readers_behind_it_in() -> None:
    gate: InputGate[str] = InputGate()
    gate.enter("r1", shared=True)
    gate.enter("w", shared=False)
    gate.enter("r2", shared=True)
    assert gate.withdraw("w") == ["r2"]
    assert gate.readers == 2


def test_a_reentrant_writer_is_not_stopped_by_readers_of_its_own_chain() -> None:
    gate: InputGate[str] = InputGate()
    gate.enter("own reader", shared=True)
    gate.enter("writer that waits", shared=False)
    assert gate.enter_reentrant("again", shared=False, own_readers=lambda: 1)


def test_a_reentrant_writer_waits_for_other_readers_at_the_head_of_the_queue() -> None:
    gate: InputGate[str] = InputGate()
    gate.enter("own reader", shared=True)
    gate.enter("other reader", shared=True)
    gate.enter("w", shared=False)
    assert not gate.enter_reentrant("again", shared=False, own_readers=lambda: 1)
    assert gate.leave(shared=True) == ["again"]
    assert gate.leave(shared=False) == []  # "w" waits for the reader that is still inside
    assert gate.leave(shared=True) == ["w"]


def test_who_is_inside_of_a_reentrant_writers_chain_is_asked_when_it_could_start() -> None:
    gate: InputGate[str] = InputGate()
    own = ["own reader"]
    gate.enter("own reader", shared=True)
    gate.enter("other reader", shared=True)
    assert not gate.enter_reentrant("again", shared=False, own_readers=lambda: len(own))
    own.clear()
    assert gate.leave(shared=True) == []  # one reader is left, and it is the other's
    assert gate.leave(shared=True) == ["again"]


@given(st.data())
def test_a_writer_is_alone_and_nobody_is_forgotten(data: st.DataObject) -> None:
    gate: InputGate[int] = InputGate()
    inside: dict[int, bool] = {}
    waiting: dict[int, bool] = {}
    chains: dict[int, int] = {}
    number = 0

    def own_readers(chain: int) -> int:
        return sum(shared and chains[item] == chain for item, shared in inside.items())

    def admit(items: list[int]) -> None:
        for item in items:
            inside[item] = waiting.pop(item)

    def arrive() -> None:
        nonlocal number
        number += 1
        shared = data.draw(st.booleans())
        chain = chains[number] = data.draw(st.integers(0, 2))
        waiting[number] = shared
        if own_readers(chain) and data.draw(st.booleans()):
            entered = gate.enter_reentrant(
                number, shared=shared, own_readers=lambda: own_readers(chain)
            )
        else:
            entered = gate.enter(number, shared=shared)
        if entered:
            admit([number])

    def leave() -> None:
        if inside:
            # A writer's own readers wait for it, unless they are cut: either may end first.
            item = data.draw(st.sampled_from(sorted(inside)))
            admit(gate.leave(shared=inside.pop(item)))

    def withdraw() -> None:
        if waiting:
            item = data.draw(st.sampled_from(sorted(waiting)))
            del waiting[item]
            admit(gate.withdraw(item))

    steps: list[Callable[[], None]] = [arrive, leave, withdraw]
    for _ in range(data.draw(st.integers(1, 40))):
        data.draw(st.sampled_from(steps))()
        writers = [item for item, shared in inside.items() if not shared]
        for writer in writers:
            chain = chains[writer]
            assert all(chains[item] == chain for item in inside), "a writer beside strangers"
        assert len(writers) <= 1
        assert gate.depth == len(waiting)
        assert inside or not waiting  # somebody is inside while anybody waits
    while inside:
        leave()
    assert not waiting
    assert gate.is_idle
