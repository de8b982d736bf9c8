"""The supervisor's core: what becomes of a node whose process ends, however it ends."""

from __future__ import annotations

import pytest

from roost_node.core.record import DeathRecord, SessionId, StoreId
from roost_node.core.supervision import (
    PAUSE_MS_MAX,
    PAUSE_MS_MIN,
    WELL_MS,
    Kill,
    Leave,
    NodeState,
    Start,
    Supervision,
    Terminate,
    WriteDeath,
)

STORE, SESSION = StoreId("a"), SessionId(7)
SERVING = NodeState(STORE, SESSION, is_serving=True)
KILLED = -9


def running(state: NodeState = SERVING) -> Supervision:
    core = Supervision(0)
    assert core.on_tick(0) == [Start()]
    core.on_told(state)
    return core


def test_a_killed_node_is_declared_dead_and_started_again_after_a_pause() -> None:
    core = running()
    assert core.on_ended(KILLED, 100) == [WriteDeath(DeathRecord(STORE, SESSION))]
    assert core.wake_ms == 100 + PAUSE_MS_MIN
    assert core.on_tick(99 + PAUSE_MS_MIN) == []
    assert core.on_tick(100 + PAUSE_MS_MIN) == [Start()]
    assert core.wake_ms is None, "while it runs nothing is due: a frozen process is not dead (P6)"
    assert core.on_tick(10**9) == []


def test_the_last_session_is_the_one_that_died() -> None:
    core = running()
    core.on_told(NodeState(STORE, SessionId(8), is_serving=True))
    assert core.on_ended(KILLED, 1) == [WriteDeath(DeathRecord(STORE, SessionId(8)))]


def test_a_death_is_not_written_twice_for_a_process_that_never_registered() -> None:
    core = running()
    core.on_ended(KILLED, 1)
    core.on_tick(1 + PAUSE_MS_MIN)
    assert core.on_ended(KILLED, 500) == [], "the session that it had was the other process's"


def test_the_pauses_double_up_to_a_bound_and_begin_anew_after_a_good_run() -> None:
    core, now, pauses = running(), 0, []
    for _ in range(10):
        core.on_ended(KILLED, now)
        assert core.wake_ms is not None
        pauses.append(core.wake_ms - now)
        now = core.wake_ms
        core.on_tick(now)
    assert pauses[:3] == [PAUSE_MS_MIN, 2 * PAUSE_MS_MIN, 4 * PAUSE_MS_MIN]
    assert pauses[-1] == PAUSE_MS_MAX
    core.on_ended(KILLED, now + WELL_MS)
    assert core.wake_ms == now + WELL_MS + PAUSE_MS_MIN


@pytest.mark.parametrize("status", [1, 2])
def test_a_node_that_refuses_to_start_is_not_asked_again(status: int) -> None:
    core = running(NodeState())
    assert core.on_ended(status, 1) == [Leave(status)]
    assert core.wake_ms is None


def test_a_failure_after_it_has_served_is_no_refusal() -> None:
    core = running()
    assert core.on_ended(1, 1) == [WriteDeath(DeathRecord(STORE, SESSION))]
    assert core.wake_ms is not None


@pytest.mark.parametrize("status", [1, 2])
def test_a_refusal_is_asked_again_where_an_earlier_process_has_served(status: int) -> None:
    core = running()
    core.on_ended(KILLED, 100)
    core.on_tick(100 + PAUSE_MS_MIN)
    assert core.on_ended(status, 400) == []
    assert core.wake_ms is not None


def test_a_failed_store_is_started_again_also_before_it_has_served() -> None:
    core = running(NodeState())
    assert core.on_ended(70, 1) == []
    assert core.wake_ms is not None


def test_a_node_that_ends_by_itself_takes_its_supervisor_along() -> None:
    assert running().on_ended(0, 1) == [Leave(0)]


def test_told_to_stop_it_passes_it_on_and_leaves_with_the_nodes_status() -> None:
    core = running()
    assert core.on_stop() == [Terminate()]
    assert core.on_ended(0, 1) == [Leave(0)]
    assert core.on_stop() == []


def test_told_twice_it_kills_and_says_so_to_the_cluster() -> None:
    core = running()
    core.on_stop()
    assert core.on_stop() == [Kill()]
    assert core.on_ended(KILLED, 1) == [WriteDeath(DeathRecord(STORE, SESSION)), Leave(128 + 9)]


def test_a_node_that_was_stopped_before_it_could_handle_signals_has_obeyed() -> None:
    core = running(NodeState())
    core.on_stop()
    assert core.on_ended(-15, 1) == [Leave(0)]


def test_told_to_stop_between_two_runs_it_just_leaves() -> None:
    core = running()
    core.on_ended(KILLED, 1)
    assert core.on_stop() == [Leave(0)]
    assert core.on_tick(10**6) == []
