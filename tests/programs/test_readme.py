"""What the README and the one-page API show, run as a reader would: commands and programs, in order."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from programs.test_roost_dev import Dev

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
CHANGES = re.compile(  # differs each time
    r"\d{4}-\d\d-\d\dT[\d:]+\+00:00|\"(?:created|changed)_ms\":\d+|\"owner\":\"\w+\"| +$", re.M
)


class Counter(Dev):
    """`roost dev examples/counter.py`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)

    def start(self) -> None:
        self.app = ROOT / "examples" / "counter.py"
        super().start()


@contextlib.contextmanager
def counter(folder: Path) -> Iterator[Counter]:
    server = Counter(folder)
    try:
        yield server
    finally:
        server.stop()


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of every code block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(), re.M | re.S)


def run_program(text: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return done.stdout


def test_the_readme_can_be_followed(tmp_path: Path) -> None:
    commands = programs = 0
    with counter(tmp_path) as server:
        for language, text in blocks(README):
            if language == "console":
                for step in re.split(r"^\$ ", text, flags=re.M)[1:]:
                    command, _, expected = step.partition("\n")
                    words = shlex.split(command)
                    if words[0] != "roost" or words[1] == "dev":
                        continue
                    done = server.run(*words[1:])
                    assert squeeze(done.stdout + done.stderr) == squeeze(expected), command
                    commands += 1
            elif (language == "python" and "localhost:7400" in text) or "roost.local" in text:
                printed = run_program(
                    text.replace("localhost:7400", f"127.0.0.1:{server.port}"), tmp_path
                )
                promised = re.findall(r"# prints ([^:\n]+)", text)
                assert printed.splitlines() == [line.strip() for line in promised], text
                programs += 1
    assert (commands, programs) == (4, 3)


def squeeze(text: str) -> str:
    return " ".join(CHANGES.sub("", text).split())


def test_the_class_in_the_readme_is_the_example() -> None:
    shown = next(text for _, text in blocks(README) if "class Counter" in text)
    example = (ROOT / "examples" / "counter.py").read_text()
    assert signatures(shown) == signatures(example)


def signatures(text: str) -> list[str]:
    return [
        line.split("#")[0].strip()
        for line in text.splitlines()
        if re.match(r"\s*(class|async def|@|count|self|return)", line)
    ]


@pytest.mark.parametrize("page", ["client/README.md"])
def test_the_page_of_the_api_runs(tmp_path: Path, page: str) -> None:
    programs = [text for language, text in blocks(ROOT / page) if language == "python"]
    module, use = programs
    app = tmp_path / "shop.py"
    app.write_text(module)
    printed = run_program(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom shop import *\n{use}", tmp_path
    )
    assert printed.splitlines()[:2] == ["tea", "only 7 left"]
