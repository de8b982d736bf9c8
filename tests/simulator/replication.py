"""A cluster of replication cores in one process, driven by one seed.

The cores are the real ones (`core/replication`); simulated are time, network, disks, etcd and the
objects: a shard's state is the tuple of requests that were applied to it, so a lost, a doubled and a
write on a stale base all show in it. Nothing waits: events happen in the order of a heap.

`World` builds and drives it: time, etcd, sessions, links, clients. Its nodes are in `process.py`, with `disk.py`
and `stream.py`; faults are chosen in `nemesis.py`, and checked is in `history.py`.
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
from roost_node.core.placement.deposing import whom_to_depose
from roost_node.core.record import (
    NO_SESSION,
    ClusterConfig,
    DeathRecord,
    Epoch,
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
from simulator import failover
from simulator.disk import Disk, Value
from simulator.history import History
from simulator.nemesis import Taste
from simulator.process import Op, Process, Waiting, forget
from simulator.stream import Stream

HEAP_MAX = 20_000


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
                self.later(100, lambda: process.run(lambda: forget(process, token)))
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
            transaction = failover.promotion(found.sessions, shard, versioned, self.rng)
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


def _show(transaction: Transaction) -> str:
    return "; ".join(
        f"shard {s.shard}@{s.revision}: epoch {s.record.epoch} {s.record.how.value} owner "
        f"{s.record.owner}/{s.record.session} in_sync {','.join(s.record.in_sync)}"
        for s in transaction.swaps
    )
