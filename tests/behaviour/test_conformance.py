"""Behaviours of the original that apply to one node, each with the test here that asserts it.

The original is Cloudflare's Durable Objects; the names on the left are those of its own tests. What
has no line needs alarms, connections, more than one node, or a transaction API that Roost does not
have (a call is the transaction).
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

TABLE = {
    "InputGate basics": "unit/test_input_gate.py::test_writers_enter_one_at_a_time_in_order",
    "InputGate critical section": "behaviour/test_concurrency.py::test_exclusive_keeps_others_out",
    "InputGate nested critical sections": "behaviour/test_concurrency.py::test_a_chain_has_a_length_limit",
    "InputGate broken": (
        "behaviour/test_lifecycle.py::test_an_activation_that_fails_answers_its_calls_and_is_tried_again"
    ),
    "OutputGate basics": (
        "unit/test_output_gate.py::test_what_a_turn_said_before_a_later_write_does_not_wait_for_that_write"
    ),
    "OutputGate out-of-order": (
        "unit/test_output_gate.py::test_everything_leaves_once_and_not_before_it_is_committed"
    ),
    "OutputGate exception": "faults/test_disk.py::test_after_a_failed_flush_nothing_more_is_acknowledged",
    "ActorCache get-put ordering": (
        "unit/test_store.py::test_an_iterator_shows_the_store_as_it_was_when_it_was_made"
    ),
    "ActorCache flush retry": "faults/test_disk.py::test_a_write_stall_delays_and_loses_nothing",
    "ActorCache flush hard failure": (
        "faults/test_disk.py::test_a_failed_flush_ends_the_process_and_a_restart_is_clean"
    ),
    "ActorCache backpressure": "behaviour/test_limits.py::test_what_is_too_large_is_rolled_back",
    "auto rollback on critical error": "faults/test_disk.py::test_a_full_disk_refuses_writes_and_serves_reads",
    "put followed by abort in one turn": (
        "behaviour/test_calls.py::test_an_exception_rolls_everything_back"
    ),
    "eOrderTest": "behaviour/test_calls.py::test_calls_of_one_stub_start_in_order",
    "call back into a critical section": (
        "behaviour/test_concurrency.py::test_a_reentrant_method_enters_while_its_chain_reads_or_interleaves"
    ),
    "exception properties": (
        "behaviour/test_limits.py::test_a_roost_error_raised_inside_is_the_objects_error_but_for_four"
    ),
    "ids: the same name is the same object": "unit/test_layout.py::test_a_shard_is_fixed_by_seed_and_name",
    "evictions": "behaviour/test_lifecycle.py::test_an_idle_object_leaves_memory_and_comes_back",
    "eviction drops memory, not storage": (
        "behaviour/test_room.py::test_objects_over_the_bound_of_bytes_leave_coldest_first"
    ),
    "pre-shutdown hook: writes are visible": (
        "behaviour/test_lifecycle.py::test_shutdown_runs_on_deactivate_and_keeps_what_it_wrote"
    ),
    "pre-shutdown hook: a hanging one blocks nothing": (
        "behaviour/test_lifecycle.py::test_on_deactivate_has_a_bound_on_its_time"
    ),
    "pre-shutdown hook: a racing request revives": (
        "behaviour/test_lifecycle.py::"
        "test_calls_and_deletes_that_come_while_an_object_leaves_wait_for_it"
    ),
    "SIGKILL keeps the count": "crash/test_kill.py::test_nothing_is_lost_or_doubled_by_kill_9",
}


@pytest.mark.parametrize("behaviour", TABLE)
def test_each_behaviour_has_its_test(behaviour: str) -> None:
    file, _, name = TABLE[behaviour].partition("::")
    tree = ast.parse((TESTS / file).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name in names, f"{file} has no {name}"
