"""Every rule of the protocol, broken on purpose: the simulation must notice.

Each variant is named as in `docs/PROTOCOL.md`. It breaks one rule by replacing the method that keeps it.
The deepest ones are looked for in scenarios that are aimed at them (`scenarios.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from roost_node.core.record import (
    NO_SESSION,
    Epoch,
    ShardRecord,
    StoreId,
    Transaction,
    Versioned,
    is_gone,
    union,
)
from roost_node.core.registry import Registry
from roost_node.core.replication import follower
from roost_node.core.replication.epochs import Shape
from roost_node.core.replication.follower import Accepted
from roost_node.core.replication.members import Members
from roost_node.core.replication.messages import Append, Appended, Refused
from roost_node.core.replication.owner import Owner, Phase
from roost_node.core.replication.promises import Promises
from roost_node.core.replication.recovery import Recovery
from roost_node.core.replication.replicas import Replicas
from simulator import failover, scenarios
from simulator.disk import Disk
from simulator.history import ViolationError
from simulator.process import Op, Process, Waiting
from simulator.replication import World

Patch = pytest.MonkeyPatch
Variant = Callable[[Patch], None]


def put_without_compare(patch: Patch) -> None:
    """O1."""

    def holds(self: Registry, wanted: Transaction) -> bool:
        if any(
            s.record.epoch < self.shards[s.shard].record.epoch for s in wanted.swaps if s.revision
        ):
            return False  # epochs at least do not run back
        return all(is_gone(self.sessions, g.store, g.session) is not g.alive for g in wanted.guards)

    patch.setattr(Registry, "_holds", holds)


def resolve_by_read(patch: Patch) -> None:
    """O2: a read that shows the old record is taken for the failure of what was proposed."""
    on_read = Members.on_read

    def forgetful(self: Members, found: Versioned) -> bool:
        moved = on_read(self, found)
        if not moved and self._proposed and not self._asked:
            self._move(found)
            return True
        return moved

    patch.setattr(Members, "on_read", forgetful)
    patch.setattr(Members, "must_touch", lambda self, now_ms: False)


def no_touch(patch: Patch) -> None:
    """O2: nobody writes again."""
    patch.setattr(Members, "must_touch", lambda self, now_ms: False)


def death_needs_absent_key(patch: Patch) -> None:
    """O5."""
    promotion = failover.promotion

    def absent(sessions: Any, shard: Any, versioned: Versioned, rng: Any) -> object:
        if versioned.record.owner in sessions:
            return None
        return promotion(sessions, shard, versioned, rng)

    patch.setattr(failover, "promotion", absent)


def promote_live(patch: Patch) -> None:
    """O5: the controller promotes while the old owner's session lives."""

    def eager(sessions: Any, shard: Any, versioned: Versioned, rng: Any) -> object:
        if rng.random() > 0.02:
            return promotion(sessions, shard, versioned, rng)
        record = msgspec.structs.replace(versioned.record, session=NO_SESSION)
        made = promotion(sessions, shard, Versioned(versioned.revision, record), rng)
        return made and Transaction(made.swaps, made.guards[1:])

    promotion = failover.promotion
    patch.setattr(failover, "promotion", eager)


def accept_low_epoch(patch: Patch) -> None:
    """O7."""
    patch.setattr(follower, "listens_to", lambda kept, epoch: True)


def epoch_in_memory(patch: Patch) -> None:
    """O7: the highest epoch seen is forgotten in a restart."""
    reopen = Disk.reopen

    def forgetful(self: Disk) -> object:
        kept, copies = reopen(self)
        for one in kept.values():
            one.seen = Epoch(1)
        return kept, copies

    patch.setattr(Disk, "reopen", forgetful)


def cover_without_epoch(patch: Patch) -> None:
    """P1: a heartbeat covers a shard whatever epoch the follower has seen of it."""
    say = Replicas._say

    def silent(self: Replicas, peer: StoreId, inbound: object, message: object) -> None:
        if not isinstance(message, Refused):
            say(self, peer, inbound, message)  # type: ignore[arg-type]

    patch.setattr(Replicas, "_say", silent)


def no_promise_wait(patch: Patch) -> None:
    """P3."""
    patch.setattr(Owner, "has_waited", lambda self, now_ms: True)


def frozen_clock(patch: Patch) -> None:
    """P3: the clock stands still while the machine is suspended."""

    def sleep(self: Process, length_ms: float) -> None:
        self.frozen_ms += int(length_ms)

    patch.setattr(Process, "sleep", sleep)


