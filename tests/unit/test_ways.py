"""Which way to a node is tried next."""

from __future__ import annotations

from roost_router.core.ways import DETOUR_S, STRAIGHT_S_MAX, STRAIGHT_S_MIN, Way, Ways


def fail(ways: Ways, others: list[str], count: int, *, silent: bool) -> list[Way]:
    tried = []
    for _ in range(count):
        tried.append(ways.next(others))
        ways.on_failed(silent=silent)
    return tried


def test_after_silence_others_are_asked_in_turn_and_the_straight_way_between_them() -> None:
    ways = Ways()
    tried = fail(ways, ["b", "c"], 9, silent=True)
    vias = [way.via for way in tried]
    assert vias[::2] == [""] * 5
    assert set(vias[1::2]) == {"b", "c"}
    assert vias[1] != vias[3] != vias[5]
    patience = [way.patience_s for way in tried if not way.via]
    assert patience == [STRAIGHT_S_MIN, 1.0, 2.0, 4.0, STRAIGHT_S_MAX]
    assert {way.patience_s for way in tried if way.via} == {DETOUR_S}


def test_a_refusal_is_believed_until_it_is_one_of_many() -> None:
    ways = Ways()
    assert [way.via for way in fail(ways, ["b"], 5, silent=False)] == ["", "", "", "b", ""]


def test_without_others_there_is_the_straight_way_only() -> None:
    assert {way.via for way in fail(Ways(), [], 9, silent=True)} == {""}


def test_a_link_that_was_open_begins_anew_straight() -> None:
    ways = Ways()
    assert fail(ways, ["b"], 4, silent=True)[-1].via == "b"
    ways.next(["b"])
    assert ways.next(["b"]).via == "b"
    ways.on_open()  # over b
    assert ways.next(["b"]) == Way("", STRAIGHT_S_MIN)
    ways.on_failed(silent=True)
    assert ways.next(["b"]).via == "b"
