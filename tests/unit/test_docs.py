"""The documentation: links lead somewhere, named tests exist, tables are those of the code."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import roost
from roost_node.config import Limits, NodeConfig

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
        path
        for path in ROOT.rglob("*.md")
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
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
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


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


def test_every_hazard_is_attacked_or_excused() -> None:
    page = (DOCS / "GUARANTEES.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", page, re.M)
    assert [int(number) for number, *_ in rows] == list(range(1, 51))
    variants, faults = generator().variants(), functions_of(ROOT / "tests/rounds/faults.py")
    for number, _, rule, attack in rows:
        says_why_not = re.search(r"\byet\b|\bnot tested\b", rule + attack)
        is_attacked = re.search(r"tests/|broken|simulated|rounds", attack)
        assert is_attacked or says_why_not, f"{number} is neither attacked nor excused"
        for name in re.findall(r"broken ((?:`\w+`(?:, )?)+)", attack):
            assert set(re.findall(r"\w+", name)) <= variants, (number, name)
        for name in re.findall(r"rounds \(((?:`\w+`(?:, )?)+)", attack):
            assert set(re.findall(r"\w+", name)) <= faults, (number, name)


def test_every_rule_that_the_code_cites_exists() -> None:
    rules = set(re.findall(r"^- \*\*([OPRLMHF]\d)\*\*", (DOCS / "PROTOCOL.md").read_text(), re.M))
    assert len(rules) >= 40
    for folder in ("client", "node", "router", "tests/simulation", "tests/simulator"):
        for path in (ROOT / folder).rglob("*.py"):
            cited = set(re.findall(r"\b[OPRLMHF]\d\b", path.read_text()))
            assert cited <= rules, path


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_code() -> None:
    assert generator().problems() == []


def test_the_gate_passes_when_nothing_is_stale() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_table_and_a_missing_row_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    generate = generator()
    monkeypatch.setitem(generate.TABLES, "limits", ("OPERATIONS.md", lambda: "| other |"))
    monkeypatch.setattr(generate, "variants", lambda: {"brand_new_variant"})
    found = generate.problems()
    assert any("OPERATIONS.md is stale" in problem for problem in found)
    assert any("brand_new_variant" in problem for problem in found)


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
