"""Running a call twice, to find what it does beside what it returns (development only).

The first run works on a copy that is thrown away: fresh fields, a copy of the ordinary attributes.
Then the call runs as always. Where the two wrote or returned different things, the method depends on
something that a retry would not find again (time, randomness, a file, a counter in memory), and a
warning shows the difference. Equal calls to other objects are one call, by their request ids.

Source: Reboot's effect validation, which runs method bodies twice.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from roost.context import Context
from roost.fields import Fields
from roost.object import DurableObject
from roost_node.host.call import ActiveCall
from roost_node.host.object_port import ObjectPort

if TYPE_CHECKING:
    from roost_node.host.activation import Activation
    from roost_node.host.host import Host

log = logging.getLogger(__name__)


async def run_twice(host: Host, active: ActiveCall, arguments: Sequence[Any]) -> Any:
    """Run the call on a copy, then for real; returns what the real one returned."""
    activation = active.activation
    method = active.method
    assert method is not None
    instance = activation.instance
    raw = dict(activation.fields.raw)
    copied = Fields(activation.spec, raw, activation.may_write)
    trial = activation.spec.new(copied, Context(ObjectPort(activation)))
    _copy_attributes(instance, trial)
    first = await _observe(method.function(trial, *arguments), copied, activation)
    activation.rows, activation.rows_bytes, activation.cleared = None, 0, False
    active.child_counts = None  # the same child calls get the same ids again
    try:
        result = await method.function(instance, *arguments)
    except Exception as error:
        _warn(host, active, first, _Seen(repr(error), {}, {}))
        raise
    second = _Seen(repr(result), activation.fields.changes() or {}, _rows(activation))
    _warn(host, active, first, second)
    return result


class _Seen:
    """What one run did."""

    def __init__(self, ended: str, fields: dict[str, bytes], rows: dict[str, bytes | None]) -> None:
        self.ended = ended
        self.fields = fields
        self.rows = rows


async def _observe(run: Awaitable[Any], fields: Fields, activation: Activation) -> _Seen:
    try:
        ended = repr(await run)
    except Exception as error:  # the real run will tell the caller
        return _Seen(repr(error), {}, {})
    return _Seen(ended, fields.changes() or {}, _rows(activation))


def _rows(activation: Activation) -> dict[str, bytes | None]:
    rows: dict[str, bytes | None] = {"(all rows deleted)": b"1"} if activation.cleared else {}
    prefix = len(activation.group) + 3
    for key, value in (activation.rows or {}).items():
        rows[key[prefix:].decode(errors="replace")] = value
    return rows


def _copy_attributes(source: DurableObject, target: DurableObject) -> None:
    for name, value in vars(source).items():
        if name in vars(target):
            continue
        try:
            copied = copy.deepcopy(value)
        except Exception:  # a lock, a client: shared, as nothing better can be done
            copied = value
        vars(target)[name] = copied


def _warn(host: Host, active: ActiveCall, first: _Seen, second: _Seen) -> None:
    lines: list[str] = []
    if first.ended != second.ended:
        lines.append(f"  result: {first.ended} / {second.ended}")
    if first.ended == second.ended or (first.fields and second.fields):
        for what, one, two in (
            ("field", first.fields, second.fields),
            ("storage row", first.rows, second.rows),
        ):
            for name in sorted({*one, *two}):
                if one.get(name) != two.get(name):
                    lines.append(
                        f"  {what} {name!r}: {_show(one.get(name))} / {_show(two.get(name))}"
                    )
    if lines:
        host.telemetry.effect_warnings += 1
        log.warning(
            "%s did two things when run twice: a retry would not find them again. Take time from "
            "ctx.now(), pass random values in as arguments, or mark the method with "
            "@method(check_effects=False).\n%s",
            active,
            "\n".join(lines),
        )


def _show(raw: bytes | None) -> str:
    if raw is None:
        return "(nothing)"
    try:
        return repr(msgspec.msgpack.decode(raw))[:200]
    except msgspec.DecodeError:
        return repr(raw)[:200]