def join_uncounted_promise(patch: Patch) -> None:
    """P3: a joining member's promise is not needed until its swap is known."""

    def promising(self: Members) -> frozenset[StoreId]:
        return frozenset(self.record.in_sync)

    patch.setattr(Members, "promising", promising)


def leave_early_promise(patch: Patch) -> None:
    """P3: a leaving member's promise is not needed once its removal is proposed."""

    def promising(self: Members) -> frozenset[StoreId]:
        return self.counting().intersection(*(p.in_sync for p in self._proposed.values()))

    patch.setattr(Members, "promising", promising)


def wait_last_only(patch: Patch) -> None:
    """P4: only the promise to the owner before is waited out."""
    take = Replicas._take

    def only_last(self: Replicas, shard: object, versioned: Versioned, *rest: object) -> None:
        promises = self.promises._until_ms
        kept = dict(promises)
        for session in list(promises):
            if session != versioned.record.previous:
                del promises[session]
        take(self, shard, versioned, *rest)  # type: ignore[arg-type]
        promises.update(kept)

    patch.setattr(Replicas, "_take", only_last)


def no_restart_wait(patch: Patch) -> None:
    """P5."""
    init = Promises.__init__
    patch.setattr(Promises, "__init__", lambda self, started_ms: init(self, -(10**9)))
    patch.setattr(
        Promises, "__init__", lambda self, started_ms, lease_ms: init(self, -(10**9), lease_ms)
    )


def fast_path_skips_all(patch: Patch) -> None:
    """P6: after a proven death of the last owner nothing is waited for."""
    take = Replicas._take

    def skip(
        self: Replicas,
        shard: object,
        versioned: Versioned,
        sessions: object,
        deaths: object,
        now: int,
    ) -> None:
        take(self, shard, versioned, sessions, deaths, now)  # type: ignore[arg-type]
        owner = self.owners.get(shard)  # type: ignore[call-overload]
        if owner is not None and versioned.record.previous in deaths:  # type: ignore[operator]
            owner.wait_until_ms = now

    patch.setattr(Replicas, "_take", skip)


def add_before_waiting(patch: Patch) -> None:
    """P7: a new owner adds members while it still waits."""
    joining = Owner._joining

    def early(self: Owner, now_ms: int) -> StoreId | None:
        until, self.wait_until_ms = self.wait_until_ms, 0
        found = joining(self, now_ms)
        self.wait_until_ms = until
        return found

    patch.setattr(Owner, "_joining", early)


def handoff_before_serving(patch: Patch) -> None:
    """P7: a new owner hands off while it still waits."""
    start = Owner._start_handoff

    def early(self: Owner, target: StoreId, now_ms: int) -> None:
        until, self.wait_until_ms = self.wait_until_ms, 0
        start(self, target, now_ms)
        self.wait_until_ms = until

    patch.setattr(Owner, "_start_handoff", early)


def reply_before_commit(patch: Patch) -> None:
    """R1."""

    def may_leave(self: Process, owner: Owner, output: Waiting, now: int) -> bool:
        return owner.is_serving(now) and (not output.read or owner.may_release_read(now))

    patch.setattr(Process, "may_leave", may_leave)


def ack_before_fsync(patch: Patch) -> None:
    """R1."""
    after = Replicas._after

    def at_once(self: Replicas, then: object, now_ms: int) -> None:
        if isinstance(getattr(then, "message", None), Appended):
            self._do(then, now_ms)  # type: ignore[arg-type]
        else:
            after(self, then, now_ms)  # type: ignore[arg-type]

    patch.setattr(Replicas, "_after", at_once)


def own_fsync_ignored(patch: Patch) -> None:
    """R1."""
    advance = Owner._advance

    def early(self: Owner) -> None:
        self.durable = self.shape.end
        advance(self)

    patch.setattr(Owner, "_advance", early)


def no_read_check(patch: Patch) -> None:
    """R3."""
    patch.setattr(Owner, "may_release_read", lambda self, now_ms: self.is_serving(now_ms))


def read_check_first(patch: Patch) -> None:
    """R3: the check comes before the execution, and there may be a pause between them."""
    call, may_leave = Process.call, Process.may_leave

    def checked(self: Process, op: Op) -> None:
        owner = self.replicas.owners.get(op.shard)
        if op.request or owner is None or not owner.may_release_read(self.now()):
            call(self, op)
            return
        op.checked = True
        self.world.later(self.world.rng.random() * 1_500, lambda: self.run(lambda: call(self, op)))

    def late(self: Process, owner: Owner, output: Waiting, now: int) -> bool:
        if output.read and output.op.checked and owner.commit >= output.index:
            return True
        return may_leave(self, owner, output, now)

    patch.setattr(Process, "call", checked)
    patch.setattr(Process, "may_leave", late)


