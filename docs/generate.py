"""Write the tables of the documentation that come from the code: `make docs`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; a test compares.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from roost_node.__main__ import HIDDEN
from roost_node.config import Limits, NodeConfig

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


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "limits": ("OPERATIONS.md", lambda: knobs(Limits)),
    "process": ("OPERATIONS.md", lambda: knobs(NodeConfig)),
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


if __name__ == "__main__":
    for path in pages():
        path.write_text(fill(path.name, path.read_text()))
