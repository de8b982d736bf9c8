"""The whole cluster under every fault it must survive, by seed: `simulator/whole.py`.

`make sim SEEDS=20000` runs longer; `pytest tests/simulation/test_whole.py --seed=N` replays one.
"""

from __future__ import annotations

import logging

import pytest

from simulator.machines import MachineLoop, Process, simulate_machines
from simulator.trace import Trace
from simulator.whole_run import play
from simulator.workload import HURRY_S

pytestmark = pytest.mark.timeout(1200)  # some tens of seconds of CPU, on a busy machine
PART = 12
"""A run here costs as much as that many of the other simulations."""

RESTORES = 8
ROTS = 8


def seeds(request: pytest.FixtureRequest) -> list[int]:
    replay: int | None = request.config.getoption("--seed")
    count: int = request.config.getoption("--seeds")
    return [replay] if replay is not None else list(range(max(1, count // PART)))


def test_every_promise_holds_with_everything_together(request: pytest.FixtureRequest) -> None:
    words = tuple(request.config.getoption("--trace-of"))
    outcomes = [play(seed, trace_words=words) for seed in seeds(request)]
    if request.config.getoption("--seed") is None:
        calls = sum(o.calls for o in outcomes)
        hurried = sum(o.hurried for o in outcomes)
        well = sum(o.hurried_well for o in outcomes)
        assert calls > 60 * len(outcomes), "too few calls were answered: nothing was tested"
        assert well > 0.6 * hurried, f"{well} of {hurried} calls ended well within {HURRY_S} s"


def test_an_etcd_from_an_old_backup_moves_nothing_until_the_cluster_is_recovered(
    request: pytest.FixtureRequest,
) -> None:
    words = tuple(request.config.getoption("--trace-of"))
    for seed in seeds(request)[:RESTORES]:
        play(seed, restored=True, trace_words=words)


def test_a_row_that_changes_at_rest_is_found_and_its_copy_made_anew(
    request: pytest.FixtureRequest,
) -> None:
    words = tuple(request.config.getoption("--trace-of"))
    for seed in seeds(request)[:ROTS]:
        play(seed, rot=True, trace_words=words)


def test_a_long_run_is_checked_as_one(request: pytest.FixtureRequest) -> None:
    calls = min(100_000, 5 * request.config.getoption("--seeds"))
    assert play(4, calls=calls).calls >= calls


def test_a_trace_can_be_read_by_process_shard_and_object() -> None:
    async def run(loop: MachineLoop) -> Trace:
        trace = Trace(lambda: 1001.5)
        trace.note("a is killed")
        with trace.listening():
            log = logging.getLogger("roost_node")
            Process("a", loop).context.run(log.info, "own shard", extra={"shard": 2})
            Process("b", loop).context.run(log.info, "own shard", extra={"shard": 21})
        return trace

    trace = simulate_machines(run)
    killed, two, other = trace.lines()
    assert two == "   1.5000 a        own shard shard=2"
    assert trace.lines("a") == [killed, two], "faults are always told"
    assert trace.lines("shard 2") == trace.lines("shard=2") == [killed, two]
    assert trace.lines("b") == [killed, other]
    assert trace.lines("own shard") == [killed, two, other]


def test_a_seed_replays_exactly() -> None:
    assert play(9) == play(9)