def no_etcd_check(patch: Patch) -> None:
    """R4."""
    may_leave = Process.may_leave

    def unasked(self: Process, owner: Owner, output: Waiting, now: int) -> bool:
        output.asked = -1
        return may_leave(self, owner, output, now)

    patch.setattr(Process, "may_leave", unasked)


def etcd_check_before_waiting(patch: Patch) -> None:
    """R5: a read of the record serves although promises have not been waited out."""
    is_serving = Owner.is_serving

    def early(self: Owner, now_ms: int) -> bool:
        return is_serving(self, now_ms) or (self.phase is Phase.ACTIVE and not self.is_waiting)

    patch.setattr(Owner, "is_serving", early)


def cut_by_index(patch: Patch) -> None:
    """L1: a follower keeps its entry at an index, whatever its epoch."""

    def accept(shape: object, message: Append) -> Accepted | None:
        if message.previous_index > shape.end or message.previous_index < shape.base:  # type: ignore[attr-defined]
            return None
        fresh = tuple(e for e in message.entries if e.index > shape.end)  # type: ignore[attr-defined]
        last = shape.last_epoch  # type: ignore[attr-defined]
        fresh = tuple(
            e if e.epoch >= last else msgspec.structs.replace(e, epoch=last) for e in fresh
        )
        return Accepted(-1, fresh, message.previous_index + len(message.entries))

    patch.setattr(follower, "accept", accept)


def cut_to_message(patch: Patch) -> None:
    """L1: a follower cuts its log to the length of each message."""
    accept = follower.accept

    def eager(shape: Shape, message: Append) -> Accepted | None:
        found = accept(shape, message)
        if found is None or found.match >= shape.end or message.previous_index < shape.base:
            return found
        return Accepted(message.previous_index, message.entries, found.match)

    patch.setattr(follower, "accept", eager)


def own_log_is_the_longest(patch: Patch) -> None:
    """L3: a new owner takes its own log, whatever its disk has lost."""
    patch.setattr(
        Owner,
        "_recover",
        lambda self, now_ms: self._open() if self.phase is Phase.RECOVERING else None,
    )


def owner_without_a_log_stays(patch: Patch) -> None:
    """L3: a new owner whose log ends before the others' begin waits for entries that nobody has."""
    patch.setattr(Recovery, "_is_out_of_reach", lambda self, mine, other: False)


def stale_base(patch: Patch) -> None:
    """L4: calls run on the committed state while younger entries are in the log."""
    patch.setattr(
        Process, "base_of", lambda self, owner: max(owner.commit, self.copy_of(owner.shard).base)
    )


def dedup_not_replicated(patch: Patch) -> None:
    """L5: what was answered is known to the owner that answered alone."""
    call = Process.call

    def forgetful(self: Process, op: Op) -> None:
        owner = self.replicas.owners.get(op.shard)
        if owner is not None and owner.runs_calls() and op.request and op.shard not in self.quiet:
            copy = self.copy_of(op.shard)
            ours = {int(b) for _, e, b in copy.log(owner.shape.end) if b and e == owner.epoch}
            if op.request not in ours and op.request in copy.value(owner.shape.end):
                self.append(op.shard, str(op.request).encode())
        call(self, op)

    patch.setattr(Process, "call", forgetful)


def join_uncounted(patch: Patch) -> None:
    """M1: a joining member counts only after its swap."""
    patch.setattr(Members, "counting", lambda self: frozenset(self.record.in_sync))


def leave_early(patch: Patch) -> None:
    """M1: a leaving member stops counting when its removal is proposed."""

    def counting(self: Members) -> frozenset[StoreId]:
        everybody = union([self.record.in_sync, *(p.in_sync for p in self._proposed.values())])
        return everybody.intersection(*(p.in_sync for p in self._proposed.values()))

    patch.setattr(Members, "counting", counting)


def join_behind(patch: Patch) -> None:
    """M2."""
    patch.setattr(Owner, "_has_everything", lambda self, progress, now_ms: progress.match > 0)


def shrink_below_min(patch: Patch) -> None:
    """M3."""
    laggard = Owner._laggard

    def eager(self: Owner, now_ms: int) -> StoreId | None:
        node, low = self._node, self._node.min_in_sync
        node.min_in_sync = 1
        found = laggard(self, now_ms)
        node.min_in_sync = low
        return found

    patch.setattr(Owner, "_laggard", eager)


