"""One live object: its fields, its gate, and the turns that change it.

A turn collects writes: fields in `Fields`, storage rows in `_rows`. `commit` makes them one entry
with the record of the call; `roll_back` drops them. Only the turn that is inside the gate writes, so
one write set for each object is enough.

Not here: which call runs when (`arrivals.py`, `core/input_gate.py`), stepping its code (`worker.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from roost.cluster.ids import first_sent_ms
from roost.context import Context, DeactivationReason, current_call
from roost.errors import (
    ReadOnlyError,
    RoostError,
    StaleCallError,
    StateMismatchError,
    TooLargeError,
)
from roost.fields import Fields
from roost.object import ClassSpec, DurableObject
from roost.wire.messages import TURN_BYTES_MAX
from roost_node.core.caller_order import CallerOrder
from roost_node.core.dedup import minute_of
from roost_node.core.input_gate import InputGate
from roost_node.core.lifecycle import ActivationState
from roost_node.core.log import DeleteRange
from roost_node.host.blame import blame_code
from roost_node.host.call import ActiveCall, Stage
from roost_node.host.object_port import ObjectPort
from roost_node.host.shard import Shard
from roost_node.storage import layout, records

if TYPE_CHECKING:
    from roost_node.host.host import Host

SMALL_FIELD_BYTES_MAX = 1024
ORDERS_MIN = 1024  # stubs whose order is kept, before anybody looks which can be forgotten


class Activation:
    """The live instance of one object."""

    __slots__ = (
        "__weakref__",
        "_created_ms",
        "_large",
        "_migrated",
        "_record_key",
        "_stored",
        "calls",
        "class_name",
        "cleared",
        "fields",
        "gate",
        "group",
        "host",
        "idle_after_ms",
        "instance",
        "key",
        "last_index",
        "loading",
        "orders",
        "orders_max",
        "parked",
        "rows",
        "rows_bytes",
        "shard",
        "size_bytes",
        "spec",
        "state",
        "used_ms",
    )

    def __init__(self, host: Host, spec: ClassSpec, key: str, shard: Shard, now_ms: int) -> None:
        self.host = host
        self.spec = spec
        self.class_name = spec.name
        self.key = key
        self.shard = shard
        self.group = layout.object_id(spec.name, key)
        self.used_ms = now_ms
        self.idle_after_ms = int(spec.idle_after_s * 1000)
        self.state = ActivationState.ACTIVE
        self.gate: InputGate[ActiveCall] = InputGate()
        self.orders: dict[int, CallerOrder[ActiveCall]] | None = None
        self.orders_max = ORDERS_MIN
        self.calls: dict[bytes, ActiveCall] = {}
        self.parked: list[ActiveCall] | None = None  # came while it was leaving
        self.rows: dict[bytes, bytes | None] | None = None  # the open turn's storage writes
        self.rows_bytes = 0
        self.cleared = False  # the open turn has deleted all rows
        self.last_index = shard.log.last if shard.log.group(self.group) is not None else 0
        self.loading = False
        self.size_bytes = 0
        self._load(now_ms)

    # -- loading ---------------------------------------------------------------------------

    def _load(self, now_ms: int) -> None:
        """Read the record and the fields, from the state and younger entries (L4)."""
        spec, shard, group = self.spec, self.shard, self.group
        self._record_key = layout.record_key(shard.id, group)
        raw = shard.get(group, self._record_key)
        fields: dict[str, bytes] = {}
        self._large: tuple[str, ...] = ()
        self._stored = raw is not None
        self._created_ms = now_ms
        version = spec.version
        if raw is not None:
            record = records.decode_object(raw)
            self._created_ms = record.created_ms
            self.size_bytes = record.size_bytes
            version = record.version
            fields = {name: bytes(value) for name, value in record.fields.items()}
            self._large = tuple(record.large)
            for name in record.large:
                large = shard.get(group, layout.field_key(shard.id, group, name))
                if large is not None:
                    fields[name] = large
        if version > spec.version:
            raise StateMismatchError(
                f"{spec.name}/{self.key} was stored by version {version} of its class, this code "
                f"has version {spec.version}: run the newer code, or raise version and add a "
                f"@migrate that reads it"
            )
        self.loading = version < spec.version or self._has_hook("on_activate")
        self._migrated: dict[str, bytes] | None = None
        if version < spec.version:
            try:
                self._migrated = spec.migrate(fields, version)
            except RoostError:
                raise
            except Exception as error:
                raise blame_code(f"a @migrate of {spec.name}/{self.key}", error) from error
            self.size_bytes += sum(map(len, self._migrated.values())) - sum(
                map(len, fields.values())
            )
            fields = dict(self._migrated)
        self.fields = Fields(spec, fields, self.may_write)
        self.instance = spec.new(self.fields, Context(ObjectPort(self)))

    def _has_hook(self, name: str) -> bool:
        return getattr(self.spec.cls, name) is not getattr(DurableObject, name)

    @property
    def has_deactivate_hook(self) -> bool:
        """Does the class want to know when it leaves?"""
        return self._has_hook("on_deactivate")

    # -- what runs now ---------------------------------------------------------------------

    @property
    def is_gone(self) -> bool:
        """Nothing of it may have an effect any more."""
        return self.state is ActivationState.GONE

    @property
    def may_leave(self) -> bool:
        """Idle, and nobody's order is kept in memory for a call that waits."""
        return self.state is ActivationState.ACTIVE and self.gate.is_idle and not self.calls

    def may_write(self) -> None:
        """Raise unless the code that asks belongs to the turn that is open."""
        active = current_call.get()
        if (
            active is None
            or active.activation is not self
            or active.stage is not Stage.RUNNING
            or self.state is ActivationState.GONE
        ):
            raise StaleCallError(
                f"{self.class_name}/{self.key}: a write came from a task whose call has ended: "
                f"await your tasks before the method returns"
            )
        if active.shared:
            raise ReadOnlyError(
                f"{active} is marked read_only and tried to write: drop the mark, or the write"
            )
        if active.interleaves and not active.inside:
            raise StaleCallError(
                f"{active} interleaves: only the method itself may write, not a task that it started"
            )

    def order_of(self, stub_id: int) -> CallerOrder[ActiveCall]:
        """The order of one stub's calls here."""
        orders = self.orders
        if orders is None:
            orders = self.orders = {}
        order = orders.get(stub_id)
        if order is None:
            if len(orders) >= self.orders_max:
                self._drop_orders(orders)
            order = orders[stub_id] = CallerOrder()
        return order

    def _drop_orders(self, orders: dict[int, CallerOrder[ActiveCall]]) -> None:
        """Forget the stubs that have been silent longest.

        Every call may come through a stub of its own, so there is no bound on stubs, only on what is
        kept of them. One that has open calls is kept. Of the others nothing needs to be known: a later
        call says itself which of the earlier ones are unfinished, and waits for those to come again.
        """
        busy = {active.call.stub_id for active in self.calls.values()}
        idle = sorted(stub for stub in orders if stub not in busy)
        idle.sort(key=lambda stub: orders[stub].used_ms)
        for stub in idle[: max(0, len(idle) - ORDERS_MIN // 2)]:
            del orders[stub]
        # Twice what is left: so dropping costs each stub a constant, however many are busy.
        self.orders_max = max(ORDERS_MIN, 2 * len(orders))

    # -- the turn --------------------------------------------------------------------------

    def commit(self, active: ActiveCall | None, record: bytes | None, now_ms: int) -> bool:
        """Make the open turn's writes, and `record` for its call, one entry. False: nothing to keep.

        `record` goes into the entry only where there is one, unless the turn wrote nothing and
        `force` it: see `commit_record`. Raises what makes the turn roll back.
        """
        if self.is_gone:
            raise StaleCallError(f"{self.class_name}/{self.key} has left memory: it writes no more")
        changes = self.fields.changes()
        rows = self.rows
        if self._migrated is not None:
            changes = {**self._migrated, **(changes or {})}
            self._migrated = None
        if changes is None and not rows and not self.cleared:
            return False
        if active is not None and active.shared:
            raise ReadOnlyError(f"{active} is marked read_only and has written")
        written = self._object_rows(changes, now_ms, len(record) if record is not None else 0)
        if record is not None and active is not None:
            written[self._file(active, record)] = record
        self._append(written, now_ms, self._cleared_ranges() if self.cleared else ())
        if changes:
            self.fields.accept(changes)
        if rows or self.cleared:
            self.rows = None
            self.cleared = False
        self.rows_bytes = 0
        return True

    def commit_record(self, active: ActiveCall, record: bytes, now_ms: int) -> None:
        """An entry that holds only the record of a call."""
        self._append({self._file(active, record): record}, now_ms)

    def _file(self, active: ActiveCall, record: bytes) -> bytes:
        """The key of a call's record; its bytes count from now on."""
        key = active.record_key
        self.shard.kept.add(layout.read_dedup_minute(key), len(key) + len(record))
        return key

    def _append(
        self, rows: dict[bytes, bytes | None], now_ms: int, ranges: Sequence[DeleteRange] = ()
    ) -> None:
        entry = self.shard.log.append(self.group, rows, now_ms, ranges)
        self.last_index = entry.index
        self.host.committer.add(self.shard, entry)

    def _cleared_ranges(self) -> tuple[DeleteRange, ...]:
        return (DeleteRange(*layout.rows_range(self.shard.id, self.group)),)

    def _object_rows(
        self, changes: dict[str, bytes] | None, now_ms: int, record_bytes: int
    ) -> dict[bytes, bytes | None]:
        """The object's record and rows as this turn leaves them."""
        written: dict[bytes, bytes | None] = {}
        shard_id, group = self.shard.id, self.group
        raw = self.fields.raw
        size = self.size_bytes
        total = self.rows_bytes + record_bytes
        if self.cleared:
            size = sum(map(len, raw.values()))
        if changes:
            for name, value in changes.items():
                size += len(value) - len(raw.get(name, b""))
                total += len(value)
        if self.rows:
            for key, row in self.rows.items():
                size += self._row_delta(key, row)
            written.update(self.rows)
        if total > TURN_BYTES_MAX:
            raise TooLargeError(
                f"a call on {self.class_name}/{self.key} wrote {total} bytes, at most "
                f"{TURN_BYTES_MAX}: write less in one call"
            )
        if size > self.size_bytes and size > (limit := self.host.limits.object_bytes_max):
            raise TooLargeError(
                f"{self.class_name}/{self.key} would hold {size} bytes, at most {limit}: delete "
                f"something, or split it over several objects"
            )
        merged = {**raw, **changes} if changes else raw
        large: list[str] = []
        for name, value in merged.items():
            if len(value) > SMALL_FIELD_BYTES_MAX:
                large.append(name)
                if changes and name in changes:
                    written[layout.field_key(shard_id, group, name)] = value
        for name in self._large:
            if name not in large:
                written[layout.field_key(shard_id, group, name)] = None
        small = {n: v for n, v in merged.items() if n not in large} if large else merged
        if size <= 0:
            if self._stored:
                written[self._record_key] = None
            self._stored = False
        else:
            written[self._record_key] = records.encode_object(
                self.spec.version, self._created_ms, now_ms, size, small, large
            )
            self._stored = True
        if large or self._large:
            self._large = tuple(large)
        if size != self.size_bytes:
            self.host.size_bytes += size - self.size_bytes
            self.size_bytes = size
        return written

    def _row_delta(self, key: bytes, row: bytes | None) -> int:
        new = len(key) + len(row) if row is not None else 0
        if self.cleared:
            return new
        old = self.shard.get(self.group, key)
        return new - (len(key) + len(old) if old is not None else 0)

    def roll_back(self) -> None:
        """Drop the open turn's writes."""
        self.fields.roll_back()
        self.rows = None
        self.rows_bytes = 0
        self.cleared = False

    def check_reader(self, reader: ActiveCall) -> None:
        """Did a reader change a value in place? It is put back, and the reader told when it ends.

        Asked whenever the reader stops, so that no other is blamed. Not while a writer of its chain is
        inside: what has changed is the writer's.
        """
        if self.gate.writing:
            return
        name = self.fields.is_mutated()
        if name is not None:
            self.fields.roll_back()
            reader.doomed = _mutated(reader, name)

    def part_from_readers(self) -> None:
        """A writer begins beside suspended readers of its own chain.

        What these have changed is undone, and what they hold of mutable values is from now on no alias
        of the writer's: or it would commit what a reader does.
        """
        name = self.fields.is_mutated()
        if name is not None:
            for reader in self.calls.values():
                if reader.shared and reader.entered:
                    reader.doomed = _mutated(reader, name)
        self.fields.roll_back()

    async def deactivation(self, reason: str) -> None:
        """`on_deactivate`, with its bound on time."""
        await asyncio.wait_for(
            self.instance.on_deactivate(DeactivationReason(reason)), self.host.limits.hook_s
        )

    def delete_everything(self, active: ActiveCall, now_ms: int) -> bool:
        """All that the object stores goes, in one entry. False: there was nothing."""
        if not self._stored:
            return False
        written: dict[bytes, bytes | None] = {self._record_key: None}
        for name in self._large:
            written[layout.field_key(self.shard.id, self.group, name)] = None
        self._append(written, now_ms, self._cleared_ranges())
        return True

    def let_go(self) -> None:
        """It is gone: nothing but reference counts are needed to free it, and nothing runs on it.

        The instance knows its activation for ever (a late write is refused by it), so the way back
        ends here. Left to the cycle collector, 100,000 evicted objects stayed in memory until it
        looked at its eldest generation, which is seldom.
        """
        del self.instance, self.fields

    # -- records of calls ------------------------------------------------------------------

    def record_key(self, request_id: bytes) -> bytes:
        """Where a call's record is filed: under its first-sent minute (L5)."""
        minute = minute_of(first_sent_ms(request_id))
        return layout.dedup_key(self.shard.id, minute, self.group, request_id)

    def record_at(self, key: bytes) -> records.DedupRecord | None:
        """What is known of an earlier attempt, appended entries included (L4)."""
        raw = self.shard.get(self.group, key)
        return records.decode_dedup(raw) if raw is not None else None


def _mutated(reader: ActiveCall, name: str) -> ReadOnlyError:
    return ReadOnlyError(
        f"{reader} is marked read_only and changed the value of field {name!r} in place"
    )
