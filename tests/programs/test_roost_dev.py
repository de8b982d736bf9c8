"""`roost dev` and the commands beside it, as a user runs them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

import roost
from roost_node.config import Limits, NodeConfig

APP = """
import asyncio
from roost import DurableObject

class Counter(DurableObject):
    count: int = 0

    async def increment(self, by: int = 1) -> int:
        self.count += by * STEP
        return self.count

    async def slow(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        self.count += STEP
        return self.count

    async def tail(self, end: int):
        for number in range(end):
            yield number

STEP = 1
"""


class Dev:
    """A `roost dev` process."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.app = folder / "app.py"
        self.app.write_text(APP)
        self.log = folder / "log.txt"
        self.flags = flags
        self.start()

    def start(self) -> None:
        command = [
            sys.executable, "-m", "roost_node", "dev", str(self.app), "--data", str(self.folder / "data"),
            "--port", "0", "--metrics-port", "0", *self.flags,
        ]  # fmt: skip
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log)
        self.port = int(
            self.wait(
                r"serving .*address=127\.0\.0\.1:(\d+)|\"address\":\"127\.0\.0\.1:(\d+)\",\"data\""
            )
        )

    def wait(self, pattern: str, count: int = 1) -> str:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            found = list(re.finditer(pattern, self.log.read_text()))
            if len(found) >= count:
                return next((g for g in found[-1].groups() if g), "")
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"{pattern} never came:\n{self.log.read_text()}")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from roost.cli import main; main()", *arguments]
        environment = {**os.environ, "ROOST_ADDRESS": f"127.0.0.1:{self.port}"}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=30
        )

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


@contextlib.contextmanager
def dev(folder: Path, *flags: str) -> Iterator[Dev]:
    server = Dev(folder, *flags)
    try:
        yield server
    finally:
        server.stop()


def test_commands_call_list_show_and_delete(tmp_path: Path) -> None:
    with dev(tmp_path) as server:
        done = server.run("call", "Counter", "page-42", "increment", "--arg", "by=2")
        assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
        done = server.run("call", "Counter", "page-42", "increment", "--json")
        assert json.loads(done.stdout) == {"result": 3}
        assert server.run("call", "Counter", "x", "tail", "--arg", "end=3").stdout == "0\n1\n2\n"
        listed = json.loads(server.run("objects", "list", "--json").stdout)
        assert [(o["class"], o["key"]) for o in listed] == [("Counter", "page-42")]
        assert (
            "page-42"
            in server.run("objects", "list", "--class", "Counter", "--prefix", "page").stdout
        )
        shown = json.loads(server.run("objects", "show", "Counter", "page-42", "--json").stdout)
        assert shown["fields"] == {"count": 3}
        assert json.loads(server.run("status", "--json").stdout)["classes"] == ["Counter"]
        assert server.run("objects", "delete", "Counter", "page-42", "--yes").returncode == 0
        assert server.run("objects", "show", "Counter", "page-42").returncode == 1
        bench = server.run(
            "bench", "Counter", "increment", "--seconds", "0.3", "--callers", "8", "--json"
        )
        assert json.loads(bench.stdout)["calls"] > 10


def test_a_node_alone_is_shown_as_a_cluster_of_one(tmp_path: Path) -> None:
    with dev(tmp_path) as server:
        server.run("call", "Counter", "page-42", "increment")
        status = json.loads(server.run("status", "--json").stdout)
        (node,) = status["nodes"]
        assert status["states"] == {"in sync": status["shards"]} == {"in sync": node["owners"]}
        shown = server.run("status").stdout
        assert "1,024 shards: 1,024 in sync" in shown
        assert "classes: Counter" in shown
        shards = json.loads(server.run("shards", "--json").stdout)
        assert [shard["owner"] for shard in shards] == [node["store_id"]] * status["shards"]
        assert isinstance(shards[0]["epoch"], int), "numbers are numbers"
        assert len(server.run("shards").stdout.splitlines()) == status["shards"] + 1
        assert json.loads(server.run("shards", "--state", "waiting", "--json").stdout) == []
        assert server.run("plan").stdout.startswith("0 copies (0 bytes known), 0 handoffs")
        explained = json.loads(server.run("explain", "Counter", "page-42", "--json").stdout)
        assert (explained["local"], explained["live"]) == (True, True)
        assert "in memory        yes" in server.run("explain", "Counter", "page-42").stdout
        for order in (("drain", node["store_id"]), ("move", "3", node["store_id"])):
            refused = server.run(*order)
            assert refused.returncode == 1
            assert "in no cluster" in refused.stderr
        assert server.run("move", "3").returncode == 2
        assert server.run("shards", "--store", "zz").returncode == 1


