"""A few rounds of faults; `make faults ROUNDS=50` plays more. What is played: `__main__.py`."""

from __future__ import annotations

import os
import random

import pytest

from rounds.network import is_administrator, run_sealed, why_not


@pytest.fixture(autouse=True)
def _a_network_can_be_made() -> None:
    if reason := why_not():
        if is_administrator() and os.environ.get("ROOST_CI"):
            pytest.fail(f"this machine could run it: {reason}")
        pytest.skip(f"no network namespaces here: {reason}")


def test_a_cut_goes_one_way_and_is_silent() -> None:
    assert run_sealed("rounds.one_way", []) == 0


@pytest.mark.timeout(1_200)
def test_no_fault_reaches_a_client(request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    seed = option("--seed")
    if seed is None:
        seed = random.SystemRandom().randrange(2**32)
    rounds = option("--faults")
    print(f"\n{rounds} rounds, --seed={seed}", flush=True)
    words = [f"--rounds={rounds}", f"--seed={seed}", f"--etcd-down={option('--etcd-down')}"]
    if option("--only-fault"):
        words.append(f"--only={option('--only-fault')}")
    assert run_sealed("rounds", words) == 0
