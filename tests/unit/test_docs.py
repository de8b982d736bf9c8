"""The documentation: links lead somewhere, named tests exist, tables are those of the code."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import roost
from roost_node.config import Limits, NodeConfig
from roost_node.node import Node
from roost_node.server import Server

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    paths = [ROOT / name for name in listed] or [
        path for path in ROOT.rglob("*.md") if not any(p.startswith(".") for p in path.parts)
    ]
    return [path for path in paths if path.exists()]


def anchor(title: str) -> str:
    """The fragment that a heading gets."""
    plain = re.sub(r"[^\w\- ]", "", re.sub(r"`", "", title).lower())
    return plain.strip().replace(" ", "-")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def test_every_relative_link_leads_somewhere() -> None:
    broken: list[str] = []
    for page in pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, fragment = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
            elif fragment and path.suffix == ".md":
                titles = re.findall(r"^#+ (.*)$", without_code(path.read_text()), re.M)
                if fragment not in map(anchor, titles):
                    broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


def test_every_test_that_the_documentation_names_exists() -> None:
    missing: list[str] = []
    count = 0
    for page in pages():
        for path, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text()):
            count += 1
            if not (ROOT / path).exists() or (name and name not in functions_of(ROOT / path)):
                missing.append(f"{page.relative_to(ROOT)}: {path}::{name}")
    assert not missing
    assert count, "no page names a test"


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_fresh() -> None:
    generate = generator()
    for path in generate.pages():
        text = path.read_text()
        assert generate.fill(path.name, text) == text, f"{path.name} is stale: run `make docs`"


def test_every_metric_is_documented_and_no_other(tmp_path: Path) -> None:
    async def served() -> dict[str, tuple[str, str]]:
        def fatal(error: BaseException) -> None:
            raise error

        async with Node(tmp_path, {}, fatal) as node:
            server = Server(node, "127.0.0.1", 0)
            await server.start()
            found = {f.name: (f.type, f.documentation) for f in node.telemetry.collect()}
            await server.stop()
            return found

    found = {
        name + ("_total" if kind == "counter" else ""): kind
        for name, (kind, _) in asyncio.run(served()).items()
    }
    text = (DOCS / "OPERATIONS.md").read_text()
    listed = dict(
        re.findall(r"^\| `(roost_\w+)(?:\{\w+\})?` \| (counter|gauge|histogram) \|", text, re.M)
    )
    assert listed == found


def test_every_setting_has_a_reason_and_numbers_have_a_range() -> None:
    for group in (Limits, NodeConfig):
        for knob in group.__dataclass_fields__.values():
            if knob.name == "limits":
                continue
            assert knob.metadata["why"], knob.name
            if type(knob.default) in (int, float):
                low, high = knob.metadata["low"], knob.metadata["high"]
                assert low <= knob.default <= high, knob.name


def test_the_version_is_in_the_changelog() -> None:
    assert re.search(
        rf"^## {re.escape(roost.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX"])
def test_no_page_has_a_loose_end(word: str) -> None:
    assert [p.name for p in pages() if word in p.read_text()] == []