def test_exit_status_is_1_for_failure_and_2_for_wrong_usage(tmp_path: Path) -> None:
    with dev(tmp_path) as server:
        failed = server.run("call", "Counter", "a", "nothing")
        assert failed.returncode == 1
        assert "UnknownMethodError" in failed.stderr
        for name in ("_caller", "__init__"):
            private = server.run("call", "Counter", "a", name)
            assert private.returncode == 1
            assert "UnknownMethodError" in private.stderr
        assert server.run("call", "Counter").returncode == 2
        assert server.run("objects", "delete", "Counter", "a").returncode == 1  # nobody says yes
        assert server.run("call", "Counter", "a", "increment", "--arg", "by").returncode == 2
    assert server.run("call", "Counter", "a", "increment", "--timeout", "1").returncode == 1


def test_changed_code_runs_at_once_with_state_port_and_open_calls_kept(tmp_path: Path) -> None:
    async def story(server: Dev) -> None:
        async with roost.connect(f"127.0.0.1:{server.port}") as cluster:
            counter = cluster.object("Counter", "c")
            assert await counter.increment() == 1
            running = asyncio.ensure_future(cluster.object("Counter", "c").slow(seconds=0.3))
            await asyncio.sleep(0.05)
            server.app.write_text(APP.replace("STEP = 1", "STEP = 10"))
            assert await running in (2, 11)  # it ended under the old code, or was run again
            before = await cluster.object("Counter", "c").increment(by=0)
            await asyncio.to_thread(server.wait, r"reloaded()")
            assert await counter.increment() == before + 10
            server.app.write_text("def broken(:")
            await asyncio.to_thread(server.wait, r"SyntaxError()")
            assert await counter.increment() == before + 20

    with dev(tmp_path) as server:
        asyncio.run(story(server))
        assert server.stop() == 0


def test_a_restart_finds_everything(tmp_path: Path) -> None:
    with dev(tmp_path) as server:
        assert server.run("call", "Counter", "c", "increment").stdout == "1\n"
        assert server.stop() == 0
        server.start()
        assert server.run("call", "Counter", "c", "increment").stdout == "2\n"


