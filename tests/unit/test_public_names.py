"""The public names: those of the documentation, no more and no less."""

from __future__ import annotations

import inspect
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


def test_the_reference_has_the_arguments_of_connect_and_the_methods_of_a_cluster() -> None:
    text = REFERENCE.read_text()
    arguments = {
        name
        for name, argument in inspect.signature(roost.connect).parameters.items()
        if argument.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert set(re.findall(r"^\| `(\w+)=` \|", text, re.M)) == arguments
    methods = {name for name in vars(roost.sync.Cluster) if not name.startswith("_")}
    listed = re.findall(r"^\| `(?:await |async for info in )?(\w+)\(.*\)` \|", text, re.M)
    assert {*listed, "call", "iterate"} == methods


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


def test_where_only_the_client_is_installed_serving_says_what_to_install() -> None:
    code = (
        "import asyncio, sys\n"
        "sys.modules['rocksdict'] = sys.modules['uvloop'] = None  # as if they were not there\n"
        "import roost\n"
        "from roost.cli import main\n"
        "class Counter(roost.DurableObject):\n"
        "    count: int = 0\n"
        "async def serve():\n"
        "    async with roost.local(Counter): pass\n"
        "try: asyncio.run(serve())\n"
        "except roost.RoostError as error: print(error)\n"
        "main()"
    )
    for words, status, said in (
        (["dev", "app.py"], 2, "No such command 'dev'. But this installation can call objects"),
        (["status", "--help"], 0, ""),
    ):
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert "pip install 'roost[server]'" in done.stdout
        assert said in " ".join(done.stderr.split())


def test_a_client_alone_imports_no_server() -> None:
    code = (
        "import roost, sys; "
        "assert not [m for m in sys.modules if m.split('.')[0] in ('roost_node', 'rocksdict', 'uvloop')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
