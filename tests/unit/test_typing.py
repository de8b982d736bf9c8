"""Users' code is type-checked: what is right passes, what is wrong is found where it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TYPING = Path(__file__).resolve().parents[1] / "typing"


def mypy(name: str) -> list[tuple[int, str]]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--config-file=",
        str(TYPING / name),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TYPING)
    found = re.findall(rf"^{re.escape(name)}:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.M)
    assert done.returncode in (0, 1), done.stderr
    return [(int(line), code) for line, code in found]


def test_right_code_has_no_error() -> None:
    assert mypy("right_users_code.py") == []


def test_each_mistake_is_found() -> None:
    lines = (TYPING / "wrong_users_code.py").read_text().splitlines()
    expected = [
        (number, line.split("# expect: ")[1].strip())
        for number, line in enumerate(lines, 1)
        if "# expect: " in line
    ]
    assert len(expected) > 8
    assert mypy("wrong_users_code.py") == expected
