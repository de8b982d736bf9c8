"""What goes on in one object: whether it is live, who is in it, who waits, and for what.

Only looks: it neither brings the object into memory nor keeps it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from roost_node.host.activation import Activation
from roost_node.host.call import Kind, Stage

if TYPE_CHECKING:
    from roost_node.host.host import Host

CALLS_MAX = 100


class CallView(msgspec.Struct, frozen=True):
    """One call that has not ended."""

    method: str
    stage: str
    age_ms: int
    waits_for: str


class Inside(msgspec.Struct, frozen=True):
    """An object, from within."""

    live: bool
    queued: int
    awake_because: str  # empty: it is not
    calls: tuple[CallView, ...]  # the oldest first


def explain(host: Host, class_name: str, key: str) -> Inside:
    """What is known of an object of this host, now."""
    activation = host.activations.get((class_name, key))
    if activation is None:
        return Inside(False, 0, "", ())
    now_ms = host.now_ms()
    open_calls = sorted(activation.calls.values(), key=lambda active: active.arrived_ms)
    holders = [active for active in open_calls if active.stage is Stage.RUNNING]
    calls = []
    for active in open_calls[:CALLS_MAX]:
        waits_for = active.waits_for or ""
        if not waits_for and active.stage is Stage.QUEUED and holders:
            waits_for = f"{holders[0]}, which holds the object"
        name = active.call.method if active.kind is Kind.CALL else f"({active.kind.value_name})"
        calls.append(
            CallView(name, active.stage.name.lower(), now_ms - active.arrived_ms, waits_for)
        )
    queued = sum(active.stage in (Stage.HELD, Stage.QUEUED, Stage.READY) for active in open_calls)
    return Inside(True, queued, _why_awake(activation, now_ms), tuple(calls))


def _why_awake(activation: Activation, now_ms: int) -> str:
    """What keeps it in memory."""
    if activation.calls:
        return f"{len(activation.calls)} open calls"
    if not activation.may_leave:
        return f"it is {activation.state.name.lower()}"
    idle_s = max(0, now_ms - activation.used_ms) / 1000
    return f"idle for {idle_s:.1f} s of {activation.idle_after_ms / 1000:g} s (idle_after)"
