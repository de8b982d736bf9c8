"""A cluster of replication cores in one process, driven by one seed.

The cores are the real ones (`core/replication`); simulated are time, network, disks, etcd and the
objects: a shard's state is the tuple of requests that were applied to it, so a lost, a doubled and a
write on a stale base all show in it. Nothing waits: events happen in the order of a heap.

`World` builds and drives it, `Taste` says how often each fault comes in one run, the checks are in
`history.py`, the faults are chosen in `nemesis.py`.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.placement.deposing import cut_off_count, whom_to_depose
from roost_node.core.record import (
    NO_SESSION,
    ClusterConfig,
    DeathRecord,
    Epoch,
    Guard,
    How,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Swap,
    Transaction,
    Wish,
)
from roost_node.core.registry import Registry
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
from simulator.history import History

TICK_MS = 25
HEAP_MAX = 20_000
Value = tuple[int, ...]


class Taste:
    """How often each fault comes; every seed favours some and suppresses others."""

    KINDS = (
        "crash", "crash_proven", "pause", "suspend", "expire", "cut_both", "cut_one", "cut_etcd",
        "break_stream", "etcd_outage", "slow_disk", "slow_net", "wish", "trim", "restart_fast",
    )  # fmt: skip

    def __init__(self, rng: random.Random) -> None:
        self.weights = {kind: rng.choice((0, 0.05, 0.3, 1, 1, 3, 6)) for kind in self.KINDS}
        if not any(self.weights.values()):
            self.weights["crash"] = 1
        self.every_ms = rng.choice((150, 400, 1_000, 3_000))
        self.net_ms = rng.choice((1, 5, 20))
        self.fsync_ms = rng.choice((1, 5, 40))
        self.etcd_ms = rng.choice((2, 10, 60))
        self.lose_answer = rng.choice((0, 0, 0.05, 0.3))  # of etcd
        self.late_apply = rng.choice((0, 0, 0.1, 0.5))  # of what was not answered
        self.lease_ms = rng.choice((700, 1_500, 3_000))  # of sessions: no promise depends on it
        self.watch_ms = rng.choice((30, 300))  # how soon nodes and controller see news
        self.repeat = rng.choice((0, 0, 0.1))  # appends that come again, late
        self.drift = rng.choice((0, 0.01, 0.03))
        self.min_in_sync = rng.choice((1, 2, 2))
        self.start_in_sync = rng.choice((2, 3, 3))
        self.read_share = rng.choice((0.2, 0.5, 0.8))


class Disk:
    """What one store keeps: batches become durable in order, a crash loses the rest."""

    def __init__(self) -> None:
        self.kept: dict[ShardId, Kept] = {}
        self.entries: dict[ShardId, dict[int, LogEntry]] = {}
        self.bases: dict[ShardId, tuple[int, Value]] = {}
        self.marked: set[ShardId] = set()
        self.pending: list[Callable[[], None]] = []

    def write(self, change: Callable[[], None]) -> None:
        self.pending.append(change)

    def flush(self, count: int) -> None:
        for change in self.pending[:count]:
            change()
        del self.pending[:count]

    def lose_tail(self, shard: ShardId, count: int) -> None:
        """What had been synced is gone, without a word."""
        kept, stored = self.kept.get(shard), self.entries.get(shard, {})
        if kept is None or shard in self.marked:
            return
        last = max(kept.shape.base, kept.shape.end - count)
        kept.shape = kept.shape.cut(last)
        for index in [i for i in stored if i > last]:
            del stored[index]
        kept.hash = stored[last].hash if last in stored else b""

    def reopen(self) -> tuple[dict[ShardId, Kept], dict[ShardId, Copy]]:
        """What a new process finds."""
        kept: dict[ShardId, Kept] = {}
        copies: dict[ShardId, Copy] = {}
        for shard, found in self.kept.items():
            copy = Copy()
            if shard in self.marked:  # M7: it counts as empty
                kept[shard] = Kept(found.seen, marked=True)
            else:
                copy.entries = dict(self.entries.get(shard, {}))
                copy.base, copy.base_value = self.bases.get(shard, (0, ()))
                shape = found.shape
                last = copy.entries.get(shape.end)
                kept[shard] = Kept(found.seen, shape, last.hash if last else found.hash, shape.base)
            copies[shard] = copy
        return kept, copies


class Copy:
    """One shard's entries and state in one process."""

    def __init__(self) -> None:
        self.entries: dict[int, LogEntry] = {}
        self.base = 0
        self.base_value: Value = ()

    def value(self, index: int) -> Value:
        """The state after entry `index`."""
        found = list(self.base_value)
        for at in range(self.base + 1, index + 1):
            body = self.entries[at].body
            if body:
                found.append(int(body))
        return tuple(found)

    def log(self, end: int) -> list[tuple[int, int, bytes]]:
        """(index, epoch, body) of what is above the base."""
        return [
            (at, self.entries[at].epoch, self.entries[at].body)
            for at in range(self.base + 1, end + 1)
        ]


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


