"""The public names: those of the documentation, no more and no less."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import roost
from roost import errors

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "API.md"


def test_the_reference_names_all_public_names_and_no_others() -> None:
    text = REFERENCE.read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    assert listed == set(roost.__all__)


def test_every_error_is_public() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.RoostError)
    }
    assert classes <= set(roost.__all__)


def test_every_public_name_has_a_docstring() -> None:
    for name in roost.__all__:
        assert getattr(roost, name).__doc__, name


def test_a_client_alone_imports_no_server() -> None:
    code = (
        "import roost, sys; "
        "assert not [m for m in sys.modules if m.split('.')[0] in ('roost_node', 'rocksdict', 'uvloop')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