def min_stops_epoch_entry(patch: Patch) -> None:
    """M3: too few copies hold back every commit, not only calls that write."""
    advance = Owner._advance
    patch.setattr(Owner, "_advance", lambda self: advance(self) if self.admits_writes() else None)


def add_only_serving(patch: Patch) -> None:
    """M4."""
    joining = Owner._joining
    patch.setattr(
        Owner,
        "_joining",
        lambda self, now_ms: joining(self, now_ms) if self.is_serving(now_ms) else None,
    )


def handoff_keeps_serving(patch: Patch) -> None:
    """H1: the old owner goes on while its handoff is under way."""
    patch.setattr(Owner, "is_silent", property(lambda self: self.phase is Phase.RECOVERING))


def handoff_learner(patch: Patch) -> None:
    """H1: the target has everything, but is not in sync."""
    start, go_on = Owner._start_handoff, Owner._go_on_stopping

    def counted(function: Callable[..., None]) -> Callable[..., None]:
        def around(self: Owner, *args: object) -> None:
            record = self.members.record
            wider = msgspec.structs.replace(record, in_sync=(*record.in_sync, *record.learners))
            self.members.record = wider
            function(self, *args)
            if self.members.record is wider:
                self.members.record = record

        return around

    propose = Owner._propose

    def honest(self: Owner, record: ShardRecord, *rest: object) -> None:
        learners = self.members.record.learners
        kept = tuple(m for m in record.in_sync if m not in learners)
        propose(self, msgspec.structs.replace(record, in_sync=kept), *rest)  # type: ignore[arg-type]

    patch.setattr(Owner, "_start_handoff", counted(start))
    patch.setattr(Owner, "_go_on_stopping", counted(go_on))
    patch.setattr(Owner, "_propose", honest)


def promote_outside(patch: Patch) -> None:
    """F1."""
    promotion = failover.promotion

    def anybody(sessions: object, shard: object, versioned: Versioned, rng: object) -> object:
        record = msgspec.structs.replace(
            versioned.record, in_sync=(*versioned.record.in_sync, *versioned.record.learners)
        )
        return promotion(sessions, shard, Versioned(versioned.revision, record), rng)  # type: ignore[arg-type]

    patch.setattr(failover, "promotion", anybody)


def no_revocation(patch: Patch) -> None:
    """F2."""
    patch.setattr(World, "_revoke", lambda self: None)


VARIANTS: list[Variant] = [
    put_without_compare,
    resolve_by_read,
    no_touch,
    death_needs_absent_key,
    promote_live,
    accept_low_epoch,
    epoch_in_memory,
    cover_without_epoch,
    no_promise_wait,
    frozen_clock,
    join_uncounted_promise,
    leave_early_promise,
    wait_last_only,
    no_restart_wait,
    fast_path_skips_all,
    add_before_waiting,
    handoff_before_serving,
    reply_before_commit,
    ack_before_fsync,
    own_fsync_ignored,
    no_read_check,
    read_check_first,
    no_etcd_check,
    etcd_check_before_waiting,
    cut_by_index,
    cut_to_message,
    own_log_is_the_longest,
    owner_without_a_log_stays,
    stale_base,
    dedup_not_replicated,
    join_uncounted,
    leave_early,
    join_behind,
    shrink_below_min,
    min_stops_epoch_entry,
    add_only_serving,
    handoff_keeps_serving,
    handoff_learner,
    promote_outside,
    no_revocation,
]


LIKELY = {
    "resolve_by_read": 254,
    "add_before_waiting": 168,
    "handoff_before_serving": 132,
    "no_etcd_check": 818,
    "handoff_keeps_serving": 399,
}
"""Where a hunt from 0 found these, which takes long: begin there, and look at all others if it moved."""

SEEDS = 1_200


def hunt(first: int) -> str | None:
    """How the broken variant was caught; None: it was not."""
    for seed in (*range(first, SEEDS), *range(first)):
        try:
            scenarios.run(seed)
        except (ViolationError, AssertionError) as error:
            return f"seed {seed}: {error}"
    return None


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_a_broken_rule_is_caught(variant: Variant, monkeypatch: Patch) -> None:
    variant(monkeypatch)
    how = hunt(LIKELY.get(variant.__name__, 0))
    assert how is not None, f"{variant.__name__} was not caught: the simulation is not good enough"
    print(f"{variant.__name__}: {how[:160]}")