class Stream:
    """One node's stream to another, both ways in order; it breaks as a whole."""

    def __init__(self, world: World, owner: Process, follower: Process) -> None:
        self.world = world
        self.owner = owner
        self.follower = follower
        self.number = 0
        self.broken = False
        self.last = {True: 0.0, False: 0.0}

    def send(self, message: Any, *, forth: bool = True) -> None:
        world = self.world
        if self.broken:
            return
        at = max(self.last[forth], world.now + world.rng.random() * world.net_ms)
        self.last[forth] = at
        world.at(at, lambda: self._arrive(message, forth))
        if isinstance(message, Append) and world.rng.random() < world.taste.repeat:
            again = at + world.rng.random() * world.rng.choice((5, 100, 1_000))
            world.at(again, lambda: self._arrive(message, forth))

    def _arrive(self, message: Any, forth: bool) -> None:
        source, target = (self.owner, self.follower) if forth else (self.follower, self.owner)
        if self.broken:
            return
        if (source.store, target.store) in self.world.cut:
            self.lose()
            return
        target.run(lambda: self._handle(target, message, forth))

    def _handle(self, target: Process, message: Any, forth: bool) -> None:
        if self.broken:
            return
        if forth:
            if isinstance(message, tuple):
                if target.replicas.kept_of(message[0]).incoming is not None:
                    target.install(*message)
            else:
                target.replicas.on_from_owner(self.owner.store, self.number, message, target.now())
        else:
            target.replicas.on_from_follower(self.follower.store, message, target.now())

    def lose(self) -> None:
        """It is broken now; each end notices in its own time."""
        if self.broken:
            return
        self.broken = True
        world = self.world
        for process in (self.owner, self.follower):
            world.later(
                world.rng.random() * world.rng.choice((5, 200, 1_000)),
                functools.partial(process.run, functools.partial(self._noticed, process)),
            )

    def _noticed(self, process: Process) -> None:
        if process is self.owner:
            if process.links.get(self.follower.store) is self:
                del process.links[self.follower.store]
                process.replicas.on_link_lost(self.follower.store)
        else:
            process.replicas.on_inbound_lost(self.owner.store, self.number)


