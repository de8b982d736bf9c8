"""Write the tables of the documentation that come from the code: `make docs`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`. `--check`, a part of `make check`, says what
is stale and writes nothing.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from roost_node.__main__ import HIDDEN
from roost_node.config import Limits, NodeConfig
from roost_node.node import Node
from roost_node.replication.auditor import Auditor
from roost_node.server import Server
from roost_node.storage import rocks
from roost_router.config import Limits as RouterLimits
from roost_router.config import RouterConfig
from roost_router.router import Router

HERE = Path(__file__).resolve().parent
UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def show(value: object, unit: str) -> str:
    """A number for people."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value == 0 and unit == "bytes":
        return "0"
    if isinstance(value, (int, float)) and unit == "bytes":
        for size, name in UNITS:
            if value % size == 0:
                return f"{int(value // size):,} {name}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    shown = f"{value:,}" if isinstance(value, (int, float)) and unit else str(value)
    return f"{shown} {unit}".rstrip()


def span(about: Mapping[str, Any]) -> str:
    """From where to where a number may go."""
    low, high, unit = about["low"], about["high"], about["unit"]
    if low is None:
        return ""
    return f"{show(low, unit if unit == 'bytes' else '')} to {show(high, unit)}"


def knobs(*groups: type) -> str:
    """Every setting: its flag, default, range and reason."""
    rows = ["| flag | default | range | what it bounds or sets |", "| --- | --- | --- | --- |"]
    for group in groups:
        for knob in dataclasses.fields(group):
            about = knob.metadata
            if "unit" not in about or knob.name in HIDDEN:
                continue
            unit = about["unit"]
            flag = "--" + knob.name.replace("_", "-")
            rows.append(
                f"| `{flag}` | {show(knob.default, unit)} | {span(about)} | {about['why']} |"
            )
    return "\n".join(rows)


def metrics() -> str:
    """Every metric of a node that serves: its name, kind and help text."""

    def fatal(error: BaseException) -> None:
        raise error

    async def served() -> str:
        rows = ["| metric | kind | what it is |", "| --- | --- | --- |"]
        with tempfile.TemporaryDirectory() as path:
            async with Node(Path(path), {}, fatal) as node:
                server = Server(node, "127.0.0.1", 0)
                await server.start()
                nothing: Any = (
                    None  # of a cluster it is, and has a gauge: that is all that is asked of it
                )
                Auditor(nothing, nothing, node.telemetry, 0, nothing, nothing)
                for family in node.telemetry.collect():
                    name = family.name + ("_total" if family.type == "counter" else "")
                    labels = "{" + LABELS[name] + "}" if name in LABELS else ""
                    rows.append(f"| `{name}{labels}` | {family.type} | {family.documentation} |")
                await server.stop()
        return "\n".join(rows)

    return asyncio.run(served())


def router_metrics() -> str:
    """Every metric of a router, but for its count of sessions."""
    rows = ["| metric | kind | what it is |", "| --- | --- | --- |"]
    for family in Router(()).telemetry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join(rows)


def rocksdb() -> str:
    """What the database takes of the memory."""
    tables, cache = rocks.MEMTABLE_BYTES * rocks.MEMTABLES_MAX, rocks.CACHE_BYTES
    return (
        f"RocksDB takes up to about {show(tables + cache, 'bytes')} beside the objects: "
        f"{show(tables, 'bytes')} for what is not in tables yet, {show(cache, 'bytes')} for its cache."
    )


LABELS = {"roost_calls_total": "status", "roost_rejections_total": "reason"}

TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "limits": ("OPERATIONS.md", lambda: knobs(Limits)),
    "process": ("OPERATIONS.md", lambda: knobs(NodeConfig)),
    "rocksdb": ("OPERATIONS.md", rocksdb),
    "metrics": ("OPERATIONS.md", metrics),
    "router": ("OPERATIONS.md", lambda: knobs(RouterConfig, RouterLimits)),
    "router metrics": ("OPERATIONS.md", router_metrics),
}


def fill(page: str, text: str) -> str:
    """The page with its tables made anew."""
    for name, (where, make) in TABLES.items():
        if where == page:
            before, after = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
            pattern = re.compile(f"{re.escape(before)}.*?{re.escape(after)}", re.S)
            assert len(pattern.findall(text)) == 1, f"{page} has no place for {name}"
            table = f"{before}{make()}{after}"
            text = pattern.sub(lambda _, table=table: table, text)  # type: ignore[misc]  # bound now
    return text


def pages() -> Iterable[Path]:
    """Pages with generated tables."""
    return sorted({HERE / where for where, _ in TABLES.values()})


def variants() -> set[str]:
    """Names of the broken versions that the simulation must catch."""
    names: set[str] = set()
    for path in (HERE.parent / "tests" / "simulation").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "VARIANTS":
                assert isinstance(node.value, ast.List)
                names |= {ast.unparse(element) for element in node.value.elts}
    return names


def problems() -> list[str]:
    """What is stale."""
    found = [
        f"docs/{path.name} is stale: run `make docs`"
        for path in pages()
        if fill(path.name, path.read_text()) != path.read_text()
    ]
    rows = re.findall(
        r"^\| (?:[A-Z]\d.*?|callers' order|took effect) \| `(\w+)` \|",
        (HERE / "TESTING.md").read_text(),
        re.M,
    )
    found += [
        f"docs/TESTING.md: the table of broken versions and tests/simulation differ in {name}"
        for name in sorted(variants() ^ set(rows))
    ]
    return found


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("\n".join(problems()) or 0)
    for path in pages():
        path.write_text(fill(path.name, path.read_text()))
