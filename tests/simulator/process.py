"""One run of a node: the real replication cores, a disk, and outputs that wait until they may leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import Epoch, StoreId
from roost_node.core.replication import effects
from roost_node.core.replication.follower import Kept
from roost_node.core.replication.messages import (
    Append,
    Fetched,
    LogEntry,
    SnapshotBegin,
    SnapshotEnd,
)
from roost_node.core.replication.owner import Owner
from roost_node.core.replication.replicas import Replicas
from simulator.disk import Copy, Value

if TYPE_CHECKING:
    from simulator.replication import World
    from simulator.stream import Stream

TICK_MS = 25


class Waiting(msgspec.Struct):
    """An output that may not leave yet."""

    op: Op
    index: int
    value: Value
    read: bool
    floor: int = 0  # how much had been revealed when it ran
    asked: int = 0  # token of the record's read that was begun after the execution (R4)


class Op(msgspec.Struct):
    """A client's request."""

    client: int
    shard: ShardId
    request: int  # 0: a read
    started_ms: int
    attempt: int = 0
    checked: bool = False  # by a broken variant


class Process:
    """One run of a node."""

    def __init__(self, world: World, store: StoreId) -> None:
        self.world = world
        self.store = store
        self.disk = world.disks[store]
        self.drift = 1.0 + world.rng.uniform(-1, 1) * world.taste.drift
        self.offset_ms = world.rng.randrange(10**6)
        self.paused = False
        self.dead = False
        self.frozen_ms = 0
        self.deferred: list[Callable[[], None]] = []
        kept, self.copies = self.disk.reopen()
        self.replicas = Replicas(store, kept, self.now(), min_in_sync=world.taste.min_in_sync)
        self.waiting: dict[ShardId, list[Waiting]] = {}
        self.serving: set[ShardId] = set()
        self.quiet: set[ShardId] = set()
        self.links: dict[StoreId, Stream] = {}
        self.flushing = False
        self.written: list[tuple[str, Any]] = []
        self.known_epoch: dict[ShardId, int] = {}

    def now(self) -> int:
        """This machine's CLOCK_BOOTTIME."""
        return int((self.world.now - self.frozen_ms) * self.drift) + self.offset_ms

    def sleep(self, length_ms: float) -> None:
        """The machine was suspended; this process finds out when it goes on."""
        self.deferred.insert(0, self.replicas.on_suspended)

    def run(self, event: Callable[[], None]) -> None:
        """Let something happen in this process, now or when it is thawed."""
        if self.dead:
            return
        if self.paused:
            self.deferred.append(event)
            return
        event()
        self.carry_out()

    def copy_of(self, shard: ShardId) -> Copy:
        copy = self.copies.get(shard)
        if copy is None:
            copy = self.copies[shard] = Copy()
        return copy

    # -- effects ---------------------------------------------------------------------------

    def carry_out(self) -> None:
        replicas = self.replicas
        while True:
            orders = replicas.take_effects()
            if not orders:
                replicas.flush()
                orders = replicas.take_effects()
                if not orders:
                    break
            for order in orders:
                self._carry(order)
        self.release()

    def _carry(self, order: effects.Effect) -> None:
        world = self.world
        match order:
            case effects.ToPeer(peer, message):
                self._to_peer(peer, message)
            case effects.Reply(peer, stream, message):
                world.answer(self, peer, stream, message)
            case effects.SendEntries():
                copy = self.copy_of(order.shard)
                entries = tuple(copy.entries[i] for i in range(order.first, order.last + 1))
                self._to_peer(
                    order.peer,
                    Append(
                        order.shard, order.epoch, order.first - 1, order.previous_epoch, entries,
                        order.commit,
                    ),
                )  # fmt: skip
            case effects.SendFetched():
                copy = self.copy_of(order.shard)
                end = self.replicas.kept_of(order.shard).shape.end
                entries = tuple(
                    copy.entries[i] for i in range(max(order.after, copy.base) + 1, end + 1)
                )
                message = Fetched(order.shard, order.epoch, entries)
                world.answer(self, order.peer, order.stream, message)
            case effects.SendSnapshot(peer, shard, epoch):
                self._snapshot(peer, shard, epoch)
            case effects.Write():
                self._write(order)
            case effects.OpenEpoch(shard, epoch, end):
                assert self.replicas.owners[shard].shape.end == end
                self.append(shard, b"")
                self.quiet.discard(shard)
            case effects.StartServing(shard, _):
                self.serving.add(shard)
            case effects.StopCalls(shard, _):
                self.quiet.add(shard)
                self.replicas.owners[shard].on_quiet(self.now())
            case effects.FallSilent():
                pass  # `may_leave` asks the owner
            case effects.ResumeCalls(shard, _):
                self.quiet.discard(shard)
            case effects.LoseShard(shard, _):
                self.serving.discard(shard)
                self.quiet.discard(shard)
                self.waiting.pop(shard, None)
            case effects.Moved():
                pass  # callers here ask anybody
            case effects.SteppedDown(shard, _, to, end):
                world.note(f"{self.store} steps down from shard {shard} for {to}: it ends at {end}")
            case effects.Change(shard, token, transaction):
                world.etcd_change(self, shard, token, transaction)
            case effects.ReadRecord(shard, token):
                world.etcd_read(self, token)
            case effects.Commit(shard, index):
                if shard in self.replicas.owners:
                    world.history.committed(world, self, shard, index)
            case effects.Diverged():
                world.history.fail(f"two logs have different hashes: {order}")

    def _to_peer(self, peer: StoreId, message: Any) -> None:
        stream = self.links.get(peer)
        if stream is not None:
            stream.send(message)

    def _snapshot(self, peer: StoreId, shard: ShardId, epoch: Epoch) -> None:
        owner = self.replicas.owners[shard]
        copy = self.copy_of(shard)
        end = owner.commit
        shape = (
            owner.shape.cut(end).trimmed(end)
            if end < owner.shape.end
            else (owner.shape.trimmed(end))
        )
        last = copy.entries.get(end)
        running = last.hash if last is not None else self.replicas.kept_of(shard).hash
        stream = self.links.get(peer)
        if stream is not None:
            stream.send(SnapshotBegin(shard, epoch, shape, running))
            stream.send((shard, end, copy.value(end)))  # the bytes between
            stream.send(SnapshotEnd(shard, epoch))

    # -- disk ------------------------------------------------------------------------------

    def _write(self, order: effects.Write) -> None:
        """Our memory has it at once, the disk after a flush."""
        shard, copy = order.shard, self.copy_of(order.shard)
        if order.mark:
            copy.entries.clear()
            copy.base, copy.base_value = 0, ()
        if order.cut >= 0:
            copy.entries = {i: e for i, e in copy.entries.items() if i <= order.cut}
        for entry in order.entries:
            copy.entries[entry.index] = entry
        kept = self.replicas.kept_of(shard)
        state = (kept.seen, kept.shape, kept.hash)
        base = (copy.base, copy.base_value)
        disk = self.disk

        def change() -> None:
            stored = disk.entries.setdefault(shard, {})
            if order.mark is not None:
                (disk.marked.add if order.mark else disk.marked.discard)(shard)
            if order.mark:
                stored.clear()
            if order.cut >= 0:
                for index in [i for i in stored if i > order.cut]:
                    del stored[index]
            for entry in order.entries:
                stored[entry.index] = entry
            disk.bases[shard] = base
            disk.kept[shard] = Kept(order.seen, *state[1:])

        disk.write(change)
        self.written.append(("write", order.number))
        self.flush_soon()

    def install(self, shard: ShardId, index: int, value: Value) -> None:
        """A snapshot's bytes."""
        copy = self.copy_of(shard)
        copy.entries.clear()
        copy.base, copy.base_value = index, value

    def append(self, shard: ShardId, body: bytes) -> int:
        """The owner's own entry."""
        owner, copy = self.replicas.owners[shard], self.copy_of(shard)
        kept = self.replicas.kept_of(shard)
        index = owner.shape.end + 1
        digest = f"{hash((kept.hash, owner.epoch, body)) & 0xFFFFFFFF:x}".encode()
        entry = LogEntry(owner.epoch, index, owner.shape.last_epoch, digest, 0, body)
        copy.entries[index] = entry
        epoch = owner.epoch
        self.replicas.on_appended(shard, index, digest, self.now())
        state = (kept.seen, kept.shape, kept.hash)
        base = (copy.base, copy.base_value)
        disk = self.disk

        def change() -> None:
            disk.entries.setdefault(shard, {})[index] = entry
            disk.bases[shard] = base
            disk.kept[shard] = Kept(*state)

        disk.write(change)
        self.written.append(("own", (shard, epoch, index)))
        self.flush_soon()
        return index

    def trim(self, shard: ShardId) -> None:
        """L6: entries that are committed everywhere we know of go into the state."""
        kept, copy = self.replicas.kept_of(shard), self.copy_of(shard)
        owner = self.replicas.owners.get(shard)
        commit = owner.commit if owner is not None else kept.commit
        if commit <= copy.base or commit > kept.shape.end or kept.marked:
            return
        value = copy.value(commit)
        copy.entries = {i: e for i, e in copy.entries.items() if i > commit}
        copy.base, copy.base_value = commit, value
        self.replicas.on_trimmed(shard, commit)
        state = (kept.seen, kept.shape, kept.hash)
        disk = self.disk

        def change() -> None:
            stored = disk.entries.setdefault(shard, {})
            for index in [i for i in stored if i <= commit]:
                del stored[index]
            disk.bases[shard] = (commit, value)
            disk.kept[shard] = Kept(*state)

        disk.write(change)
        self.written.append(("other", None))
        self.flush_soon()

    def flush_soon(self) -> None:
        if self.flushing:
            return
        self.flushing = True
        self.world.later(
            self.world.rng.random() * self.world.fsync_ms, lambda: self.run(lambda: self._flushed())
        )

    def _flushed(self) -> None:
        """Everything written so far is durable."""
        self.flushing = False
        done, self.written = self.written, []
        self.disk.flush(len(self.disk.pending))
        for kind, what in done:
            if kind == "write":
                self.replicas.on_durable(what, self.now())
            elif kind == "own":
                shard, epoch, index = what
                self.replicas.on_own_durable(shard, epoch, index, self.now())

    # -- calls -----------------------------------------------------------------------------

    def call(self, op: Op) -> None:
        """A client's request arrives."""
        owner = self.replicas.owners.get(op.shard)
        if owner is None or not owner.runs_calls() or op.shard in self.quiet:
            self.world.refuse(op)
            return
        copy = self.copy_of(op.shard)
        value = copy.value(self.base_of(owner))
        waiting = self.waiting.setdefault(op.shard, [])
        if op.request:
            if op.request not in value:
                if not owner.admits_writes():
                    self.world.refuse(op)
                    return
                self.append(op.shard, str(op.request).encode())
                value = copy.value(owner.shape.end)
            waiting.append(Waiting(op, owner.shape.end, value, False))
        else:
            floor = self.world.history.shown_count(op.shard)
            waiting.append(Waiting(op, owner.shape.end, value, True, floor))

    def base_of(self, owner: Owner) -> int:
        """What a call sees: everything appended (L4)."""
        return owner.shape.end

    def release(self) -> None:
        """R6: the one door."""
        now = self.now()
        for shard, waiting in self.waiting.items():
            owner = self.replicas.owners.get(shard)
            if owner is None or not waiting:
                continue
            kept: list[Waiting] = []
            for output in waiting:
                if self.may_leave(owner, output, now):
                    self.world.reply(self, output)
                else:
                    kept.append(output)
            self.waiting[shard] = kept

    def may_leave(self, owner: Owner, output: Waiting, now: int) -> bool:
        if owner.commit < output.index:
            return False
        if not output.read:
            return owner.is_serving(now)  # R2
        if owner.may_release_read(now):
            return True  # R3
        if not output.asked and owner.is_serving(now):
            output.asked = self.replicas.token()  # R4
            self.world.etcd_read(self, output.asked)
        return False

    def on_news(self, token: int, begun_ms: int, found: Any) -> None:
        now = self.now()
        self.replicas.on_news(found.shards, found.sessions, found.deaths, begun_ms, now)
        for shard, waiting in self.waiting.items():
            owner = self.replicas.owners.get(shard)
            for output in list(waiting):
                if not token or output.asked != token:
                    continue
                output.asked = 0
                if (
                    owner is not None
                    and owner.is_confirmed_by(found.shards[shard])
                    and owner.is_serving(now)
                ):
                    waiting.remove(output)
                    self.world.reply(self, output)

    def tick(self) -> None:
        if self.dead:
            return
        self.run(lambda: self.replicas.on_tick(self.now()))
        self.world.later(TICK_MS * self.world.rng.uniform(0.5, 1.5), self.tick)


def forget(process: Process, token: int) -> None:
    for waiting in process.waiting.values():
        for output in waiting:
            if token and output.asked == token:
                output.asked = 0
