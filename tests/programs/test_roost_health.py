"""`roost health`, as the health checks of containers run it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from programs.test_router import Cluster, Process
from roost_node.local_cluster import free_port

ROOST = str(Path(sys.executable).with_name("roost"))
WAIT_S = 60


def health(address: str, timeout: float = 30.0) -> tuple[int, str, str]:
    words = [ROOST, "health", "--address", address, "--timeout", str(timeout)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout.strip(), ended.stderr.strip()


def test_it_says_whether_a_server_serves(tmp_path: Path) -> None:
    router = Process("roost_router", "router", "--nodes", f"127.0.0.1:{free_port()}")
    cluster = Cluster(tmp_path)
    try:
        assert health(router.address) == (1, "NOT_SERVING", "")  # it has not found its node
        end = time.monotonic() + WAIT_S
        while (found := health(cluster.node.address)) != (0, "SERVING", ""):
            assert time.monotonic() < end, found
    finally:
        router.kill()
        cluster.node.kill()


def test_silence_is_told_from_an_answer() -> None:
    address = f"127.0.0.1:{free_port()}"
    status, said, why = health(address, timeout=0.2)
    assert (status, said) == (1, "")
    assert f"{address} does not answer" in why


def test_a_probe_does_not_load_the_servers() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from roost.cli import build; "
        "CliRunner().invoke(build(), ['health', '--address', '127.0.0.1:1', '--timeout', '0.1']); "
        "sys.exit('roost_node' in sys.modules or 'roost_router' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_file_of_settings_is_for_all_commands(tmp_path: Path) -> None:
    settings = tmp_path / "roost.toml"
    settings.write_text("open_calls_max = 10\nkeepalive_s = 1.0\n")
    words = [ROOST, "call", "--config", str(settings), "--help"]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    settings.write_text("no_such_setting = 1\n")
    refused = subprocess.run(words, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "no_such_setting" in refused.stderr
