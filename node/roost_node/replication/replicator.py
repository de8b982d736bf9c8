"""Carries out what the replication cores decide, for all shards of one node.

Everything happens on the node's event loop. Events come in from streams (`peers.py`), the committer,
the coordination store and the host; `Replicas` answers with effects, which are carried out in order,
once for each turn of the loop, so that many shards share a message and a flush.

Where an entry is: in the owner's `ShardLog` (what calls see), in `_tails` (its encoded form, until it is
in the state and everybody has it), in the log rows of the store, and after its commit in the state.
State rows are written without a flush of their own: the log before them is durable, and a restart
applies again what the state's head does not cover.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from roost.cluster.ids import ShardId
from roost.errors import NotOwnerError, UnavailableError
from roost_node.core.log import Entry, Head, Op, Rows
from roost_node.core.overview import Behind, LastAudit
from roost_node.core.record import Epoch, Map, SessionId, StoreId, Versioned
from roost_node.core.replication import effects, trimming
from roost_node.core.replication.follower import Kept
from roost_node.core.replication.messages import (
    Append,
    Audit,
    Audited,
    Fetched,
    FromFollower,
    FromOwner,
    HandedOver,
    LogEntry,
    SnapshotRows,
)
from roost_node.core.replication.replicas import Replicas
from roost_node.core.rescue import Copy
from roost_node.host.host import Host
from roost_node.host.shard import Shard
from roost_node.replication.announcements import Announcements
from roost_node.replication.auditor import Auditor
from roost_node.replication.bodies import decode_entry, encode_entry, merged
from roost_node.replication.catching_up import CatchingUp
from roost_node.replication.generation import read_generation
from roost_node.replication.handoff import quiesce
from roost_node.replication.inspector import Inspector
from roost_node.replication.peers import Peers
from roost_node.replication.records import Records
from roost_node.replication.snapshots import send_snapshot
from roost_node.storage import layout, records
from roost_node.storage.engine import Store
from roost_node.storage.replica_log import ReplicaLog, append_ops, fact_op, trim_ops, wipe_ops
from roost_node.storage.sizes import Sizes

log = logging.getLogger(__name__)

TICK_S = 0.02
PAGE_BYTES = 1024 * 1024
UNSENT_BYTES_MAX = 8 * 1024 * 1024  # to one peer; the rest when this is acknowledged
TRIM_EVERY_S = 2.0
TRIM_ENTRIES_MIN = 512


class Audience(Protocol):
    """Whoever tells callers where shards are."""

    def on_record(self, shard: ShardId, versioned: Versioned, *, was_ours: bool) -> None:
        """News of one record, before the next read of all. `was_ours`: callers look for it here."""


class Replicator:
    """The replication of one node. Is the host's `Ownership`, its shards' `Replica`, and `PeerEvents`."""

    def __init__(
        self,
        host: Host,
        store: Store,
        replicas: Replicas,
        replica_log: ReplicaLog,
        records_of: Records,
        tasks: asyncio.TaskGroup,
        now_ms: Callable[[], int],
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._on_fatal = on_fatal
        self._host = host
        self._store = store
        self.replicas = replicas
        self._log = replica_log
        self.peers: Peers
        self.audience: Audience
        self._closed = False
        self._records = records_of
        self._tasks = tasks
        self._now_ms = now_ms
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._shards: dict[ShardId, Shard] = {}  # those that we own and run
        self._tails: dict[ShardId, dict[int, LogEntry]] = {}
        self._applied: dict[ShardId, int] = {s: k.commit for s, k in replicas.kept.items()}
        self._to_apply: dict[ShardId, int] = {}  # committed up to here
        self._committed: list[ShardId] = []  # whose outputs may leave
        self._ops: list[Op] = []  # ordered, and not with the committer yet
        self._number = 0  # of the last order among them
        self._number_written = 0  # and of the last one that is on the disk
        self._spare: tuple[int, dict[ShardId, int]] = (0, {})  # see `_forget`
        self._confirming: dict[ShardId, tuple[int, int]] = {}  # R4: token, how many outputs
        self._trim_at = 0.0
        self.sizes: Sizes = dict
        self._announcements = Announcements(log)
        self._catching_up = CatchingUp(replicas, lambda: self.sizes())
        self._inspector = Inspector(store)
        self.auditor = Auditor(
            replicas,
            self._inspector,
            host.telemetry,
            host.limits.audit_bytes_per_s,
            host.now_ms,
            now_ms,
        )
        self.auditor.carry_out = self._soon
        self._map: Map | None = None

    # -- what the host asks (`Ownership`) --------------------------------------------------

    def open(self, shard_id: int, now_ms: int) -> Shard:
        """Only shards that we own are open."""
        raise NotOwnerError(
            f"shard {shard_id} is not this node's: connect to a router, or to the nodes with direct=True"
        )

    def owned(self) -> Iterable[int]:
        """Shards whose objects run here."""
        return list(self._shards)

    def copies(self) -> dict[ShardId, Copy]:
        """What our disk holds of each shard."""
        found = {}
        for shard, kept in self.replicas.kept.items():
            owner = self.replicas.owners.get(shard)
            runs = owner is not None and owner.runs_calls()
            members = owner.members.record.in_sync if owner is not None and runs else ()
            is_whole = not kept.marked and kept.incoming is None
            end = kept.shape.end if is_whole else 0
            found[shard] = Copy(kept.seen, kept.shape.last_epoch, end, members)
        return found

    def behind(self) -> Sequence[Behind]:
        """Learners of shards that we own."""
        return self._catching_up.behind()

    def last_audits(self) -> Sequence[LastAudit]:
        """Of shards that we own."""
        return self.auditor.last_audits()

    def generation(self) -> int:
        """The cluster's, as it is on our disk."""
        return read_generation(self._store)

    # -- what a shard does with its entries (`Replica`) ------------------------------------

    def on_appended(self, shard: Shard, entry: Entry) -> None:
        """Our host made an entry: others get it while it is on its way to our disk."""
        made = encode_entry(entry)
        shard_id = ShardId(shard.id)
        self._tails.setdefault(shard_id, {})[entry.index] = made
        self.replicas.on_appended(shard_id, entry.index, entry.hash, self._now_ms())
        self._soon()

    def rows(self, shard: Shard, entries: list[Entry]) -> Rows:
        """Log rows, but for those of entries that a new owner has cut meanwhile: that is ordered after these."""
        shard_id = ShardId(shard.id)
        tail = self._tails[shard_id]
        made = (tail.get(e.index) for e in entries)
        kept = [entry for entry in made if entry is not None and entry.epoch == shard.log.epoch]
        ops = append_ops(shard_id, -1, kept)
        return {op[0]: op[1] for op in ops if isinstance(op, tuple)}

    def on_durable(self, shard: Shard, index: int) -> None:
        """Our own disk has it."""
        epoch = Epoch(shard.log.epoch)
        self.replicas.on_own_durable(ShardId(shard.id), epoch, index, self._now_ms())
        self._soon()

    # -- streams (`PeerEvents`) ------------------------------------------------------------

    def on_link(self, peer: StoreId) -> None:
        """Our stream to that node is open."""
        self.replicas.on_link(peer, self._now_ms())
        self._soon()

    def on_link_lost(self, peer: StoreId) -> None:
        """It broke."""
        self.replicas.on_link_lost(peer)
        self._soon()

    def on_from_follower(self, peer: StoreId, message: FromFollower) -> None:
        """An answer on it."""
        if isinstance(message, Audited):
            self.auditor.on_answer(peer, message)
            return
        self.replicas.on_from_follower(peer, message, self._now_ms())
        self._soon()

    def on_inbound(self, peer: StoreId, session: SessionId) -> int:
        """That node's stream to us."""
        return self.replicas.on_inbound(peer, session)

    def on_inbound_lost(self, peer: StoreId, stream: int) -> None:
        """It broke."""
        self.replicas.on_inbound_lost(peer, stream)

    def on_from_owner(self, peer: StoreId, stream: int, message: FromOwner) -> None:
        """Something on it."""
        if isinstance(message, Audit):
            self.auditor.on_asked(peer, stream, message)
            return
        if isinstance(message, SnapshotRows):
            self._carry_out()  # what was there is wiped before, not after
            incoming = self.replicas.kept_of(message.shard).incoming
            if incoming is not None and incoming.epoch == message.epoch:  # M7: fenced
                self._host.committer.write(message.rows, _nothing)
            return
        self.replicas.on_from_owner(peer, stream, message, self._now_ms())
        if isinstance(message, HandedOver):
            handed = Versioned(message.revision, message.record)
            self.audience.on_record(message.shard, handed, was_ours=False)
        self._soon()

    # -- the coordination store ------------------------------------------------------------

    def on_session(self, session: SessionId) -> None:
        """Registered."""
        self.replicas.on_session(session)
        self._connect()
        self._records.read_soon()

    def on_session_lost(self) -> None:
        """O4: nothing of the old session may be released from here on."""
        self.replicas.on_session_lost()
        self._carry_out()
        self._connect()

    def on_map(self, found: Map, begun_ms: int) -> None:
        """A linearizable read of everything."""
        self._map = found
        now_ms = self._now_ms()
        self.replicas.on_wishes(found.wishes)
        self.replicas.on_news(found.shards, found.sessions, found.deaths, begun_ms, now_ms)
        self._connect()
        self._confirmed(found)
        self._soon()

    def _connect(self) -> None:
        """Streams go to every other live node, in the name of our session."""
        addresses = {
            store: info.address
            for store, info in (self._map.sessions if self._map is not None else {}).items()
            if store != self.replicas.me
        }
        self.peers.set_peers(self.replicas.session, addresses)

    def on_change_answered(
        self, shard: ShardId, token: int, succeeded: bool | None, revision: int
    ) -> None:
        """The answer to a change of a record; None: nobody knows."""
        self.replicas.on_change_answered(shard, token, succeeded, revision, self._now_ms())
        self._soon()

    # -- effects ---------------------------------------------------------------------------

    def _soon(self) -> None:
        if self.replicas.has_lost:
            self._carry_out_or_die()
        elif not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._carry_out_or_die)

    def _carry_out_or_die(self) -> None:
        try:
            self._carry_out()
        except Exception as error:  # a wrong node spreads, an ended one recovers
            self._closed = True
            self._on_fatal(error)

    def _carry_out(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        replicas = self.replicas
        replicas.flush()
        while orders := replicas.take_effects():
            for order in orders:
                self._carry(order)
            replicas.flush()
        self._hand_writes_over()
        if self._committed:
            self._release()

    def _carry(self, order: effects.Effect) -> None:
        match order:
            case effects.SendEntries():
                self._send_entries(order)
            case effects.ToPeer(peer, message):
                self.peers.send(peer, message)
            case effects.Reply(peer, stream, answer):
                self.peers.reply(peer, stream, answer)
            case effects.Write():
                self._write(order)
            case effects.Commit(shard, index):
                self._to_apply[shard] = max(index, self._to_apply.get(shard, 0))
                self._committed.append(shard)
            case effects.SendFetched():
                self._send_fetched(order)
            case effects.SendSnapshot(peer, shard, epoch):
                self._tasks.create_task(
                    send_snapshot(self._log, self.peers, self.replicas, peer, shard, epoch)
                )
            case effects.OpenEpoch(shard, epoch, end):
                if self._owns(shard, epoch):
                    self._open(shard, epoch, end)
            case effects.StartServing(shard, epoch):
                self._announcements.add("serving shard", shard, epoch)
                opened = self._shards[shard]
                opened.leave(opened.gate.open())
            case effects.StopCalls(shard, epoch):
                self._tasks.create_task(self._stop_calls(self._shards[shard], epoch))
            case effects.FallSilent(shard, _):
                self._shards[shard].gate.close()
            case effects.ResumeCalls(shard, epoch):
                if self._owns(shard, epoch):
                    resumed = self._shards[shard]
                    resumed.refusal = None
                    if self.replicas.owners[shard].is_serving(self._now_ms()):
                        resumed.leave(resumed.gate.open())
            case effects.LoseShard(shard, epoch):
                self._lose(shard, epoch)
            case effects.Moved(shard, versioned):
                self.audience.on_record(shard, versioned, was_ours=True)
            case effects.SteppedDown(shard, _, to, end):
                log.critical(
                    "this disk has lost entries that it had acknowledged: another store is to own the shard",
                    extra={"shard": shard, "store": to, "index": end},
                )
            case effects.Change(shard, token, transaction):
                self._records.change(shard, token, transaction)
            case effects.ReadRecord():
                self._records.read_soon()
            case effects.Diverged(shard, peer, index):
                log.critical(
                    "copies of a shard differ: that replica is not counted; move it away and back",
                    extra={"shard": shard, "store": peer, "index": index},
                )

    def _owns(self, shard: ShardId, epoch: Epoch) -> bool:
        """Still? An order may be carried out after its shard was lost, in the same turn of the loop."""
        owner = self.replicas.owners.get(shard)
        return owner is not None and owner.epoch == epoch

    def _send_entries(self, order: effects.SendEntries) -> None:
        first, room = order.first, UNSENT_BYTES_MAX - self.peers.pending_bytes(order.peer)
        previous = order.previous_epoch
        while True:
            entries = self._entries(order.shard, first, order.last) if room > 0 else []
            self.peers.send(
                order.peer,
                Append(order.shard, order.epoch, first - 1, previous, tuple(entries), order.commit),
            )
            first += len(entries)
            if first > order.last:
                return
            if not entries:
                if self._owns(order.shard, order.epoch):
                    self.replicas.owners[order.shard].on_sent_only(order.peer, first - 1)
                return
            previous = entries[-1].epoch
            room -= sum(len(entry.body) for entry in entries)

    def _entries(self, shard: ShardId, first: int, last: int) -> list[LogEntry]:
        """A page of our log."""
        tail = self._tails.get(shard, {})
        found: list[LogEntry] = []
        size = 0
        for index in range(first, last + 1):
            entry = tail.get(index)
            if entry is None:
                # Only what is older than all in memory: rows that are cut may still be on the disk.
                older = min(last, min(tail, default=last + 1) - 1)
                return found or self._log.entries(shard, first, older, PAGE_BYTES)
            found.append(entry)
            size += len(entry.body)
            if size >= PAGE_BYTES:
                break
        return found

    def _send_fetched(self, order: effects.SendFetched) -> None:
        end = self.replicas.kept_of(order.shard).shape.end
        entries = self._entries(order.shard, order.after + 1, end)
        self.peers.reply(
            order.peer, order.stream, Fetched(order.shard, order.epoch, tuple(entries))
        )

    def _write(self, order: effects.Write) -> None:
        shard, kept = order.shard, self.replicas.kept_of(order.shard)
        tail = self._tails.setdefault(shard, {})
        if order.mark:
            tail.clear()
            self._applied[shard] = 0
            self._to_apply.pop(shard, None)
            ops = wipe_ops(shard, kept)
        else:
            if order.mark is False:
                # What is committed besides comes from the log.
                self._applied[shard] = kept.shape.base
            if order.cut >= 0:
                for index in [i for i in tail if i > order.cut]:
                    del tail[index]
            for entry in order.entries:
                tail[entry.index] = entry
            ops = append_ops(shard, order.cut, order.entries)
            if order.mark is False or not ops:
                ops.append(fact_op(shard, kept))
        self._ops += ops
        self._number = order.number

    def _hand_writes_over(self) -> None:
        """All that was ordered in one turn of the loop is one write."""
        if self._ops:
            ops, self._ops = self._ops, []
            self._host.committer.write(ops, partial(self._written, self._number))

    def _written(self, number: int) -> None:
        self._number_written = max(self._number_written, number)
        self.replicas.on_durable(number, self._now_ms())
        self._soon()

    # -- the state -------------------------------------------------------------------------

    def _release(self) -> None:
        """What waited for a commit may leave. That the state has it, nobody waits for."""
        committed, self._committed = self._committed, []
        for shard_id in committed:
            owned = self._shards.get(shard_id)
            index = self._to_apply.get(shard_id)
            if owned is not None and index is not None:
                owned.leave(owned.gate.on_committed(index))

    def _apply(self) -> None:
        """Committed entries go into the state: many together, so that rows written again are written once."""
        ops: list[Op] = []
        done: list[tuple[ShardId, int]] = []
        held: dict[ShardId, int] = {}
        for shard, committed in self._to_apply.items():
            commit = self._inspector.hold(shard, committed)
            if commit < committed:
                held[shard] = committed
            entries = self._range(shard, self._applied.get(shard, 0) + 1, commit)
            if entries:
                ops.extend(merged(entries))
                last = entries[-1]
                head = records.encode_head(last.epoch, last.index, last.hash, last.log_time_ms)
                ops.append((layout.head_key(shard), head))
                done.append((shard, commit))
        if ops and not self._store.write(ops):
            return  # stalled: they stay to be applied
        self._to_apply.clear()
        self._to_apply.update(held)
        for shard_id, commit in done:
            self._applied[shard_id] = commit
            owned = self._shards.get(shard_id)
            if owned is not None:
                owned.log.on_durable(commit)

    # -- shards of ours --------------------------------------------------------------------

    def _open(self, shard_id: ShardId, epoch: Epoch, end: int) -> None:
        """The log is ours: calls may run on the state and the younger entries (L4)."""
        host = self._host
        owner = self.replicas.owners[shard_id]
        raw = self._store.get(layout.head_key(shard_id))
        head = records.decode_head(raw) if raw is not None else Head()
        now_ms = host.now_ms()
        shard = Shard(
            shard_id,
            self._store,
            head,
            epoch,
            now_ms,
            host.loop.time,
            host.telemetry.call_us,
            host.limits.kept_bytes_max,
            is_covered=lambda: owner.may_release_read(self._now_ms()),
            replica=self,
        )
        younger = self._range(shard_id, head.index + 1, end)
        shard.log.adopt([decode_entry(shard_id, entry) for entry in younger], now_ms)
        shard.given_up_ms = owner.members.record.given_up_ms
        shard.gate.close()  # R5
        self._shards[shard_id] = shard
        host.objects.open_shard(shard)
        self._admit_writes(shard)
        self._hand_writes_over()  # they come before its first entry
        host.committer.add(shard, shard.log.append(b"", {}, now_ms))
        self._announcements.add("own shard", shard_id, epoch)

    def _range(self, shard: ShardId, first: int, last: int) -> list[LogEntry]:
        """All of them."""
        found: list[LogEntry] = []
        while len(found) <= last - first:
            page = self._entries(shard, first + len(found), last)
            assert page, "an entry that is neither in the log nor in the state"
            found += page
        return found

    def _lose(self, shard_id: ShardId, epoch: Epoch) -> None:
        shard = self._shards.pop(shard_id, None)
        self._confirming.pop(shard_id, None)
        if shard is not None:
            self._announcements.add("shard lost", shard_id, epoch)
            self._host.objects.close_shard(shard)

    async def _stop_calls(self, shard: Shard, epoch: Epoch) -> None:
        # To whom, the map will say: routers and clients wait for its news.
        shard.refusal = NotOwnerError(f"shard {shard.id} is being handed to another node")
        await quiesce(self._host, shard)
        owner = self.replicas.owners.get(ShardId(shard.id))
        if owner is not None and owner.epoch == epoch:
            owner.on_quiet(self._now_ms())
            self._soon()

    def _admit_writes(self, shard: Shard) -> None:
        """M3: too few copies hold back calls that may write."""
        owner = self.replicas.owners[ShardId(shard.id)]
        if owner.admits_writes():
            shard.write_refusal = None
        elif shard.write_refusal is None:
            count = len(owner.members.record.in_sync)
            shard.write_refusal = UnavailableError(
                f"shard {shard.id}: copies in sync: {count}, and writes need "
                f"{self.replicas.min_in_sync} (min_in_sync): start the missing nodes, or wait until one has caught up"
            )

    # -- time ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._closed:
                return
            self.replicas.on_tick(self._now_ms())
            self._carry_out_or_die()
            self._announcements.say()
            if self._to_apply:
                self._apply()
            self._inspector.look(self._applied)
            for shard in list(self._shards.values()):
                self._admit_writes(shard)
                if shard.gate.uncovered_count:
                    self._uncovered(shard)
            if self._loop.time() >= self._trim_at:
                self._trim_at = self._loop.time() + TRIM_EVERY_S
                self._trim()
                self._catching_up.look(self._loop.time())
            self._carry_out_or_die()

    def _uncovered(self, shard: Shard) -> None:
        """Reads that wait for cover: it is back (R3), or the record is asked (R4)."""
        shard_id = ShardId(shard.id)
        owner = self.replicas.owners[shard_id]
        if owner.may_release_read(self._now_ms()):
            shard.leave(shard.gate.on_covered())
            self._confirming.pop(shard_id, None)
        elif shard_id not in self._confirming and owner.is_serving(self._now_ms()):
            # The read that answers must begin after these were executed.
            self._confirming[shard_id] = (self._records.read_soon(), shard.gate.uncovered_count)

    def _confirmed(self, found: Map) -> None:
        now_ms = self._now_ms()
        for shard_id, (read, count) in list(self._confirming.items()):
            if self._records.finished < read:
                continue
            del self._confirming[shard_id]
            shard, owner = self._shards.get(shard_id), self.replicas.owners.get(shard_id)
            versioned = found.shards.get(shard_id)
            if shard is None or owner is None or versioned is None:
                continue
            if owner.is_confirmed_by(versioned) and owner.is_serving(now_ms):
                shard.leave(shard.gate.on_covered(count))

    def _trim(self) -> None:
        """L6: entries that are in the state and that nobody needs are dropped."""
        all_kept = self.replicas.kept
        needs = [self._need(shard, kept) for shard, kept in all_kept.items() if not kept.marked]
        self._forget(needs)
        for shard, base in trimming.bases(needs).items():
            kept = all_kept[shard]
            if base - kept.shape.base < TRIM_ENTRIES_MIN:
                continue
            ops = trim_ops(shard, base, kept)
            self.replicas.on_trimmed(shard, base)
            tail = self._tails.get(shard, {})
            for index in [i for i in tail if i <= base]:
                del tail[index]
            self._host.committer.write(ops, _nothing)

    def _forget(self, needs: Sequence[trimming.Need]) -> None:
        """Entries that everybody has need not stay in memory, where too few are there to be cut from the disk.

        Two looks are needed: what one has found goes at the next, when the disk surely has it.
        """
        number, spare = self._spare
        if self._number_written < number:
            return
        for need in needs:
            tail = self._tails.get(need.shard, {})
            last = min(need.for_all, spare.get(need.shard, 0))
            for index in [i for i in tail if i <= last]:
                del tail[index]
        self._spare = (self._number, {need.shard: need.for_all for need in needs})

    def _need(self, shard: ShardId, kept: Kept) -> trimming.Need:
        for_members = for_all = min(self._applied.get(shard, 0), kept.shape.end)
        owner = self.replicas.owners.get(shard)
        if owner is not None:
            members, base = owner.members.counting(), kept.shape.base
            had = {peer: progress.kept_from for peer, progress in owner.progress.items()}
            for_members = trimming.needed_from(
                for_all, base, (index for peer, index in had.items() if peer in members)
            )
            for_all = trimming.needed_from(for_members, base, had.values())
        tail = self._tails.get(shard, {})
        size = sum(
            len(tail[index].body) for index in range(for_all + 1, for_members + 1) if index in tail
        )
        return trimming.Need(shard, for_all, for_members, size)

    def close(self) -> None:
        """The node ends: nothing is carried out any more."""
        self._closed = True

    def shards(self) -> Mapping[ShardId, Shard]:
        """Those that we own and run."""
        return self._shards


def _nothing() -> None:
    """Nobody waits for that write."""
