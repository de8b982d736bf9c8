"""Many commits, one fsync.

Entries of all shards that were made while the last flush was under way go to disk together: one
atomic batch, one flush of the write-ahead log in a thread of its own (it releases the GIL), then all
outputs that waited for them leave. A lone entry on an idle loop is flushed on the spot: the hop to
the thread and back costs as much as the flush.

Entries of a shard that has replicas go to its log, and to the state when they are committed; what the
replicator writes itself goes into the same batches (`write`).

Invariant: `on_durable` is called for every entry, in the order of `add`, and never before a flush
that covers it has returned (R1). A flush that fails ends everything (`on_fatal`): after one, nothing
read back from the page cache proves anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from roost_node.core.log import DeleteRange, Entry, Op
from roost_node.host.flusher import Flusher
from roost_node.host.shard import Shard
from roost_node.storage import layout, records
from roost_node.storage.engine import Store
from roost_node.telemetry import Telemetry

log = logging.getLogger(__name__)

BACKLOG_BYTES_MAX = 64 * 1024 * 1024
BATCH_BYTES_MAX = 2 * 1024 * 1024
STALL_RETRY_S = 0.002
SEND_TURNS = 2  # of the loop, until an entry is on its way to followers: a flush on the spot would hold it up


class Raw:
    """A write of the replicator."""

    __slots__ = ("done", "ops", "size_bytes")

    def __init__(self, ops: Sequence[Op], done: Callable[[], None]) -> None:
        self.ops = ops
        self.done = done
        self.size_bytes = sum(
            0 if isinstance(op, DeleteRange) else len(op[0]) + len(op[1] or b"") for op in ops
        )


Item = tuple[Shard, Entry] | Raw


def size_of(item: Item) -> int:
    """Bytes that wait for the disk."""
    return item.size_bytes if isinstance(item, Raw) else item[1].size_bytes


class Committer:
    """Gathers entries, makes them durable in batches, reports them to their shards."""

    small_values = ("_started", "backlog_bytes")

    def __init__(
        self,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        is_quiet: Callable[[], bool],
        on_fatal: Callable[[BaseException], None],
        telemetry: Telemetry,
        flusher: Flusher,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._loop = loop
        self._is_quiet = is_quiet
        self._on_fatal = on_fatal
        self._telemetry = telemetry
        self._pending: list[Item] = []
        self._scheduled = False
        self._flushing = False
        self._dead = False
        self._idle: list[asyncio.Future[None]] = []
        self._batch: list[Item] = []  # being flushed
        self._started = 0.0
        self._flusher = flusher
        self._now_ms = now_ms
        self.stalled = False
        self.backlog_bytes = 0  # of entries that are not durable yet

    def add(self, shard: Shard, entry: Entry) -> None:
        """Take an entry; its outputs leave when it is durable."""
        if shard.replica is not None:
            shard.replica.on_appended(shard, entry)
        self._add((shard, entry), after=0 if shard.replica is None else SEND_TURNS)

    def write(self, ops: Sequence[Op], done: Callable[[], None]) -> None:
        """Write something else, in order with the entries; `done` when it is durable."""
        self._add(Raw(ops, done))

    def _add(self, item: Item, after: int = 0) -> None:
        self._pending.append(item)
        self.backlog_bytes += size_of(item)
        if not self._scheduled and not self._flushing:
            self._scheduled = True
            self._cycle_after(after)

    def _cycle_after(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._cycle_after, turns - 1)
        else:
            self._loop.call_soon(self._cycle)

    @property
    def is_busy(self) -> bool:
        """No more calls are to be taken: calls end before they are durable, so nothing else stops them."""
        return self.stalled or self.backlog_bytes > BACKLOG_BYTES_MAX

    @property
    def pending_count(self) -> int:
        """Entries that are not durable yet and not being flushed."""
        return len(self._pending)

    async def drained(self) -> None:
        """Wait until everything added so far is durable."""
        while (self._pending or self._flushing) and not self._dead:
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle

    async def close(self) -> None:
        """Flush what there is and end the thread."""
        await self.drained()
        self._dead = True
        self._flusher.close()

    def _cycle(self) -> None:
        self._scheduled = False
        if not self._pending or self._dead:
            return
        batch = self._take()
        if not self._write(batch):
            return
        if len(batch) == 1 and not self._pending and self._is_quiet():
            started = self._loop.time()
            try:
                self._store.sync()
            except BaseException as error:  # the process is to end, whatever it was
                self._die(error)
                return
            self._done(batch, self._loop.time() - started)
        else:
            self._flushing = True
            self._batch = batch
            self._started = self._loop.time()
            self._flusher.start(self._store.sync, self._flushed)

    def _take(self) -> list[Item]:
        pending = self._pending
        size = 0
        for count, item in enumerate(pending, 1):
            size += size_of(item)
            if size >= BATCH_BYTES_MAX and count < len(pending):
                batch, self._pending = pending[:count], pending[count:]
                return batch
        self._pending = []
        return pending

    def _write(self, batch: list[Item]) -> bool:
        """Write the batch; False: the store is stalled, it was put back and is tried again."""
        try:
            ops = merge(batch)
            ops.append((layout.CLOCK_KEY, records.encode_clock(self._now_ms())))
            written = self._store.write(ops)
        except BaseException as error:
            self._die(error)
            return False
        if written:
            self.stalled = False
            return True
        self.stalled = True  # back-pressure: admission refuses more until it has room
        self._telemetry.write_stalls += 1
        self._pending[:0] = batch
        self._scheduled = True
        self._loop.call_later(STALL_RETRY_S, self._cycle)
        return False

    def _flushed(self, failure: BaseException | None) -> None:
        self._flushing = False
        if failure is not None:
            self._die(failure)
        else:
            batch, self._batch = self._batch, []
            self._done(batch, self._loop.time() - self._started)

    def _done(self, batch: list[Item], seconds: float) -> None:
        last: dict[Shard, Entry] = {}
        for item in batch:
            if isinstance(item, Raw):
                item.done()
            else:
                last[item[0]] = item[1]
        for shard, entry in last.items():
            shard.on_durable(entry.index)
        self.backlog_bytes -= sum(map(size_of, batch))
        self._telemetry.on_commit(len(batch), seconds)
        if self._pending and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._cycle)
        elif not self._pending:
            self._wake_idle()

    def _die(self, error: BaseException) -> None:
        if self._dead:
            return
        self._dead = True
        log.critical("the store failed: this node ends now", exc_info=error)
        self._wake_idle()
        self._on_fatal(error)

    def _wake_idle(self) -> None:
        idle, self._idle = self._idle, []
        for future in idle:
            if not future.done():
                future.set_result(None)


def merge(batch: list[Item]) -> list[Op]:
    """The writes of a batch, with only the last version of each key, and each shard's new head."""
    ops: list[Op] = []
    rows: dict[bytes, bytes | None] = {}
    heads: dict[Shard, Entry] = {}
    logged: dict[Shard, list[Entry]] = {}
    for item in batch:
        if isinstance(item, Raw):
            _flush_logged(logged, rows)
            ops.extend(rows.items())  # what it writes comes after what was before
            ops.extend(item.ops)
            rows = {}
            continue
        shard, entry = item
        if shard.replica is not None:
            logged.setdefault(shard, []).append(entry)
            continue
        if entry.ranges:
            ops.extend(rows.items())  # order matters around a range delete
            ops.extend(entry.ranges)
            rows = {}
        rows.update(entry.rows)
        heads[shard] = entry
    _flush_logged(logged, rows)
    for shard, entry in heads.items():
        rows[shard.head_key] = records.encode_head(
            entry.epoch, entry.index, entry.hash, entry.log_time_ms
        )
    ops.extend(rows.items())
    return ops


def _flush_logged(logged: dict[Shard, list[Entry]], rows: dict[bytes, bytes | None]) -> None:
    for shard, entries in logged.items():
        assert shard.replica is not None, "only what has replicas is logged"
        rows.update(shard.replica.rows(shard, entries))
    logged.clear()
