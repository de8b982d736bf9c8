"""What is refused at once, because it could never be reached."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import roost
from roost.adapters.addresses import checked
from roost.cli import build

APP = str(Path(__file__).resolve().parents[1] / "cluster" / "app.py")
WRONG = ("localhost", "", "http://localhost:7400", "localhost:", ":7400", "localhost:70000", "::1")


@pytest.mark.parametrize("address", ["localhost:7400", "[::1]:7400", " a_b-1.c:1 ", "dns:///a:1"])
def test_a_host_and_a_port_are_an_address(address: str) -> None:
    assert checked([address]) == (address.strip(),)


@pytest.mark.parametrize("address", WRONG)
def test_anything_else_is_refused_before_it_is_looked_for(address: str) -> None:
    with pytest.raises(roost.InvalidArgumentError, match="give host:port") as told:
        roost.connect("localhost:7400", address)
    assert (address or "''") in str(told.value)
    with (
        pytest.raises(roost.InvalidArgumentError, match="give host:port"),
        roost.sync.connect(address),
    ):
        pass


@pytest.mark.parametrize("address", WRONG)
@pytest.mark.parametrize(
    "command",
    [
        ("call", "A", "k", "m", "--address"),
        ("objects", "list", "--address"),
        ("status", "--address"),
        ("cluster", "events", "--address"),
        ("health", "--address"),
        ("router", "--nodes"),
        ("node", APP, "--etcd"),
        ("node", APP, "--advertise"),
    ],
    ids=" ".join,
)
def test_it_is_wrong_usage_of_a_command(command: tuple[str, ...], address: str) -> None:
    if command[0] == "node" and not address:
        return  # none: be alone, or be reached where others found us
    if command[-1] == "--etcd" and address.startswith("http"):
        return  # it says there whether to speak TLS
    done = CliRunner().invoke(build(), [*command, address])
    assert done.exit_code == 2, done.output
    assert "give" in done.output
    assert "host:port" in done.output
