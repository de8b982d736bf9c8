"""Small values that are made anew are the same values."""

from __future__ import annotations

from typing import Any

from roost_node.core.admission import Admission
from roost_node.core.dedup import Kept
from roost_node.core.log import Head, ShardLog
from roost_node.core.output_gate import OutputGate
from roost_node.core.repack import Part, repack
from roost_node.telemetry import Histogram, Telemetry

NOW_MS = 1_764_000_000_000


def state(part: Part) -> dict[str, Any]:
    """All that it holds, its small values included."""
    names = getattr(type(part), "__slots__", None) or vars(part)
    return {name: getattr(part, name) for name in names}


def test_nothing_is_changed_by_a_repack() -> None:
    log = ShardLog(7, Head(3, 1_000, b"h" * 16, NOW_MS), 4, NOW_MS)
    for number in range(3):
        log.append(b"group", {b"key": b"%d" % number}, NOW_MS + number)
    log.on_durable(1_002)
    gate: OutputGate[str] = OutputGate(1_002)
    gate.offer(1_003, "waits", own_entry=True)
    kept = Kept(2**40)
    kept.add(29_400_000, 2**33)
    kept.add(29_400_001, 70_000)
    admission = Admission(10, 2**20, 100)
    admission.open(100)
    admission.close(100)
    admission.tick(NOW_MS)
    times = Histogram(1e-6)
    times.add(300)
    telemetry = Telemetry()
    telemetry.ended[0] = 2**40
    parts: list[Part] = [log, log.clock, gate, kept, admission, times, *telemetry.parts()]
    before = [state(part) for part in parts]
    repack(parts)
    assert [state(part) for part in parts] == before


def test_the_values_are_new_ones() -> None:
    kept = Kept(2**40)
    kept.add(29_400_000, 70_000)
    (minute,) = kept._by_minute
    repack([kept])
    (new,) = kept._by_minute
    assert new == minute
    assert new is not minute