class World:
    """Nodes, network, etcd, clients, time."""

    def __init__(self, seed: int, stores: int = 4, shards: int = 2) -> None:
        self.rng = random.Random(seed)
        self.taste = Taste(self.rng)
        self.now = 1_000.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.trace: list[str] = []
        self.history = History()
        self.registry = Registry()
        self.registry.create(
            ClusterConfig("simulation", shards, b"", "none", 3, self.taste.min_in_sync)
        )
        self.stores = [StoreId(name) for name in "abcdef"[:stores]]
        self.shards = [ShardId(n) for n in range(shards)]
        self.disks = {store: Disk() for store in self.stores}
        self.processes: dict[StoreId, Process] = {}
        self.leases: dict[SessionId, float] = {}
        self.cut: set[tuple[str, str]] = set()  # (from, to); "etcd" is one of the names
        self.etcd_up = True
        self.net_ms = float(self.taste.net_ms)
        self.fsync_ms = float(self.taste.fsync_ms)
        self.wishes: dict[ShardId, Wish] = {}
        self.next_request = itertools.count(1)
        self.pending: dict[int, Op] = {}  # by client
        self.healing = False

    # -- time ------------------------------------------------------------------------------

    def at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (when, next(self.order), event))

    def later(self, delay: float, event: Callable[[], None]) -> None:
        self.at(self.now + delay, event)

    def note(self, text: str) -> None:
        self.trace.append(f"{self.now:9.1f} {text}")

    def run_until(self, end: float) -> None:
        while self.heap and self.heap[0][0] <= end:
            self.now, _, event = heapq.heappop(self.heap)
            event()
            self.history.check(self)
            if len(self.heap) > HEAP_MAX:
                self.history.fail("messages multiply: nobody will ever be heard")
        self.now = end

    # -- nodes -----------------------------------------------------------------------------

    def start(self) -> None:
        """All nodes start; the shards are created on the first of them."""
        for store in self.stores:
            self.boot(store)
        for shard in self.shards:
            members = self.stores[: self.taste.start_in_sync]
            owner = members[shard % len(members)]
            session = self.registry.sessions[owner].session
            record = ShardRecord(Epoch(1), owner, session, How.CREATED, tuple(members))
            self.registry.apply(Transaction((Swap(shard, 0, record),)))
            self.wishes[shard] = Wish(owner, tuple(self.stores[:3]), go=True)
        self.later(1, self._controller)
        self.later(1, self._news)
        self.later(1, self._expiry)

    def boot(self, store: StoreId) -> None:
        process = Process(self, store)
        self.processes[store] = process
        process.tick()
        self._keep_session(process)
        self._keep_links(process)

    def crash(self, store: StoreId, *, proven: bool = False) -> None:
        """The process ends here; what was not flushed is gone, from some write on."""
        process = self.processes.pop(store)
        process.dead = True
        disk = self.disks[store]
        disk.flush(self.rng.randint(0, len(disk.pending)))
        disk.pending.clear()
        for other in list(self.processes.values()):
            for stream in (other.links.get(store), process.links.get(other.store)):
                if stream is not None:
                    stream.lose()
        self.note(f"{store} crashes{' (proven)' if proven else ''}")
        if proven:
            self.later(self.rng.random() * 50, lambda: self._reap(store, process))

    def _reap(self, store: StoreId, process: Process) -> None:
        """A supervisor saw the process end, and says so."""
        info = self.registry.sessions.get(store)
        session = process.replicas.session
        if not self.reaches_etcd(store) or info is None or info.session != session:
            return
        self.registry.apply(Transaction(reap=info, death=DeathRecord(store, session)))
        self.note(f"{store}: session {session} is proven dead")

    # -- sessions --------------------------------------------------------------------------

    def reaches_etcd(self, name: str) -> bool:
        return self.etcd_up and (name, "etcd") not in self.cut

    def _keep_session(self, process: Process) -> None:
        """Register, renew, and find out that it is gone."""
        if process.dead:
            return
        self.later(self.rng.uniform(100, 400), lambda: self._keep_session(process))

        def renew() -> None:
            if not self.reaches_etcd(process.store):
                return
            session = process.replicas.session
            info = self.registry.sessions.get(process.store)
            if session == NO_SESSION:
                session = self.registry.grant()
                self.registry.register(SessionInfo(process.store, session, process.store))
                self.leases[session] = self.now + self.taste.lease_ms
                process.replicas.on_session(session)
                self.note(f"{process.store} registers session {session}")
                self.etcd_read(process, 0)
            elif info is None or info.session != session:
                self.note(f"{process.store} finds session {session} gone")
                for stream in list(process.links.values()):
                    stream.lose()
                process.links.clear()
                process.replicas.on_session_lost()
            else:
                self.leases[session] = self.now + self.taste.lease_ms
                now = process.now()
                report = msgspec.structs.replace(
                    info,
                    unreachable=process.replicas.unreachable(now),
                    stuck_on=process.replicas.stuck_on(now),
                )
                if report != info:
                    self.registry.register(report)

        process.run(renew)

    def _expiry(self) -> None:
        if self.etcd_up:
            for store, info in list(self.registry.sessions.items()):
                if self.leases.get(info.session, 0) < self.now:
                    self.registry.expire(store, info.session)
                    self.note(f"session {info.session} of {store} expires")
        self.later(50, self._expiry)

    # -- links -----------------------------------------------------------------------------

    def _keep_links(self, process: Process) -> None:
        if process.dead:
            return
        self.later(self.rng.uniform(50, 200), lambda: self._keep_links(process))
        process.run(lambda: self._open_links(process))

    def _open_links(self, process: Process) -> None:
        if process.replicas.session == NO_SESSION:
            return
        for store in self.stores:
            other = self.processes.get(store)
            if store == process.store or store in process.links or other is None:
                continue
            if other.paused or {(process.store, store), (store, process.store)} & self.cut:
                continue
            stream = Stream(self, process, other)
            stream.number = other.replicas.on_inbound(process.store, process.replicas.session)
            process.links[store] = stream
            process.replicas.on_link(store, process.now())

    def answer(self, process: Process, peer: StoreId, number: int, message: Any) -> None:
        """What a follower says on its owner's stream."""
        other = self.processes.get(peer)
        stream = other.links.get(process.store) if other is not None else None
        if stream is not None and stream.number == number and stream.follower is process:
            stream.send(message, forth=False)

    # -- etcd ------------------------------------------------------------------------------

    def etcd_read(self, process: Process, token: int) -> None:
        """A linearizable read of everything."""
        begun_ms = process.now()
        delay = self.rng.random() * self.taste.etcd_ms

        def serve() -> None:
            if not self.reaches_etcd(process.store) or process.dead:
                self.later(100, lambda: process.run(lambda: _forget(process, token)))
                return
            found = self.registry.read()
            self.later(
                self.rng.random() * self.taste.etcd_ms,
                lambda: process.run(lambda: process.on_news(token, begun_ms, found)),
            )

        self.later(delay, serve)

    def etcd_change(
        self, process: Process, shard: ShardId, token: int, transaction: Transaction
    ) -> None:
        """A transaction; its answer may be lost, and it may be applied long after (O2)."""
        taste = self.taste
        self.note(f"{process.store} proposes {_show(transaction)}")

        def unanswered() -> None:
            process.run(
                lambda: process.replicas.on_change_answered(shard, token, None, 0, process.now())
            )

        def serve() -> None:
            if not self.etcd_up:
                return
            applied = self.registry.apply(transaction)
            if applied.succeeded:
                self.note(f"etcd applies {_show(transaction)}")
                self.history.recorded(self)
            if not lost:
                self.later(
                    self.rng.random() * taste.etcd_ms,
                    lambda: process.run(
                        lambda: process.replicas.on_change_answered(
                            shard, token, applied.succeeded, applied.revision, process.now()
                        )
                    ),
                )

        lost = not self.healing and self.rng.random() < taste.lose_answer
        if not self.reaches_etcd(process.store):
            self.later(200, unanswered)
            return
        delay = self.rng.random() * taste.etcd_ms
        if lost:
            self.later(300, unanswered)
            if self.rng.random() < taste.late_apply:
                delay = self.rng.uniform(200, 3_000)  # after its sender gave up
            elif self.rng.random() < 0.5:
                return  # never
        self.later(delay, serve)

    def _news(self) -> None:
        """Watches are hints: nodes look now and then, and when something changed."""
        for process in self.processes.values():
            if self.reaches_etcd(process.store):
                process.replicas.on_wishes(self.wishes)
                self.etcd_read(process, 0)
        self.later(self.rng.uniform(10, self.taste.watch_ms), self._news)

    def _controller(self) -> None:
        """Promote where an owner's session is gone (F1); revoke who only reaches etcd (F2)."""
        self.later(self.rng.uniform(10, self.taste.watch_ms), self._controller)
        if not self.etcd_up:
            return
        found = self.registry.read()
        for shard, versioned in found.shards.items():
            transaction = promotion(found.sessions, shard, versioned, self.rng)
            if transaction is not None:
                self.later(
                    self.rng.random() * self.taste.etcd_ms,
                    functools.partial(self._promote, transaction),
                )
        self._revoke()

    def _promote(self, transaction: Transaction) -> None:
        if self.registry.apply(transaction).succeeded:
            self.note(f"controller applies {_show(transaction)}")
            self.history.recorded(self)

    def _revoke(self) -> None:
        """F2: by what nodes report."""
        victim = whom_to_depose(self.registry.sessions)
        info = self.registry.sessions.get(victim) if victim is not None else None
        if info is not None and self.registry.expire(info.store, info.session):
            self.note(f"controller revokes session {info.session} of {info.store}")

    # -- clients ---------------------------------------------------------------------------

    def start_client(self, number: int) -> None:
        self.later(self.rng.random() * 50, lambda: self._next_op(number))

    def _next_op(self, number: int) -> None:
        if not self.healing:
            write = self.rng.random() >= self.taste.read_share
            self.ask(number, self.rng.choice(self.shards), write=write)

    def ask(self, number: int, shard: ShardId, *, write: bool) -> None:
        """A client makes a request, and insists on an answer."""
        op = Op(number, shard, next(self.next_request) if write else 0, int(self.now))
        self.pending[number] = op
        self.history.began(op)
        self.attempt(op, op.attempt)

    def attempt(self, op: Op, attempt: int) -> None:
        """Send it to a node; again after a while, until it is answered."""
        if self.pending.get(op.client) is not op or attempt != op.attempt:
            return
        op.attempt += 1
        again = op.attempt
        self.later(self.rng.uniform(100, 600), lambda: self.attempt(op, again))
        versioned = self.registry.shards.get(op.shard)
        guess = versioned.record.owner if versioned is not None else None
        if guess is None or self.rng.random() < 0.3:
            guess = self.rng.choice(self.stores)
        process = self.processes.get(guess)
        if process is not None:
            self.later(
                self.rng.random() * self.net_ms,
                lambda: process.run(lambda: self._arrive(process, op)),
            )

    def _arrive(self, process: Process, op: Op) -> None:
        if self.pending.get(op.client) is op:
            process.call(op)

    def refuse(self, op: Op) -> None:
        """The node says that it cannot: the client comes again."""

    def reply(self, process: Process, output: Waiting) -> None:
        """An answer leaves."""
        op = output.op
        self.history.revealed(self, process.store, op, output.value, output.floor)
        self.later(self.rng.random() * self.net_ms, lambda: self._answered(op, output.value))

    def _answered(self, op: Op, value: Value) -> None:
        if self.pending.get(op.client) is not op:
            return  # answered already
        del self.pending[op.client]
        self.history.answered(op, value)
        if op.client < 100:
            self.later(
                self.rng.random() * self.rng.choice((5, 50, 500)), lambda: self._next_op(op.client)
            )


