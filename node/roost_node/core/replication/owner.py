"""The owner's half of a shard: when its entries are committed, and who replicates it.

The life of an ownership (R5, L3, H1):

```
TAKING      the epoch is being written to our disk (O7); nobody is spoken to
RECOVERING  after a failover: members are asked for their logs, the longest is adopted (L3)
ACTIVE      the epoch's empty entry is made: calls run, entries are replicated and committed;
            outputs leave once the promises are waited out and the tail is committed (`is_serving`)
STOPPING    a handoff: first calls end, then the target gets the rest, then the record is changed
```

Not here: what leaves (`output_gate.py` asks `is_serving` and `is_covered`), bytes, streams, etcd.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.placement.wish import AddLearner, SetTarget, next_step
from roost_node.core.record import (
    Epoch,
    Guard,
    How,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Swap,
    Transaction,
    Versioned,
    Wish,
)
from roost_node.core.replication import audit, effects
from roost_node.core.replication.cover import PeerCover
from roost_node.core.replication.effects import Effect
from roost_node.core.replication.epochs import Shape, agreement
from roost_node.core.replication.members import Members
from roost_node.core.replication.messages import (
    Appended,
    Fetch,
    Fetched,
    LogEntry,
    Mismatch,
    Refused,
    Register,
    Registered,
)
from roost_node.core.replication.progress import LAG_MS_MAX, Progress
from roost_node.core.replication.recovery import Recovery, Step

FRESH_MS = 1_000
"""Adds and handoffs are proposed only when etcd answered within this time (O6)."""

HEARD_MS = 500
"""A joining replica must have answered within the last heartbeat or two (M2)."""


class Phase(enum.Enum):
    """How far an ownership has come; the sentences are at the top."""

    TAKING = "taking"
    RECOVERING = "recovering"
    ACTIVE = "active"
    STOPPING = "stopping"


class Node(Protocol):
    """What the owners of one node share."""

    me: StoreId
    session: SessionId
    min_in_sync: int
    sessions: dict[StoreId, SessionInfo]
    etcd_ms: int  # when a request to the coordination store, answered since, was begun

    def emit(self, effect: Effect) -> None:
        """Order something."""

    def cover_of(self, peer: StoreId) -> PeerCover:
        """What that node has promised to our session."""

    def is_linked(self, peer: StoreId) -> bool:
        """Is our stream to it open?"""

    def token(self) -> int:
        """A number that was not used before."""

    def must_send(self, shard: ShardId) -> None:
        """The owner of that shard has something to send."""


class Owner:
    """One shard that this session owns."""

    def __init__(
        self,
        node: Node,
        shard: ShardId,
        versioned: Versioned,
        shape: Shape,
        wait_until_ms: int,
        now_ms: int,
    ) -> None:
        self._node = node
        self.shard = shard
        self.epoch: Epoch = versioned.record.epoch
        self.members = Members(versioned)
        self.phase = Phase.TAKING
        self.shape = shape
        self.durable = 0  # our own disk has the log up to here, as of this epoch
        self.commit = 0
        self.wait_until_ms = wait_until_ms  # P4, P5; the past after a handoff (H1)
        self.progress: dict[StoreId, Progress] = {}
        self.wish: Wish | None = None
        self._serve_index = 0  # the tail that must be committed before anything leaves (R5)
        self._told_serving = False
        self._recovery = Recovery((), now_ms)
        self._target: StoreId | None = None  # of the handoff that is under way
        self._quiet = False
        self._handoff_ms = 0
        self._resume_ms = 0
        self._read_ms = 0
        self._recopied: set[StoreId] = set()  # suspects that have got a snapshot from us
        self._disowns = False  # the handoff is for a copy that is better than ours

    # -- what others ask -------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Until the tail is committed at this epoch nothing leaves (R5)."""
        return not self._serve_index or self.commit < self._serve_index

    @property
    def is_silent(self) -> bool:
        """From the proposal of a handoff on nothing leaves (H1), and nothing did before it began."""
        if self.phase is Phase.STOPPING:
            return self._handoff_ms > 0
        return self.phase is not Phase.ACTIVE

    def has_waited(self, now_ms: int) -> bool:
        """Are the promises that we gave to others waited out (P4, P5)?"""
        return now_ms >= self.wait_until_ms

    def is_serving(self, now_ms: int) -> bool:
        """May a reply leave whose entry is committed (R2)?"""
        return not self.is_silent and not self.is_waiting and self.has_waited(now_ms)

    def is_covered(self, now_ms: int) -> bool:
        """Has every store that might be promoted promised to wait (P3)?"""
        return now_ms < self.covered_until_ms()

    def covered_until_ms(self) -> int:
        """The moment from which somebody else may speak in our place."""
        others = [m for m in self.members.promising() if m != self._node.me]
        if not others:
            return 1 << 62  # nobody else can be promoted
        return min(self._node.cover_of(m).until_ms(self.shard) for m in others)

    def may_release_read(self, now_ms: int) -> bool:
        """May output without an entry leave, if it was made before now (R3)?"""
        return self.is_serving(now_ms) and self.is_covered(now_ms)

    def is_confirmed_by(self, found: Versioned) -> bool:
        """R4: does a linearizable read, begun after the execution, show us as the owner?"""
        record = found.record
        return record.epoch == self.epoch and record.session == self._node.session

    def admits_writes(self) -> bool:
        """Are there enough copies to take calls that may write (M3)?"""
        return len(self.members.record.in_sync) >= self._node.min_in_sync

    def irremovable(self) -> frozenset[StoreId]:
        """Others whose acknowledgement is needed and who may not be removed (M3)."""
        counting = self.members.counting() - {self._node.me}
        if self.members.is_settled and len(counting) >= self._node.min_in_sync:
            return frozenset()
        return counting

    def runs_calls(self) -> bool:
        """May calls execute (R5: outputs are another question)?"""
        return self.phase is Phase.ACTIVE

    # -- the beginning ---------------------------------------------------------------------

    def on_epoch_durable(self, now_ms: int) -> None:
        """Our own disk refuses lower epochs now (O7): speak to the others."""
        if self.phase is not Phase.TAKING:
            return
        self.phase = Phase.RECOVERING
        asked = self.members.record.in_sync if self.members.record.how is How.FAILOVER else ()
        self._recovery = Recovery([m for m in asked if m != self._node.me], now_ms)
        self._meet_peers(now_ms)
        self._recover(now_ms)

    def on_link(self, peer: StoreId, now_ms: int) -> None:
        """A stream to that node was opened, the first or another one."""
        if self.phase is Phase.TAKING:
            return
        if peer in self._peers() or peer in self.progress:
            self._begin_with(peer, now_ms)

    def on_link_lost(self, peer: StoreId) -> None:
        """Nothing that it said counts any more (M6)."""
        progress = self.progress.get(peer)
        if progress is not None:
            progress.reset()
        self._recovery.on_unreachable(peer)

    def _begin_with(self, peer: StoreId, now_ms: int) -> None:
        progress = self.progress.get(peer)
        if progress is None:
            progress = self.progress[peer] = Progress(now_ms)
            progress.follow(self.shape.end, now_ms)
        progress.reset()
        if self._node.is_linked(peer):
            self._node.cover_of(peer).register(self.shard)
            self._node.emit(effects.ToPeer(peer, Register(self.shard, self.epoch)))

    def _peers(self) -> list[StoreId]:
        """Everybody who should have the log, but ourselves, in a fixed order."""
        record = self.members.record
        everybody = {*self.members.counting(), *record.learners}
        return sorted(everybody - {self._node.me})

    def _recover(self, now_ms: int) -> None:
        """L3: adopt the longest log among the in-sync members that answer."""
        if self.phase is not Phase.RECOVERING:
            return
        step = self._recovery.next(self.shape, now_ms)
        if step is Step.OPEN:
            self._open()
        elif step is Step.FETCH:
            source = self._recovery.source
            assert source is not None, "FETCH names its source"
            after = agreement(self.shape, self._recovery.shape_of(source))
            self._node.emit(effects.ToPeer(source, Fetch(self.shard, self.epoch, after)))
        elif step is Step.STEP_DOWN:
            self._step_down(now_ms)

    def _step_down(self, now_ms: int) -> None:
        """L3: let a member own the shard whose log ours cannot be made from.

        As the controller would (F1): that member waits out what it promised. We have released nothing,
        and our store is a learner from then on, because it lacks what was committed.
        """
        member = self._recovery.longest
        assert member is not None, "STEP_DOWN names whose log it is"
        session = self._node.sessions.get(member)
        if session is None or not self.members.is_settled:
            return
        record, me = self.members.record, self._node.me
        self._node.emit(effects.SteppedDown(self.shard, self.epoch, member, self.shape.end))
        self._propose(
            msgspec.structs.replace(
                record,
                epoch=Epoch(self.epoch + 1),
                owner=member,
                session=session.session,
                how=How.FAILOVER,
                previous=self._node.session,
                in_sync=tuple(m for m in record.in_sync if m != me),
                learners=_with(record.learners, me),
            ),
            now_ms,
            Guard(member, session.session, alive=True),
        )

    def on_fetched(self, peer: StoreId, message: Fetched, now_ms: int) -> tuple[LogEntry, ...]:
        """The entries to put on our disk, which the caller does; empty: nothing is wanted."""
        if self.phase is not Phase.RECOVERING or not self._recovery.on_fetched(peer):
            return ()
        return message.entries

    def on_adopted(self, shape: Shape, now_ms: int) -> None:
        """Fetched entries are in our log."""
        self.shape = shape
        self._recover(now_ms)

    def _open(self) -> None:
        """The log is ours: the first entry of the epoch makes it differ from all others."""
        self.phase = Phase.ACTIVE
        self._serve_index = self.shape.end + 1
        self._node.emit(effects.OpenEpoch(self.shard, self.epoch, self.shape.end))

    # -- the log ---------------------------------------------------------------------------

    def on_appended(self, index: int, now_ms: int) -> None:
        """An entry was made here; it is on its way to our disk."""
        self.shape = self.shape.extended(self.epoch, index)
        for progress in self.progress.values():
            progress.follow(index, now_ms)
        self._node.must_send(self.shard)

    def on_durable(self, index: int, now_ms: int) -> None:
        """Our own disk has the log up to `index`, as of this epoch."""
        if index > self.durable:
            self.durable = index
            self._advance()
            self._go_on(now_ms)

    def send(self, *, commit: bool = False) -> None:
        """Send what each replica has not been sent; called once for many entries.

        `commit`: also how far the log is committed, where nothing else is to be said.
        """
        for peer, progress in self.progress.items():
            if progress.next and self._node.is_linked(peer):
                behind = progress.next <= self.shape.end
                if behind or (commit and progress.told_commit < self.commit):
                    self._send_to(peer, progress)

    def _send_to(self, peer: StoreId, progress: Progress) -> None:
        first = progress.next
        if first - 1 < self.shape.base or progress.foreign:
            self._send_snapshot(peer, progress)
            return
        progress.next = self.shape.end + 1
        progress.told_commit = self.commit
        self._node.emit(
            effects.SendEntries(
                peer,
                self.shard,
                self.epoch,
                first,
                self.shape.end,
                self.shape.epoch_at(first - 1),
                self.commit,
            )
        )

    def on_sent_only(self, peer: StoreId, last: int) -> None:
        """The shell sent less than it was told, up to `last`: the rest when that is acknowledged."""
        progress = self.progress.get(peer)
        if progress is not None and progress.next > last + 1:
            progress.next = last + 1

    def _send_snapshot(self, peer: StoreId, progress: Progress) -> None:
        # M7: it destroys what the learner had, so the record must be known not to count it.
        if progress.snapshot or peer in self.members.counting() or self.is_waiting:
            return
        progress.snapshot = True
        self._node.emit(effects.SendSnapshot(peer, self.shard, self.epoch))

    def on_registered(self, peer: StoreId, message: Registered, now_ms: int) -> None:
        """A replica listens, and this is its log."""
        progress = self.progress.get(peer)
        if progress is None:
            return
        progress.heard(now_ms)
        progress.shape = message.shape
        self._recovery.on_shape(peer, message.shape)
        self._recover(now_ms)
        self._aim(peer, progress, message.shape)

    def on_mismatch(self, peer: StoreId, message: Mismatch, now_ms: int) -> None:
        """What was sent does not follow its log."""
        progress = self.progress.get(peer)
        if progress is None:
            return
        progress.heard(now_ms)
        progress.shape = message.shape
        progress.snapshot = False
        self._aim(peer, progress, message.shape)

    def _aim(self, peer: StoreId, progress: Progress, shape: Shape) -> None:
        """Send from where the two logs agree."""
        if self.phase in (Phase.ACTIVE, Phase.STOPPING):
            record = self.members.record
            unlike = shape.end > 0 and shape.last_epoch < record.reborn  # M8
            is_wrong = unlike or self._is_suspect(peer)
            progress.foreign = is_wrong and peer not in self.members.counting()
            progress.next = agreement(self.shape, shape) + 1
            self._send_to(peer, progress)

    def on_opened(self, now_ms: int) -> None:
        """The epoch's entry was made: replicas whose logs are known get what they lack."""
        for peer, progress in self.progress.items():
            if progress.shape is not None and not progress.next:
                self._aim(peer, progress, progress.shape)

    def on_acked(self, peer: StoreId, message: Appended, now_ms: int) -> None:
        """A replica's disk has our log up to an index (L2)."""
        progress = self.progress.get(peer)
        if progress is None:
            return
        assert message.index <= self.shape.end, "L2: nobody has more of our log than we"
        if peer not in self.members.counting() and self._is_suspect(peer):
            if not progress.snapshot:
                return  # of entries on top of a state that is wrong
            self._recopied.add(peer)
        progress.snapshot = progress.foreign = False
        if progress.next <= message.index:  # a snapshot brought it here
            progress.next = message.index + 1
            self._node.must_send(self.shard)
        if progress.acknowledged(message.index, self.shape.end, now_ms):
            self._advance()
        if progress.next <= self.shape.end:
            self._node.must_send(self.shard)
        self._go_on(now_ms)

    def on_refused(self, peer: StoreId, message: Refused, now_ms: int) -> None:
        """Somebody owns the shard at a higher epoch, or will: look at the record."""
        progress = self.progress.get(peer)
        if progress is not None:
            progress.reset()
            progress.refused = True
        self._recovery.on_unreachable(peer)
        self._node.cover_of(peer).on_refused(self.shard)
        self.read_record(now_ms)

    def _advance(self) -> None:
        """R1: committed is what every member that counts has on its disk, at this epoch."""
        reached = self.durable
        for member in self.members.counting():
            if member != self._node.me:
                progress = self.progress.get(member)
                reached = min(reached, progress.match if progress is not None else 0)
        if reached > self.commit:
            self.commit = reached
            self._node.emit(effects.Commit(self.shard, reached))

    # -- the record ------------------------------------------------------------------------

    def read_record(self, now_ms: int) -> None:
        """Look at the record soon, but not all the time."""
        if now_ms - self._read_ms >= 100 or not self._read_ms:
            self._read_ms = now_ms
            self._node.emit(effects.ReadRecord(self.shard, self._node.token()))

    def on_read(self, found: Versioned, now_ms: int) -> bool:
        """A linearizable read of the record. False: it names another owner, and we are deposed."""
        record = found.record
        if found.revision >= self.members.revision and (
            record.epoch != self.epoch or record.session != self._node.session
        ):
            return False
        if self.members.on_read(found):
            self._on_settled(now_ms)
        return True

    def on_change_answered(
        self, token: int, succeeded: bool | None, revision: int, now_ms: int
    ) -> bool:
        """A transaction was answered; None: nobody knows whether it was applied (O2).

        False: it was our handoff, and it was applied: the shard is another node's.
        """
        if succeeded is None:
            self.members.on_unanswered(token)
        elif not succeeded:
            self.members.on_refused(token)
            if self.members.is_settled:
                self._on_settled(now_ms)  # a handoff that certainly did not come about
            self._read_ms = 0
            self.read_record(now_ms)
        elif self.members.on_applied(token, revision):
            if self.members.record.epoch != self.epoch:
                return False
            self._on_settled(now_ms)
        return True

    def _on_settled(self, now_ms: int) -> None:
        """The record is known again, and it is ours."""
        if self.phase is Phase.STOPPING and self._handoff_ms:
            self._resume(now_ms)
        self._meet_peers(now_ms)
        for peer, progress in self.progress.items():
            if self._is_suspect(peer) and not (progress.foreign or progress.snapshot):
                self._begin_with(peer, now_ms)  # what it says after this is of what it has now
        self._advance()

    def _meet_peers(self, now_ms: int) -> None:
        """Speak to those who should have the log now, and to nobody else."""
        peers = self._peers()
        for peer in [p for p in self.progress if p not in peers]:
            del self.progress[peer]
            self._node.cover_of(peer).forget(self.shard)
        for peer in peers:
            if peer not in self.progress:
                self._begin_with(peer, now_ms)

    def _propose(self, record: ShardRecord, now_ms: int, *guards: Guard) -> None:
        token = self._node.token()
        record = msgspec.structs.replace(record, nonce=token)
        swap = Swap(self.shard, self.members.revision, record)  # O1
        self.members.propose(record, token, now_ms)
        own = Guard(self._node.me, self._node.session, alive=True)  # O6
        self._node.emit(effects.Change(self.shard, token, Transaction((swap,), (own, *guards))))

    @property
    def is_restless(self) -> bool:
        """Something is under way that time moves: it wants every tick."""
        return self.phase is not Phase.ACTIVE or not (
            self._told_serving and self.members.is_settled
        )

    # -- time ------------------------------------------------------------------------------

    def on_tick(self, now_ms: int) -> None:
        """Some time has passed: go on with whatever waits."""
        if self.phase is Phase.TAKING:
            return
        self._meet_peers(now_ms)
        if self.phase is Phase.RECOVERING:
            self._recover(now_ms)
        if self.members.must_touch(now_ms):
            self._touch(now_ms)
        if self.members.is_settled:
            self._change_members(now_ms)
        self._go_on(now_ms)

    def _go_on(self, now_ms: int) -> None:
        """Callers wait for these two: not until the next tick where more is known before."""
        if self.phase is Phase.STOPPING:
            self._go_on_stopping(now_ms)
        elif not self._told_serving and self.is_serving(now_ms):
            self._told_serving = True
            self._node.emit(effects.StartServing(self.shard, self.epoch))

    def _touch(self, now_ms: int) -> None:
        """O2: only another revision makes the old comparison fail.

        The unchanged record, so that whatever hung (a dead replica's addition) is let go.
        """
        self._propose(self.members.record, now_ms)

    def _change_members(self, now_ms: int) -> None:
        record = self.members.record
        leaving = self._laggard(now_ms) or self._stopping_member()
        if leaving is not None:
            kept = tuple(m for m in record.in_sync if m != leaving)
            self._propose(
                msgspec.structs.replace(
                    record, in_sync=kept, learners=_with(record.learners, leaving)
                ),
                now_ms,
            )
            return
        if self.phase is not Phase.ACTIVE or now_ms - self._node.etcd_ms > FRESH_MS:  # O6
            return
        joining = self._joining(now_ms)
        if joining is not None:
            self._propose(
                msgspec.structs.replace(
                    record,
                    in_sync=(*record.in_sync, joining),
                    learners=tuple(m for m in record.learners if m != joining),
                    suspects=tuple(m for m in record.suspects if m != joining),
                ),
                now_ms,
            )
            return
        self._follow_wish(now_ms)

    def _laggard(self, now_ms: int) -> StoreId | None:
        """A member that is gone, too slow or silent, if one may be removed (M3, M5)."""
        record = self.members.record
        if len(record.in_sync) <= self._node.min_in_sync:
            return None
        for member in record.in_sync:
            if member != self._node.me and member not in self._node.sessions:
                return member  # it would only be waited for: back again, it is another session (O5)
        slow = [
            (progress.lag_ms(now_ms), member)
            for member in record.in_sync
            if (progress := self.progress.get(member)) is not None
            and progress.lag_ms(now_ms) > LAG_MS_MAX
        ]
        return max(slow)[1] if slow else None

    def _stopping_member(self) -> StoreId | None:
        """A member that says it will end: let go before, so that no commit waits for it (M5)."""
        record = self.members.record
        if len(record.in_sync) <= self._node.min_in_sync:
            return None  # M3
        return next((m for m in record.in_sync if self._is_stopping(m)), None)

    def _is_stopping(self, store: StoreId) -> bool:
        info = self._node.sessions.get(store)
        return info is not None and info.stopping and store != self._node.me

    def _joining(self, now_ms: int) -> StoreId | None:
        """A replica that has everything, if one may be added."""
        if not self.has_waited(now_ms):
            return None  # P7
        for peer in self.members.record.learners:
            if self.wish is not None and peer not in self.wish.replicas:
                continue  # it is on its way out
            if self._is_stopping(peer):
                continue  # it comes back when it has been started again
            progress = self.progress.get(peer)
            if progress is not None and self._has_everything(progress, now_ms):
                return peer
        return None

    def _has_everything(self, progress: Progress, now_ms: int) -> bool:
        """M2; an owner that has not committed yet counts its whole log as committed (M4)."""
        needed = self.commit if not self.is_waiting else self.shape.end
        return (
            progress.match > 0
            and progress.match >= needed
            and progress.answered_since(now_ms - HEARD_MS)
        )

    def _follow_wish(self, now_ms: int) -> None:
        """One step towards where the plan wants the shard."""
        record = self.members.record
        ready = {
            store
            for store, info in self._node.sessions.items()
            if not (info.draining or info.stopping)
        }
        step = next_step(self.shard, record, self.wish, ready, self._node.min_in_sync)
        if isinstance(step, AddLearner):
            learners = _with(record.learners, step.store)
            self._propose(msgspec.structs.replace(record, learners=learners), now_ms)
        elif isinstance(step, SetTarget):
            self._start_handoff(step.store, now_ms)
        elif step is not None:
            kept = tuple(m for m in record.in_sync if m != step.store)
            learners = tuple(m for m in record.learners if m != step.store)
            changed = msgspec.structs.replace(record, in_sync=kept, learners=learners)
            self._propose(changed, now_ms)

    # -- copies that are wrong (`audit.py`) --------------------------------------------------

    def _is_suspect(self, peer: StoreId) -> bool:
        """Is its state wrong, for all that we know?"""
        return peer in self.members.record.suspects and peer not in self._recopied

    def distrust(self, bad: Sequence[StoreId], good: Sequence[StoreId], now_ms: int) -> bool:
        """Let no bad copy count: a follower's is made anew, for ours the shard goes to a good one first.

        False: not now, because a change is under way or too few would be left (M3).
        """
        record, me = self.members.record, self._node.me
        without = audit.without(record, bad, self._node.min_in_sync)
        if without is None or not self.members.is_settled or self.phase is not Phase.ACTIVE:
            return False
        if me not in bad:
            self._propose(without, now_ms)
            return True
        for store in good:
            self._start_handoff(store, now_ms)
            if self._target is not None:
                self._disowns = True
                return True
        return False

    # -- handoff ---------------------------------------------------------------------------

    def _start_handoff(self, target: StoreId, now_ms: int) -> None:
        """H1: the target is in sync, lives, and has answered lately; we serve (P7)."""
        progress = self.progress.get(target)
        session = self._node.sessions.get(target)
        if (
            target not in self.members.record.in_sync
            or session is None
            or progress is None
            or not self.is_serving(now_ms)
            or not progress.answered_since(now_ms - HEARD_MS)
            or now_ms < self._resume_ms
        ):
            return
        self.phase = Phase.STOPPING
        self._target = target
        self._quiet = False
        self._handoff_ms = 0
        self._resume_ms = now_ms + 10_000  # should it not come about, it is tried again later
        self._node.emit(effects.StopCalls(self.shard, self.epoch))

    def on_quiet(self, now_ms: int) -> None:
        """No call runs any more."""
        if self.phase is Phase.STOPPING:
            self._quiet = True
            self._go_on_stopping(now_ms)

    def _go_on_stopping(self, now_ms: int) -> None:
        if self._handoff_ms:
            return  # proposed: stopped until the record has moved (O2)
        assert self._target is not None, "H1: a handoff has a target"
        progress = self.progress.get(self._target)
        session = self._node.sessions.get(self._target)
        gone = session is None or progress is None
        slow = progress is not None and not progress.answered_since(now_ms - LAG_MS_MAX)
        if gone or slow or self._target not in self.members.record.in_sync:
            self._resume(now_ms)
            return
        assert progress is not None, "seen above"
        assert session is not None, "seen above"
        complete = progress.match == self.shape.end and self.commit == self.shape.end
        if self._quiet and complete and self.members.is_settled:
            self._handoff_ms = now_ms
            self._node.emit(effects.FallSilent(self.shard, self.epoch))
            me, found = self._node.me, self.members.record
            left = audit.without(found, (me,), self._node.min_in_sync) if self._disowns else None
            record = msgspec.structs.replace(
                left or found,
                epoch=Epoch(self.epoch + 1),
                owner=self._target,
                session=session.session,
                previous=self._node.session,
                how=How.HANDOFF,
            )
            alive = Guard(self._target, session.session, alive=True)
            self._propose(record, now_ms, alive)

    def _resume(self, now_ms: int) -> None:
        self.phase = Phase.ACTIVE
        self._target = None
        self._disowns = False
        self._handoff_ms = 0
        self._resume_ms = now_ms + 10_000
        self._node.emit(effects.ResumeCalls(self.shard, self.epoch))


def _with(stores: tuple[StoreId, ...], store: StoreId) -> tuple[StoreId, ...]:
    return stores if store in stores else (*stores, store)
