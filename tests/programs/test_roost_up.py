"""`roost up`: a cluster on one machine, killed at and started again."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

import roost
from roost_node.local_cluster import free_port
from roost_node.up import up as up_command

APP = Path(__file__).resolve().parents[1] / "cluster" / "app.py"
END_S = 60


class Up:
    """The program, and what it has said so far."""

    def __init__(self, data: Path, port: int, app: Path = APP, *flags: str) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "roost_node", "up", str(app), "--port", str(port), "--routers", "2",
                "--data", str(data), *flags,
            ],
            stderr=subprocess.PIPE,
            env={**os.environ, "ROOST_SUPERVISE": "1"},
            text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            self.lines.extend(iter(stream.readline, ""))

    async def until(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until that many lines match; the part that matters of each."""
        try:
            async with asyncio.timeout(END_S):
                while len(found := self.find(pattern)) < count:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} in\n" + "".join(self.lines[-200:])) from None
        return found

    def find(self, pattern: str) -> list[str]:
        found = [m for line in self.lines if (m := re.search(pattern, line))]
        return [m.group(1) if m.groups() else m.group(0) for m in found]

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        try:
            return self._process.wait(timeout=END_S)
        finally:
            self._process.kill()
            self._reader.join(timeout=5)


async def count(port: int, expected: int) -> None:
    async with roost.connect(f"localhost:{port}", timeout=30.0) as cluster:
        for number in range(8):
            counter = cluster.object("Counter", f"key-{number}")
            assert await counter.increment() == expected


def test_a_cluster_survives_a_kill_and_is_there_again(tmp_path: Path) -> None:
    port = free_port()
    up = Up(tmp_path / "data", port)
    try:

        async def story() -> None:
            await up.until("ready:")
            await count(port, 1)
            (pid,) = await up.until(r"node-1 .*node started  pid=(\d+)")
            os.kill(int(pid), signal.SIGKILL)
            await count(port, 2)
            await up.until(r"node-1 .*death written")
            await up.until(r"node-1 .*serving  address", 2)
            await count(port, 3)

        asyncio.run(story())
    finally:
        status = up.stop()
    assert status == 0, "".join(up.lines)[-3000:]
    for name in ("node-1", "node-2", "node-3", "router-1", "router-2"):  # each stopped in order
        assert any(re.match(rf"{name} .* stopped$", line) for line in up.lines), name
    assert {path.name for path in (tmp_path / "data").iterdir()} == {
        *("etcd", "node-1", "node-2", "node-3")
    }
    up = Up(tmp_path / "data", port, APP, "--shards", "32")
    try:
        asyncio.run(count_when_ready(up, port))
        (told,) = up.find("--shards 32 counts for nothing.*")
        assert told.endswith("created with 16")
        asyncio.run(terminate_one(up))
        assert not up.find("node-2 .*again in")
    finally:
        assert up.stop() == 0, "".join(up.lines)[-3000:]


async def count_when_ready(up: Up, port: int) -> None:
    await up.until("ready:")
    await count(port, 4)


async def terminate_one(up: Up) -> None:
    (pid,) = await up.until(r"node-2 .*node started  pid=(\d+)")
    os.kill(int(pid), signal.SIGTERM)
    await up.until("node-2 .*was told to stop, and ended: it is not started again")


def test_a_node_that_refuses_to_start_ends_all_and_says_why(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "node-2").mkdir(parents=True)
    (data / "node-2" / "somebody-elses").write_text("")
    up = Up(data, free_port())
    assert up.wait() == 1
    (why,) = up.find("not started: (.*)")
    assert why.startswith("node-2 ended with 1: ")
    assert "node-2 is not" in why


@pytest.mark.parametrize(
    "wrong",
    [("--replicas", "9"), ("--shards", "15"), ("--shards", "8192"), ("--port", "70000")],
    ids=" ".join,
)
def test_what_no_node_takes_is_wrong_usage(tmp_path: Path, wrong: tuple[str, str]) -> None:
    said = refused(tmp_path / "data", *wrong)
    assert wrong[0].strip("-") in said
    assert wrong[1] in said
    assert not (tmp_path / "data").exists()


def test_a_directory_has_one_cluster_at_a_time(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        assert "in use by another `roost up`" in refused(tmp_path)
    finally:
        os.close(folder)


def test_a_cluster_of_four_nodes_is_not_started_with_two(tmp_path: Path) -> None:
    for number in range(1, 5):
        (tmp_path / f"node-{number}").mkdir()
    assert "has 4 nodes: give --nodes 4" in refused(tmp_path, "--nodes", "2")


def refused(data: Path, *flags: str) -> str:
    words = [str(APP), "--data", str(data), "--port", "0", *flags]
    done = CliRunner().invoke(up_command, words)
    assert done.exit_code == 2, done.output
    return done.output


def test_an_application_that_cannot_be_loaded_starts_nothing(tmp_path: Path) -> None:
    up = Up(tmp_path / "data", free_port(), tmp_path / "no_such_file.py")
    asyncio.run(up.until("no_such_file"))
    assert up.wait() == 2
    assert not (tmp_path / "data").exists()


def test_an_application_that_raises_shows_its_own_lines_alone(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import there_is_no_such_module\n")
    up = Up(tmp_path / "data", free_port(), broken)
    asyncio.run(up.until("No module named 'there_is_no_such_module'"))
    assert up.wait() == 1
    assert any("broken.py cannot be loaded" in line for line in up.lines)
    assert not any("click" in line for line in up.lines), "".join(up.lines)
    assert not (tmp_path / "data").exists()
