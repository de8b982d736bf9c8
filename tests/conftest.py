"""Options shared by all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A busy machine is no failure: nothing is asserted of absolute times.
settings.register_profile("roost", deadline=None)
settings.load_profile("roost")


# Tests that kill a node mean the process that they started. Those of the supervisor ask for it.
os.environ["ROOST_SUPERVISE"] = "0"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=30, help="kills in the crash test")
    parser.addoption("--faults", type=int, default=6, help="rounds of faults against a cluster")
    parser.addoption("--only-fault", default="", help="this one in every round (rounds/faults.py)")
    parser.addoption("--etcd-down", type=float, default=12, help="seconds, where etcd stops")
    parser.addoption("--seeds", type=int, default=300, help="runs of the simulation")
    parser.addoption("--seed", type=int, default=None, help="replay this seed")
    parser.addoption(
        "--trace-of",
        action="append",
        default=[],
        metavar="WORD",
        help="of a failing run's trace, all lines of this process, or with this word (repeatable)",
    )
