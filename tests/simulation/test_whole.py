"""The whole cluster under every fault it must survive, by seed: `simulator/whole.py`.

`make sim SEEDS=20000` runs longer; `pytest tests/simulation/test_whole.py --seed=N` replays one.
"""

from __future__ import annotations

import pytest

from simulator.whole_run import play

PART = 12
"""A run here costs as much as that many of the other simulations."""


def seeds(request: pytest.FixtureRequest) -> list[int]:
    replay: int | None = request.config.getoption("--seed")
    count: int = request.config.getoption("--seeds")
    return [replay] if replay is not None else list(range(max(1, count // PART)))


def test_every_promise_holds_with_everything_together(request: pytest.FixtureRequest) -> None:
    for seed in seeds(request):
        play(seed)


def test_a_seed_replays_exactly() -> None:
    assert play(9) == play(9)
