from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roost_node.core.output_gate import OutputGate


def test_a_reply_waits_for_its_own_entry() -> None:
    gate: OutputGate[str] = OutputGate(committed=4)
    assert not gate.offer(5, "reply", own_entry=True)
    assert gate.on_committed(5) == ["reply"]


def test_a_read_waits_for_entries_it_could_have_seen_and_for_no_others() -> None:
    gate: OutputGate[str] = OutputGate(committed=4)
    assert gate.offer(4, "saw only committed state", own_entry=False)
    assert not gate.offer(6, "saw entry 6", own_entry=False)
    assert gate.on_committed(5) == []
    assert gate.on_committed(7) == ["saw entry 6"]


def test_what_a_turn_said_before_a_later_write_does_not_wait_for_that_write() -> None:
    gate: OutputGate[str] = OutputGate(committed=0)
    gate.offer(1, "first", own_entry=True)
    gate.offer(2, "second", own_entry=True)
    assert gate.on_committed(1) == ["first"]


def test_output_without_an_entry_waits_for_cover() -> None:
    covered = False
    gate: OutputGate[str] = OutputGate(0, lambda: covered)
    assert not gate.offer(0, "read", own_entry=False)
    gate.offer(1, "write", own_entry=True)
    gate.offer(1, "child call", own_entry=False)
    assert gate.on_committed(1) == ["write"]  # R2: its entry is proof enough
    covered = True
    assert gate.on_covered() == ["read", "child call"]


def test_nothing_overtakes_output_that_waits_for_cover() -> None:
    covered = False
    gate: OutputGate[str] = OutputGate(0, lambda: covered)
    gate.offer(0, "read", own_entry=False)
    covered = True
    assert not gate.offer(0, "later read", own_entry=False)


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=60), st.data())
def test_everything_leaves_once_and_not_before_it_is_committed(
    offers: list[tuple[int, bool]], data: st.DataObject
) -> None:
    gate: OutputGate[int] = OutputGate(0)
    committed = 0
    left: list[int] = []
    for number, (ahead, own_entry) in enumerate(offers):
        index = committed + ahead
        if gate.offer(index, number, own_entry=own_entry):
            assert index <= committed
            left.append(number)
        if data.draw(st.booleans()):
            committed += data.draw(st.integers(0, 5))
            left += gate.on_committed(committed)
    left += gate.on_committed(committed + 100)
    assert sorted(left) == list(range(len(offers)))
    assert gate.waiting_count() == 0


def test_output_for_a_lower_index_never_leaves_after_that_for_a_higher() -> None:
    gate: OutputGate[str] = OutputGate(0)
    gate.offer(2, "second", own_entry=True)
    gate.offer(1, "first", own_entry=False)
    gate.offer(1, "first again", own_entry=True)
    gate.offer(3, "third", own_entry=True)
    assert gate.on_committed(2) == ["first", "first again", "second"]
    assert gate.on_committed(3) == ["third"]


def test_what_comes_while_others_wait_for_cover_leaves_behind_them() -> None:
    covered = False
    gate: OutputGate[str] = OutputGate(5, lambda: covered)
    assert not gate.offer(5, "first", own_entry=False)
    covered = True
    assert not gate.offer(5, "second", own_entry=False), "it must not overtake"
    assert not gate.offer(6, "third", own_entry=False)
    assert gate.on_committed(6) == []
    assert gate.on_covered() == ["first", "second", "third"]
    assert gate.waiting_count() == 0


def test_a_read_of_the_record_releases_only_what_was_there_when_it_began() -> None:
    gate: OutputGate[str] = OutputGate(5, lambda: False)
    for output in ("first", "second", "third"):
        assert not gate.offer(5, output, own_entry=False)
    count = gate.uncovered_count
    assert gate.on_covered(count) == ["first"]
    assert gate.uncovered_count == 2, "those behind wait for a read of their own"
    assert gate.on_covered(gate.uncovered_count) == ["second", "third"]