def test_a_file_that_is_broken_at_the_first_start_ends_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def broken(:")
    command = [
        sys.executable,
        "-m",
        "roost_node",
        "dev",
        str(tmp_path / "app.py"),
        "--data",
        str(tmp_path / "d"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "SyntaxError" in done.stderr


def test_sigterm_lets_running_calls_finish(tmp_path: Path) -> None:
    async def story(server: Dev) -> None:
        async with roost.connect(f"127.0.0.1:{server.port}", timeout=10.0) as cluster:
            running = asyncio.ensure_future(cluster.object("Counter", "c").slow(seconds=0.5))
            await asyncio.sleep(0.1)
            server.process.send_signal(signal.SIGTERM)
            assert await running == 1

    with dev(tmp_path) as server:
        asyncio.run(story(server))
        assert server.process.wait(timeout=10) == 0


def test_calls_that_outlive_the_grace_period_are_retried_elsewhere(tmp_path: Path) -> None:
    with dev(tmp_path, "--grace-s", "0.1") as server:

        async def story() -> None:
            async with roost.connect(f"127.0.0.1:{server.port}", timeout=2.0) as cluster:
                running = asyncio.ensure_future(cluster.object("Counter", "c").slow(seconds=30.0))
                await asyncio.sleep(0.1)
                server.process.send_signal(signal.SIGTERM)
                with pytest.raises((roost.UnavailableError, roost.DeadlineExceededError)):
                    await running

        asyncio.run(story())
        assert server.process.wait(timeout=10) == 0


def test_metrics_and_json_logs(tmp_path: Path) -> None:
    with dev(tmp_path, "--log-format", "json") as server:
        server.run("call", "Counter", "c", "increment")
        server.run("call", "Counter", "c", "nothing")
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        assert {line["message"] for line in lines} >= {"serving", "metrics"}
        address = next(line["address"] for line in lines if line["message"] == "metrics")
        text = scraped(address)
        for name in (
            'roost_calls_total{status="OK"} 1.0', 'roost_rejections_total{reason="UnknownMethodError"} 1.0',
            "roost_call_seconds_count 1.0", "roost_mailbox_depth_bucket", "roost_activations 1.0",
            "roost_commit_batch_entries_count", "roost_fsync_seconds_count", "roost_loop_lag_seconds_bucket",
            "roost_dedup_hits_total 0.0",
        ):  # fmt: skip
            assert name in text, name


def scraped(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_metrics_count_calls_that_were_answered_from_a_record(tmp_path: Path) -> None:
    async def same_call(server: Dev, rid: UUID) -> int:
        async with roost.connect(f"127.0.0.1:{server.port}", connect_timeout=20.0) as cluster:
            counter = cluster.object("Counter", "c")
            return int(await roost.options(counter, request_id=rid).increment())

    with dev(tmp_path) as server:
        rid = roost.new_request_id()
        assert asyncio.run(same_call(server, rid)) == 1
        server.stop()
        server.start()  # another process: it has nothing but what is on the disk
        assert asyncio.run(same_call(server, rid)) == 1
        address = server.wait(r"metrics .*address=(\S+)")
        assert "roost_dedup_hits_total 1.0" in scraped(address)
        assert asyncio.run(same_call(server, rid)) == 1
        assert "roost_dedup_hits_total 2.0" in scraped(address)


def test_settings_come_from_flags_environment_and_a_file(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from roost_node import __main__ as commands
    from roost_node import program

    seen: list[object] = []
    config = tmp_path / "roost.toml"
    config.write_text("grace_s = 1.5\nhook_s = 2.5\ncancel_s = 3.5\n")
    app = tmp_path / "app.py"
    app.write_text(APP)
    with pytest.MonkeyPatch.context() as patch:

        def run(config: object, application: object, *, reload: bool, supervisor: object) -> int:
            seen.append(config)
            return 0

        patch.setattr(program, "run", run)
        patch.setenv("ROOST_SUPERVISE", "0")
        patch.setenv("ROOST_HOOK_S", "20")
        patch.setenv("ROOST_CANCEL_S", "30")
        arguments = [str(app), "--config", str(config), "--cancel-s", "300"]
        result = CliRunner().invoke(commands.node, arguments)
        assert result.exit_code == 0, result.output
        config.write_text("address = 'elsewhere:1'\ncheck_effects = true\ngrace_s = 9.0\n")
        assert CliRunner().invoke(commands.dev, [str(app), "--config", str(config)]).exit_code == 0
        config.write_text("colour = 'red'")
        assert CliRunner().invoke(commands.node, arguments).exit_code == 2
        assert CliRunner().invoke(commands.node, [str(app), "--grace-s", "-1"]).exit_code == 2
        for wrong in (("--log-format", "xml"), ("--log-level", "loud")):
            assert CliRunner().invoke(commands.node, [str(app), *wrong]).exit_code == 2
    assert seen[1].check_effects  # type: ignore[attr-defined]
    limits = seen[0].limits  # type: ignore[attr-defined]
    assert (limits.grace_s, limits.hook_s, limits.cancel_s) == (1.5, 20, 300)


def test_every_setting_is_told_with_its_default_and_its_variable() -> None:
    from click.testing import CliRunner

    from roost.cli import build

    for command in ("dev", "node"):
        text = CliRunner().invoke(build(), [command, "--help"]).output
        flat = " ".join(text.split())
        for knob in (*dataclasses.fields(Limits), *dataclasses.fields(NodeConfig)):
            if knob.name == "limits" or (knob.name, command) == ("check_effects", "node"):
                continue
            assert f"[ROOST_{knob.name.upper()}]" in flat, knob.name
            assert f"--{knob.name.replace('_', '-')}" in flat, knob.name
            if knob.metadata.get("high") is not None:
                assert f"<=x<={knob.metadata['high']}]" in flat, knob.name


def test_the_commands_of_a_client_read_the_same_file(tmp_path: Path) -> None:
    config = tmp_path / "roost.toml"
    with dev(tmp_path) as server:
        config.write_text("address = '127.0.0.1:1'\ntimeout = 2.0\ngrace_s = 5.0\n")
        done = server.run("status", "--config", str(config), "--json")  # the environment goes first
        assert json.loads(done.stdout)["classes"] == ["Counter"], done.stderr
        config.write_text("colour = 'red'\n")
        assert server.run("status", "--config", str(config)).returncode == 2


def test_a_public_address_needs_insecure(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    command = [
        sys.executable, "-m", "roost_node", "node", str(tmp_path / "app.py"), "--data", str(tmp_path / "d"),
        "--host", "0.0.0.0", "--port", "0",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "--insecure" in done.stderr


def test_verify_reads_everything(tmp_path: Path) -> None:
    with dev(tmp_path) as server:
        server.run("call", "Counter", "c", "increment")
        server.stop()
        done = server.run("node", "--verify", "--data", str(tmp_path / "data"))
        assert done.returncode == 0
        assert "all readable" in done.stdout
