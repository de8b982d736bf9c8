"""What a host does now and then: deadlines, idle objects, memory, old records, free disk."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from roost.errors import CorruptionError
from roost_node.core.dedup import droppable_before
from roost_node.core.log import DeleteRange
from roost_node.host.memory import Memory
from roost_node.storage import layout

if TYPE_CHECKING:
    from roost_node.host.host import Host
    from roost_node.host.shard import Shard

log = logging.getLogger(__name__)

TICK_S = 0.008
SLOW_TICKS = 16  # every so many ticks the slower duties
EVICT_STEPS = 2_000
EVICT_BATCH = 500
ROOM_STEPS = 64  # an activation looks no further for one that may leave; the next goes on there
TRIM_AFTER = 20_000  # objects left: memory is given back
TRIM_LAST = 1_000  # so many are enough when no more leave
SWEEP_SHARDS = 16
COUNT_ROWS = 256  # records found on opening that are counted in one go
COUNT_ROWS_EMPTY = 4  # what looking at a shard costs, in rows
COUNT_BYTES = 2**20
DISK_ROOM = 1.5
"""A disk is short until so many times the least is free: or shards would come and go at the line."""

NOBODY = b""  # no object reads an entry of the keeper back
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Keeper:
    """The host's housekeeping; `run` is one of the node's tasks."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._evicted = 0
        self._evicted_before = 0
        self._more_left = False  # memory was given back, and more have left since or may yet
        self._sweep_at = 0
        self._uncounted: list[Shard] = []  # shards that have kept records before
        self._statm = Path("/proc/self/statm")
        self._memory = Memory(host)

    async def run(self) -> None:
        """Until cancelled."""
        host = self._host
        loop = host.loop
        tick = 0
        due = loop.time() + TICK_S
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
            late = loop.time() - due
            host.telemetry.loop_lag_us.add(max(0, int(late * 1e6)))
            due = loop.time() + TICK_S
            now_ms = host.now_ms()
            if len(host.deadlines):
                for active in host.deadlines.due(now_ms):
                    host.waits.on_due(active, now_ms)
            if self._uncounted:
                self._count_records()
            tick += 1
            if tick % SLOW_TICKS == 0:
                host.admission.tick(now_ms)
                host.answers.expire(now_ms, EVICT_STEPS)
                self._evict_idle(now_ms)
                self.make_room(0, 0, EVICT_STEPS)  # live objects have grown
                self._watch_memory()
                host.behind_bytes = sum(s.log.size_bytes for s in host.objects.shards())
                self._sweep_records(now_ms)
            if tick % (SLOW_TICKS * 8) == 0:
                self._watch_disk()

    def make_room(self, more: int, size_bytes: int, steps_max: int = ROOM_STEPS) -> None:
        """Where so many more live objects of that size are too much, the coldest idle ones leave."""
        host = self._host
        limits = host.limits
        count = len(host.activations) + more - limits.activations_max
        excess = host.size_bytes + size_bytes - limits.live_bytes_max
        while (count > 0 or excess > 0) and steps_max > 0:
            leaving = host.ring.coldest(max(1, min(count, EVICT_BATCH)), steps_max)
            if not leaving:
                return
            for activation in leaving:
                count -= 1
                excess -= activation.size_bytes
                host.objects.deactivate(activation, "memory")
                self._evicted += 1
            steps_max -= len(leaving)

    def _evict_idle(self, now_ms: int) -> None:
        host = self._host
        for activation in host.ring.idle(now_ms, EVICT_STEPS):
            host.objects.deactivate(activation, "idle")
            self._evicted += 1
        self._give_back()

    @property
    def owes_memory(self) -> bool:
        """Objects have left since memory was given back last."""
        return self._evicted > 0

    def _give_back(self) -> None:
        """When many have left, and once more when the last of them have."""
        at_rest = self._evicted == self._evicted_before
        self._evicted_before = self._evicted
        enough = TRIM_AFTER
        if at_rest:
            enough = 1 if self._more_left else TRIM_LAST
        if self._evicted < enough or self._host.workers.ready:
            return
        self._memory.give_back(self._evicted)
        self._evicted = self._evicted_before = 0
        self._more_left = not at_rest

    def _watch_memory(self) -> None:
        host = self._host
        limit = host.limits.memory_bytes_max
        if not limit:
            return
        resident = self.resident_bytes()
        if resident > 0.9 * limit:
            for activation in host.ring.coldest(EVICT_BATCH, EVICT_STEPS):
                host.objects.deactivate(activation, "memory")
            self._memory.trim()
            resident = self.resident_bytes()
        if resident > 0.9 * limit:
            host.refuse_cold = (
                f"this node uses {resident} of {limit} bytes of memory: objects that are not live "
                f"must wait"
            )
        else:
            host.refuse_cold = None

    def resident_bytes(self) -> int:
        """Resident memory of this process."""
        return int(self._statm.read_text().split()[1]) * PAGE_BYTES

    def _watch_disk(self) -> None:
        host = self._host
        free, total = host.store.free_bytes(), host.store.total_bytes()
        least = total * host.limits.free_disk_percent_min / 100
        if total and free < least:
            host.is_short_of_disk = True
        elif free >= least * DISK_ROOM:
            host.is_short_of_disk = False
        if total and free < least:
            host.refuse_writes = (
                f"the store has {free} of {total} bytes free, below "
                f"{host.limits.free_disk_percent_min} %: make room, or move objects away"
            )
        else:
            host.refuse_writes = None

    def _sweep_records(self, now_ms: int) -> None:
        """Drop buckets of records whose window is over (L5), some shards at a time.

        By an entry of the shard, because that carries the log time to the disk: if a restart took log
        time back to before the drop, a request whose record is gone would count as young, and run again.
        """
        host = self._host
        shards = host.objects.shards()
        for step in range(min(SWEEP_SHARDS, len(shards))):
            shard = shards[(self._sweep_at + step) % len(shards)]
            minute = droppable_before(shard.log.time_ms(now_ms))
            if minute <= shard.swept_minute:
                continue
            shard.swept_minute = minute
            shard.kept.drop_before(minute)
            doomed = DeleteRange(*layout.dedup_minutes(shard.id, 0, minute))
            try:
                found = next(host.store.iterate(doomed.start, doomed.end), None) is not None
            except CorruptionError:
                found = True  # deleting needs no reading
            if found:
                host.committer.add(shard, shard.log.append(NOBODY, {}, now_ms, (doomed,)))
        self._sweep_at += SWEEP_SHARDS

    def _count_records(self) -> None:
        """What earlier processes kept counts too, as soon as it has been looked at: a page a tick."""
        left = COUNT_ROWS
        while self._uncounted and left > 0:
            shard = self._uncounted[-1]
            count = 0
            try:
                count = shard.count_kept(left, COUNT_BYTES)
            except CorruptionError as error:
                log.warning(
                    "records cannot be counted", extra={"shard": shard.id, "why": str(error)}
                )
            if count:
                return
            self._uncounted.pop()
            left -= COUNT_ROWS_EMPTY

    def opened(self, shard: Shard) -> None:
        """A shard was opened: what it kept before is to be counted."""
        self._uncounted.append(shard)
