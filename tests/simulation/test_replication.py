"""The replication cores under every fault they must survive, by seed."""

from __future__ import annotations

import pytest

from simulator import scenarios
from simulator.history import ViolationError


def test_every_promise_holds_in_a_cluster_under_every_fault(request: pytest.FixtureRequest) -> None:
    replay = request.config.getoption("--seed")
    count = request.config.getoption("--seeds")
    answered = 0
    for seed in [replay] if replay is not None else range(count):
        try:
            answered += scenarios.run(seed).history.count
        except (ViolationError, AssertionError) as error:
            error.add_note(f"replay with --seed={seed}")
            raise
    if replay is None:
        assert answered > 40 * count, "faults left too few calls to answer: nothing was tested"