def promotion(
    sessions: dict[StoreId, SessionInfo], shard: ShardId, versioned: Any, rng: random.Random
) -> Transaction | None:
    """F1: a live member takes over from an owner whose session is gone (O5)."""
    record = versioned.record
    owner_info = sessions.get(record.owner)
    if owner_info is not None and owner_info.session == record.session:
        return None
    live = [m for m in record.in_sync if m in sessions]
    if not live:
        return None
    fewest = min(cut_off_count(sessions, m) for m in live)
    chosen = rng.choice([m for m in live if cut_off_count(sessions, m) == fewest])
    in_sync = (
        record.in_sync
        if chosen == record.owner
        else tuple(m for m in record.in_sync if m != record.owner)
    )
    fresh = msgspec.structs.replace(
        record,
        epoch=Epoch(record.epoch + 1),
        owner=chosen,
        session=sessions[chosen].session,
        how=How.FAILOVER,
        in_sync=in_sync,
        previous=record.session,
        nonce=rng.getrandbits(30),
    )
    return Transaction(
        (Swap(shard, versioned.revision, fresh),),
        (
            Guard(record.owner, record.session, alive=False),
            Guard(chosen, sessions[chosen].session, alive=True),
        ),
    )


def _forget(process: Process, token: int) -> None:
    for waiting in process.waiting.values():
        for output in waiting:
            if token and output.asked == token:
                output.asked = 0


def _show(transaction: Transaction) -> str:
    return "; ".join(
        f"shard {s.shard}@{s.revision}: epoch {s.record.epoch} {s.record.how.value} owner "
        f"{s.record.owner}/{s.record.session} in_sync {','.join(s.record.in_sync)}"
        for s in transaction.swaps
    )
