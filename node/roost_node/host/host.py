"""A call's way: find or start its object, let it enter in order, run it, commit it, answer.

Everything here runs on one event loop. The rules are in the cores (`core/`); this file asks them in
order and carries out what they say. User code runs in `worker.py`, disks are written in
`committer.py`, and output leaves by `Shard.release` alone (R6).

The order of questions for an arriving call: is the node open, is the request well-formed and young
enough, is it known already (join or answer), is it its turn within its stub, is there room, does its
chain come back to an object it holds; then the object's gate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextvars import copy_context
from typing import Any

from roost.cluster.ids import check_key, first_sent_ms, shard_of
from roost.context import current_call
from roost.errors import (
    DeadlineExceededError,
    DeadlockError,
    DiskFullError,
    ExpiredRequestError,
    InvalidArgumentError,
    OutcomeUnknownError,
    OverloadedError,
    RoostError,
    TooLargeError,
    UnavailableError,
    UnknownClassError,
    UnknownMethodError,
)
from roost.object import ClassSpec
from roost.wire.codec import too_large_arguments
from roost.wire.deadlines import Deadlines
from roost.wire.messages import (
    ARGUMENTS_BYTES_MAX,
    CHAIN_LENGTH_MAX,
    COMMITTED,
    EXPIRED,
    RUNNING,
    UNKNOWN,
    Call,
    ErrorInfo,
    Outcome,
    Query,
    Reply,
    Skip,
)
from roost.wire.status import to_status
from roost_node.config import Limits
from roost_node.core.admission import Admission
from roost_node.core.caller_order import Admission as Turn
from roost_node.core.clock import ServerClock
from roost_node.core.dedup import Age, Answers, age_of
from roost_node.core.eviction import EvictionRing
from roost_node.core.lifecycle import ActivationState
from roost_node.core.log import Head
from roost_node.host import effects
from roost_node.host.activation import Activation
from roost_node.host.blame import blame
from roost_node.host.call import ActiveCall, Cancelled, Kind, NoSink, Output, Sink, Stage
from roost_node.host.children import Children
from roost_node.host.committer import Committer
from roost_node.host.flusher import Flusher, ThreadFlusher
from roost_node.host.keeper import Keeper
from roost_node.host.shard import Shard
from roost_node.host.stream import run_stream
from roost_node.host.worker import Workers
from roost_node.storage import layout, records
from roost_node.storage.engine import Store
from roost_node.telemetry import Telemetry

log = logging.getLogger(__name__)

DEADLINE_DEFAULT_MS = 30_000
DEADLINE_MAX_MS = 24 * 3600 * 1000
FAILED_MAX = 10_000


class Host:
    """The live objects of one store."""

    def __init__(
        self,
        store: Store,
        classes: Mapping[str, ClassSpec],
        tasks: asyncio.TaskGroup,
        clock: ServerClock,
        on_fatal: Callable[[BaseException], None],
        *,
        limits: Limits | None = None,
        telemetry: Telemetry | None = None,
        check_effects: bool = False,
        flusher: Flusher | None = None,
    ) -> None:
        self.store = store
        self.classes = dict(classes)
        before = store.get(layout.CLOCK_KEY)
        if before is not None:
            clock.advance_to(records.decode_clock(before))
        self.now_ms = clock.now_ms
        self.limits = limits or Limits()
        self.telemetry = telemetry or Telemetry()
        self.loop = asyncio.get_running_loop()
        self.workers = Workers(self, tasks)
        self.committer = Committer(
            store,
            self.loop,
            self._is_quiet,
            on_fatal,
            self.telemetry,
            flusher or ThreadFlusher(self.loop),
            clock.now_ms,
        )
        self.children = Children(self)
        self.admission = Admission(
            self.limits.open_calls_max, self.limits.open_bytes_max, self.limits.ready_wait_ms_max
        )
        self.deadlines: Deadlines[ActiveCall] = Deadlines()
        self.answers: Answers[tuple[Reply, bytes]] = Answers(65_536)
        self.activations: dict[tuple[str, str], Activation] = {}
        self.ring: EvictionRing[Activation] = EvictionRing()
        self.size_bytes = 0  # encoded size of all live objects
        self.closing = False  # calls are refused
        self.paused: list[tuple[Call, Sink]] | None = None  # calls wait for a reload
        self.refuse_cold: str | None = None  # memory is short
        self.refuse_writes: str | None = None  # disk is short
        self.keeper = Keeper(self)
        self._check_effects = check_effects
        self._shards: dict[int, Shard] = {}
        self._failed: dict[tuple[str, str], tuple[int, int]] = {}  # (failures, not before)

    # -- arrival ---------------------------------------------------------------------------

    def submit(self, call: Call, sink: Sink) -> ActiveCall | None:
        """Take a call. Its answer goes to `sink`; the active call is returned while it is open."""
        now_ms = self.now_ms()
        try:
            if self.paused is not None:
                self._check_room(call, now_ms)
                self.paused.append((call, sink))
                return None
            return self._accept(call, sink, now_ms)
        except RoostError as error:
            self.refuse(call, sink, error)
            return None

    def refuse(self, call: Call, sink: Sink, error: RoostError) -> None:
        """Answer a call that was not taken."""
        self.telemetry.reject(type(error).__name__)
        if call.stub_id and call.sequence > 0:
            activation = self.activations.get((call.class_name, call.key))
            if activation is not None and activation.orders is not None:
                order = activation.orders.get(call.stub_id)
                if order is not None and error.retryable:
                    order.refuse(call.sequence)
                elif order is not None:
                    order.skip(call.sequence)  # it will not come again
        status, info = to_status(error)
        sink.send(Reply(call.id, status, b"", 0, info))

    def _accept(self, call: Call, sink: Sink, now_ms: int) -> ActiveCall | None:
        activation = self.activations.get((call.class_name, call.key))
        if activation is None:
            activation = self._activate(call, now_ms)
        spec = activation.spec
        method = spec.methods.get(call.method)
        if method is None:
            raise UnknownMethodError(
                f"{spec.name} has no remote method {call.method!r}: it has "
                f"{', '.join(sorted(spec.methods)) or 'none'}"
            )
        rid = call.request_id
        if len(rid) != 16 or rid[6] >> 4 != 7:
            raise InvalidArgumentError("the request id is not a UUID of version 7 in 16 bytes")
        if call.stub_id and not 0 < call.oldest <= call.sequence:
            raise InvalidArgumentError(
                f"sequence {call.sequence} with oldest {call.oldest}: give 0 < oldest <= sequence"
            )
        if len(call.arguments) > ARGUMENTS_BYTES_MAX:
            raise TooLargeError(too_large_arguments(len(call.arguments)))
        if call.encoding not in (0, 1):
            raise InvalidArgumentError(f"unknown encoding {call.encoding}")
        if method.streams and call.credit <= 0:
            raise InvalidArgumentError(
                f"{spec.name}.{method.name} streams: read it with `async for`"
            )
        activation.used_ms = now_ms
        shard = activation.shard
        age = age_of(first_sent_ms(rid), shard.log.time_ms(now_ms), now_ms)
        if age is not Age.FINE:
            if age is Age.AHEAD:
                # Not the caller's fault where this machine's clock was set back: it may try again.
                ahead_s = (first_sent_ms(rid) - now_ms) / 1000
                raise UnavailableError(
                    f"the request id's time is {ahead_s:.0f} s ahead of this server's clock, at most 60 s: "
                    f"it is taken when the clock has come so far"
                )
            raise ExpiredRequestError(
                "the request id is older than ten minutes: what became of it is not known any more"
            )
        if not method.read_only and self._answer_known(activation, call, sink):
            return None
        running = activation.calls.get(rid)
        if running is not None:
            return self._join(running, call, sink)
        deadline_ms = call.deadline_ms or now_ms + DEADLINE_DEFAULT_MS
        if method.timeout_s is not None:
            deadline_ms = min(deadline_ms, now_ms + int(method.timeout_s * 1000))
        deadline_ms = min(deadline_ms, now_ms + DEADLINE_MAX_MS)
        if deadline_ms <= now_ms:
            raise DeadlineExceededError(
                f"the call of {call.class_name}/{call.key}.{call.method} arrived after its deadline",
                took_effect="no",
            )
        if self.closing:
            raise UnavailableError("this node is shutting down: the call goes to the next one")
        self._check_room(call, now_ms)
        if not method.read_only and self.refuse_writes is not None:
            raise DiskFullError(self.refuse_writes)
        active = ActiveCall(
            call, sink, activation, method, deadline_ms, now_ms, arrived=self.loop.time()
        )
        if call.chain:
            self._check_chain(active)
        depth = activation.gate.depth
        if depth:
            self.telemetry.mailbox_depth.add(depth)
            if depth >= spec.mailbox_max:
                raise OverloadedError(
                    f"{spec.name}/{call.key} has {depth} calls waiting, at most "
                    f"{spec.mailbox_max} (mailbox_max)",
                    retry_after_s=self.admission.retry_after_s(depth),
                )
        if call.stub_id:
            order = activation.order_of(call.stub_id)
            order.used_ms = now_ms
            turn = order.arrive(active, call.sequence, call.oldest)
            if turn is Turn.REFUSE:
                raise UnavailableError(
                    "an earlier call of this stub was refused: send it again first"
                )
            activation.calls[rid] = active
            self.admission.open(active.size_bytes)
            if turn is Turn.HOLD:
                active.stage = Stage.HELD
                active.waits_for = "an earlier call of the same stub, which has not arrived"
                active.bucket = self.deadlines.add(
                    active, min(deadline_ms, now_ms + self.limits.order_wait_ms)
                )
                return active
            self._enter(active)
            if order.has_held:
                self._enter_ready(activation, call.stub_id)
            return active
        activation.calls[rid] = active
        self.admission.open(active.size_bytes)
        self._enter(active)
        return active

    def _enter_ready(self, activation: Activation, stub_id: int) -> None:
        """Held calls whose turn has come."""
        order = activation.order_of(stub_id)
        while (held := order.ready()) is not None:
            self._unfile(held)
            held.waits_for = None
            self._enter(held)

    def _enter(self, active: ActiveCall) -> None:
        activation = active.activation
        if activation.state is ActivationState.LEAVING:
            active.stage = Stage.QUEUED
            if activation.parked is None:
                activation.parked = []
            activation.parked.append(active)
            self._file(active)
            return
        own = active.call.chain and self._own_readers(active)
        entered = (
            activation.gate.enter_reentrant(active, shared=active.shared, own_readers=own)
            if own
            else activation.gate.enter(active, shared=active.shared)
        )
        if entered:
            active.entered = True
            self.workers.start(active)
        else:
            active.stage = Stage.QUEUED
            self._file(active)

    def _admit(self, admitted: list[ActiveCall]) -> None:
        """The gate let these in."""
        for active in admitted:
            active.entered = True
            if active.resume is not None:
                if not active.resume.done():
                    active.resume.set_result(None)
            else:
                self._unfile(active)
                self.workers.start(active)

    def _check_room(self, call: Call, now_ms: int) -> None:
        ready = self.workers.ready
        wait_ms = now_ms - ready[0].arrived_ms if ready else 0
        admission = self.admission
        why = admission.refusal(len(call.arguments), wait_ms)
        if why is None and self.committer.stalled:
            why = "the store is busy writing"
        if why is not None:
            raise OverloadedError(why, retry_after_s=admission.retry_after_s(admission.open_calls))

    def _check_chain(self, active: ActiveCall) -> None:
        """Does the chain come back to an object that it holds?"""
        call = active.call
        chain = call.chain
        if len(chain) > CHAIN_LENGTH_MAX:
            raise DeadlockError(
                f"a chain of {len(chain)} calls, at most {CHAIN_LENGTH_MAX}",
                chain=list(map(str, chain)),
            )
        for link in chain:
            if link.class_name != call.class_name or link.key != call.key:
                continue
            holder = active.activation.calls.get(link.request_id)
            if holder is None:
                continue
            assert active.method is not None
            if active.method.reentrant and (holder.shared or not holder.entered):
                continue
            raise DeadlockError(
                f"{active} would wait for {link}, which waits for it: "
                + " -> ".join([*map(str, chain), str(active)]),
                chain=[*map(str, chain), str(active)],
            )

    def _own_readers(self, active: ActiveCall) -> int:
        """How many read_only calls of its own chain are inside the object."""
        calls = active.activation.calls
        count = 0
        for link in active.call.chain:
            holder = calls.get(link.request_id)
            if holder is not None and holder.entered and holder.shared:
                count += 1
        return count

    # -- what is known already -------------------------------------------------------------

    def _answer_known(self, activation: Activation, call: Call, sink: Sink) -> bool:
        """Answer a call that may write from what an earlier attempt left behind."""
        if len(self.answers):
            answer = self.answers.get(activation.group, call.request_id)
            if answer is not None:
                reply, digest = answer
                if digest != records.digest_of(call.method, call.arguments):
                    raise InvalidArgumentError("request id reused: it belonged to another call")
                self._answer(activation, call, sink, reply)
                return True
        record = activation.record_of(call.request_id)
        if record is None:
            return False
        if record.digest != records.digest_of(call.method, call.arguments) or (
            record.principal != call.principal
        ):
            raise InvalidArgumentError("request id reused: it belonged to another call")
        if record.started and call.request_id in activation.calls:
            return False  # still running: join it
        self._answer(activation, call, sink, _reply_of(record))
        return True

    def _answer(self, activation: Activation, call: Call, sink: Sink, reply: Reply) -> None:
        self.telemetry.dedup_hits += 1
        if call.stub_id:
            activation.order_of(call.stub_id).skip(call.sequence)
            self._enter_ready(activation, call.stub_id)
        message = Reply(call.id, reply.status, reply.payload, reply.epoch, reply.error)
        activation.shard.release(activation.last_index, Output(sink, message), own_entry=True)

    def _join(self, running: ActiveCall, call: Call, sink: Sink) -> ActiveCall | None:
        """A second attempt at a call that is still open."""
        if running.call.arguments != call.arguments or running.call.method != call.method:
            raise InvalidArgumentError("request id reused: it belongs to a call that is running")
        assert running.method is not None
        if running.method.streams:
            raise OutcomeUnknownError("an earlier attempt at this stream is still running")
        if running.joined is None:
            running.joined = []
        elif len(running.joined) >= 16:
            running.joined.pop(0)  # whoever asked that often has forgotten its first attempts
        running.joined.append((sink, call.id))
        self.telemetry.dedup_hits += 1
        return running

    def query(self, query: Query, sink: Sink) -> None:
        """What became of a request?"""
        now_ms = self.now_ms()
        try:
            check_key(query.key)
            spec = self._spec(query.class_name)
        except RoostError as error:
            status, info = to_status(error)
            sink.send(Outcome(query.id, UNKNOWN, status=status, error=info))
            return
        shard = self.shard_of(spec.name, query.key, now_ms)
        group = layout.object_id(spec.name, query.key)
        rid = query.request_id
        activation = self.activations.get((spec.name, query.key))
        outcome = Outcome(query.id, UNKNOWN, epoch=shard.log.epoch)
        if len(rid) != 16 or age_of(first_sent_ms(rid), shard.log.time_ms(now_ms), now_ms) is (
            Age.EXPIRED
        ):
            outcome.state = EXPIRED
        elif activation is not None and rid in activation.calls:
            outcome.state = RUNNING
        else:
            record = records.find_dedup(shard.get, shard.id, group, rid)
            answer = self.answers.get(group, rid)
            if record is not None:
                reply = _reply_of(record)
                outcome.state, outcome.encoding = COMMITTED, record.encoding
                outcome.payload, outcome.status, outcome.error = (
                    reply.payload,
                    reply.status,
                    reply.error,
                )
            elif answer is not None:
                outcome.state = COMMITTED
                outcome.payload, outcome.status, outcome.error = (
                    answer[0].payload,
                    answer[0].status,
                    answer[0].error,
                )
        shard.release(shard.log.last, Output(sink, outcome), own_entry=False)

    def skip(self, skip: Skip) -> None:
        """A caller gave one sequence of its stub up."""
        activation = self.activations.get((skip.class_name, skip.key))
        if activation is not None and activation.orders and skip.stub_id in activation.orders:
            activation.orders[skip.stub_id].skip(skip.sequence)
            self._enter_ready(activation, skip.stub_id)

    # -- activations -----------------------------------------------------------------------

    def shard_of(self, class_name: str, key: str, now_ms: int) -> Shard:
        """The shard of an object, opened when it is first needed."""
        store = self.store
        shard_id = shard_of(class_name, key, seed=store.seed, shards=store.shards)
        shard = self._shards.get(shard_id)
        if shard is None:
            raw = store.get(layout.head_key(shard_id))
            head = records.decode_head(raw) if raw is not None else Head()
            shard = Shard(
                shard_id,
                store,
                head,
                max(1, head.epoch),
                now_ms,
                self.loop.time,
                self.telemetry.call_us,
            )
            self._shards[shard_id] = shard
        return shard

    def shards(self) -> list[Shard]:
        """Those that have been opened."""
        return list(self._shards.values())

    def _spec(self, class_name: str) -> ClassSpec:
        spec = self.classes.get(class_name)
        if spec is None:
            raise UnknownClassError(
                f"no class {class_name!r} is served here: there is "
                f"{', '.join(sorted(self.classes)) or 'none'}"
            )
        return spec

    def _activate(self, call: Call, now_ms: int) -> Activation:
        name = (call.class_name, call.key)
        spec = self._spec(call.class_name)
        check_key(call.key)
        if self.closing:
            raise UnavailableError("this node is shutting down: the call goes to the next one")
        if self.refuse_cold is not None:
            raise OverloadedError(self.refuse_cold, retry_after_s=0.5)
        failed = self._failed.get(name) if self._failed else None
        if failed is not None and now_ms < failed[1]:
            raise OverloadedError(
                f"{call.class_name}/{call.key} could not be activated {failed[0]} times in a row",
                retry_after_s=(failed[1] - now_ms) / 1000,
            )
        shard = self.shard_of(call.class_name, call.key, now_ms)
        activation = Activation(self, spec, call.key, shard, now_ms)
        self.activations[name] = activation
        self.ring.add(activation)
        self.size_bytes += activation.size_bytes
        self.telemetry.activations_started += 1
        if len(self.activations) > self.limits.activations_max or (
            self.size_bytes > self.limits.live_bytes_max
        ):
            self.keeper.make_room()
        if activation.loading:
            activation.state = ActivationState.LOADING
            self._start_hook(activation, Kind.ACTIVATE, now_ms + DEADLINE_DEFAULT_MS)
        return activation

    def _start_hook(self, activation: Activation, kind: Kind, deadline_ms: int) -> ActiveCall:
        call = Call(0, activation.class_name, activation.key, kind.value_name, b"", bytes(16))
        hook = ActiveCall(call, NoSink(), activation, None, deadline_ms, self.now_ms(), kind)
        hook.size_bytes = 0
        self.admission.open(0)
        activation.calls[kind.value_name.encode()] = hook
        if activation.gate.enter(hook, shared=False):
            hook.entered = True
            self.workers.start(hook)
        else:
            self._file(hook)
        return hook

    def deactivate(self, activation: Activation, reason: str) -> None:
        """Let an idle object leave memory; calls that come meanwhile wait for the next activation."""
        if activation.state is not ActivationState.ACTIVE:
            return
        if not activation.has_deactivate_hook:
            self.discard(activation)
            return
        activation.state = ActivationState.LEAVING
        hook = self._start_hook(
            activation, Kind.DEACTIVATE, self.now_ms() + int(self.limits.hook_s * 1000)
        )
        hook.waits_for = reason

    def delete(self, class_name: str, key: str, sink: Sink, call_id: int) -> None:
        """Delete all that an object stores, when it is free; the reply's payload is b"1" if it was."""
        call = Call(call_id, class_name, key, "delete", b"", bytes(16))
        now_ms = self.now_ms()
        try:
            activation = self.activations.get((class_name, key)) or self._activate(call, now_ms)
        except RoostError as error:
            self.refuse(call, sink, error)
            return
        active = ActiveCall(
            call, sink, activation, None, now_ms + DEADLINE_DEFAULT_MS, now_ms, Kind.DELETE
        )
        active.size_bytes = 0
        self.admission.open(0)
        activation.calls[b"delete" + call_id.to_bytes(8, "big")] = active
        self._enter(active)

    def discard(self, activation: Activation) -> None:
        """It is out of memory; what waited goes to the next activation."""
        if activation.state is ActivationState.GONE:
            return
        activation.state = ActivationState.GONE
        name = (activation.class_name, activation.key)
        if self.activations.get(name) is activation:
            del self.activations[name]
            self.size_bytes -= activation.size_bytes
        self.ring.remove(activation)
        self.telemetry.activations_evicted += 1
        waiting = activation.gate.drain() + (activation.parked or [])
        for order in (activation.orders or {}).values():
            waiting += order.take_held()
        activation.parked = None
        for active in waiting:
            self._again(active)

    def _again(self, active: ActiveCall) -> None:
        """Submit a call that never ran to the object's next activation."""
        if active.kind is not Kind.CALL or active.resume is not None:
            return
        self._unfile(active)
        self._close(active)
        again = self.submit(active.call, active.sink)
        if again is not None and active.joined:
            again.joined = (again.joined or []) + active.joined

    def reset(self, activation: Activation, why: str) -> None:
        """Memory is dropped; the next call loads from state plus younger entries (L4)."""
        if activation.state is ActivationState.GONE:
            return
        self.telemetry.resets += 1
        log.warning(
            "activation reset",
            extra={"object": f"{activation.class_name}/{activation.key}", "why": why},
        )
        running = [a for a in activation.calls.values() if a.stage is Stage.RUNNING]
        activation.roll_back()
        self.discard(activation)
        for active in running:
            error: RoostError = UnavailableError(f"{active} was reset: {why}")
            if active.started_entry:
                error = OutcomeUnknownError(f"{active} was reset after it had committed: {why}")
            self._finish(active, *_failure(error), own_entry=False, remember=False)
            if active.task is not None:
                active.cancelled = Cancelled.RESET
                active.task.cancel()
            if active.resume is not None and not active.resume.done():
                active.resume.set_result(None)

    # -- running ---------------------------------------------------------------------------

    def begin(self, active: ActiveCall) -> Coroutine[Any, Any, Any] | None:
        """Make a call's coroutine; None: it was answered without running."""
        activation = active.activation
        if activation.is_gone:
            self._again(active)
            return None
        if active.deadline_ms <= self.now_ms() and active.kind is Kind.CALL:
            self._expire(active)
            return None
        context = copy_context()
        context.run(current_call.set, active)
        active.context = context
        active.stage = Stage.RUNNING
        if active.kind is not Kind.CALL:
            return self._begin_hook(active)
        method = active.method
        assert method is not None
        call = active.call
        try:
            arguments = method.decode_arguments(call.arguments, call.encoding)
            if (
                self._check_effects
                and method.check_effects
                and not (method.read_only or method.interleave)
            ):
                return effects.run_twice(self, active, arguments)
            if method.streams:
                return run_stream(self, active, method.function(activation.instance, *arguments))
            coroutine: Coroutine[Any, Any, Any] = method.function(activation.instance, *arguments)
        except RoostError as error:
            self.fail(active, error, by_host=True)
            return None
        return coroutine

    def _begin_hook(self, active: ActiveCall) -> Coroutine[Any, Any, Any] | None:
        activation = active.activation
        if active.kind is Kind.ACTIVATE:
            return activation.instance.on_activate()
        if active.kind is Kind.DEACTIVATE:
            return activation.deactivation(active.waits_for or "idle")
        now_ms = self.now_ms()
        deleted = activation.delete_everything(active, now_ms)
        self._finish(active, 0, b"1" if deleted else b"", None, own_entry=deleted, remember=False)
        self.discard(activation)
        return None

    def complete(self, active: ActiveCall, result: Any) -> None:
        """A call's code returned: commit its turn, then answer."""
        if active.stage is Stage.DONE:
            return
        if active.cancelled is not None:
            self.fail(active, asyncio.CancelledError())
            return
        activation = active.activation
        call = active.call
        method = active.method
        if method is None:
            self._complete_hook(active)
            return
        now_ms = self.now_ms()
        try:
            payload = b"" if method.streams else method.encode_result(result, call.encoding)
            if method.read_only:
                name = activation.fields.is_mutated()
                if name is not None:
                    raise activation.mutated(active, name)
                wrote = False
            else:
                record = records.encode_dedup_ok(
                    call.method, call.arguments, payload, call.encoding, call.principal
                )
                wrote = activation.commit(active, record, now_ms)
                if not wrote and active.started_entry:
                    activation.commit_record(active, record, now_ms)
                    wrote = True
        except Exception as error:  # encoding runs users' types: anything may come out
            self.fail(active, error, by_host=isinstance(error, RoostError))
            return
        self._finish(active, 0, payload, None, own_entry=wrote, remember=not wrote)

    def _complete_hook(self, active: ActiveCall) -> None:
        activation = active.activation
        try:
            activation.commit(None, None, self.now_ms())
        except Exception as error:
            self.fail(active, error)
            return
        if active.kind is Kind.ACTIVATE:
            activation.state = ActivationState.ACTIVE
            self._failed.pop((activation.class_name, activation.key), None)
            self._finish(active, 0, b"", None, own_entry=False, remember=False)
        else:
            self._finish(active, 0, b"", None, own_entry=False, remember=False)
            self.discard(activation)

    def fail(self, active: ActiveCall, error: BaseException, *, by_host: bool = False) -> None:
        """A call's code raised: roll back, answer. `by_host`: the host itself found the fault."""
        if active.stage is Stage.DONE:
            return
        activation = active.activation
        if active.entered:
            if active.shared:
                if activation.fields.is_mutated() is not None:
                    activation.fields.roll_back()
            else:
                activation.roll_back()
        if active.kind is not Kind.CALL:
            self._fail_hook(active, error)
            return
        shown = error if by_host and isinstance(error, RoostError) else self._shown(active, error)
        status, payload, info = _failure(shown)
        wrote = False
        if active.started_entry:
            record = records.encode_dedup_error(
                active.call.method, active.call.arguments, status, info, active.call.principal
            )
            activation.commit_record(active, record, self.now_ms())
            wrote = True
        final = not shown.retryable
        self._finish(active, status, payload, info, own_entry=wrote, remember=final and not wrote)
        if (
            activation.spec.reset_on_error
            and isinstance(error, Exception)
            and (active.cancelled is None)
        ):
            self.reset(activation, f"{active} raised {type(error).__name__} (reset_on_error)")

    def _shown(self, active: ActiveCall, error: BaseException) -> RoostError:
        """The error that the caller is to see."""
        cancelled = active.cancelled
        took_effect = "maybe" if active.started_entry else "no"
        if cancelled is Cancelled.DEADLINE:
            waits = f" while it waited for {active.waits_for}" if active.waits_for else ""
            return DeadlineExceededError(
                f"the deadline of {active} passed{waits}",
                took_effect=took_effect,  # type: ignore[arg-type]  # a literal
            )
        if cancelled is not None:
            text = f"{active} was cancelled: {cancelled.value}"
            return OutcomeUnknownError(text) if active.started_entry else UnavailableError(text)
        return blame(active, error)

    def _fail_hook(self, active: ActiveCall, error: BaseException) -> None:
        activation = active.activation
        name = (activation.class_name, activation.key)
        log.warning(
            "hook failed",
            extra={"object": "/".join(name), "hook": active.kind.value_name},
            exc_info=error,
        )
        if active.kind is not Kind.ACTIVATE:
            self._finish(active, 0, b"", None, own_entry=False, remember=False)
            self.discard(activation)
            return
        failures = self._failed.pop(name, (0, 0))[0] + 1
        if len(self._failed) >= FAILED_MAX:
            self._failed.pop(next(iter(self._failed)))
        backoff_ms = min(30_000, 50 * 2 ** min(failures, 10)) if failures > 1 else 0
        self._failed[name] = (failures, self.now_ms() + backoff_ms)
        shown = blame(active, error)
        waiting = activation.gate.drain()
        for order in (activation.orders or {}).values():
            waiting += order.take_held()
        for call in waiting:
            if call.kind is Kind.CALL:
                self._finish(call, *_failure(shown), own_entry=False, remember=False)
        self._finish(active, 0, b"", None, own_entry=False, remember=False)
        self.discard(activation)

    # -- suspension ------------------------------------------------------------------------

    def on_suspended(self, active: ActiveCall) -> None:
        """User code waits for something."""
        if active.stage is Stage.DONE:
            return
        self._file(active)
        if active.interleaves and not active.exclusive_depth:
            self.end_stretch(active)

    def end_stretch(self, active: ActiveCall) -> None:
        """Commit what an interleaving call has written so far, and let others in."""
        try:
            self.commit_stretch(active)
        except Exception as error:
            # The stretch cannot be kept, and its code cannot be told before it runs again.
            active.activation.roll_back()
            active.cancelled = Cancelled.RESET
            active.waits_for = str(error)
            if active.task is not None:
                active.task.cancel()
        self._leave(active)

    def commit_stretch(self, active: ActiveCall) -> bool:
        """Make an entry of the stretch; the first holds the *started* record."""
        call = active.call
        started = None
        if not active.started_entry:
            started = records.encode_dedup_started(call.method, call.arguments, call.principal)
        if not active.activation.commit(active, started, self.now_ms()):
            return False
        active.started_entry = True
        return True

    def resume(self, active: ActiveCall) -> bool:
        """May a suspended call go on now? False: wait for `active.resume`."""
        if active.stage is Stage.DONE or active.entered:
            active.resume = None
            return True
        waits = active.resume is not None  # in the gate's queue; its future was cancelled
        active.resume = self.loop.create_future()
        if waits:
            return False
        activation = active.activation
        if activation.gate.enter(active, shared=active.shared):
            active.entered = True
            active.resume = None
            return True
        return False

    def _leave(self, active: ActiveCall) -> None:
        if active.entered:
            active.entered = False
            gate = active.activation.gate
            admitted = gate.leave(shared=active.shared)
            if admitted:
                self._admit(admitted)

    # -- the end ---------------------------------------------------------------------------

    def _finish(
        self,
        active: ActiveCall,
        status: int,
        payload: bytes,
        info: ErrorInfo | None,
        *,
        own_entry: bool,
        remember: bool,
    ) -> None:
        """Answer, when what the answer could have seen is committed; let the next one in."""
        if active.stage is Stage.DONE:
            return
        activation = active.activation
        shard = activation.shard
        call = active.call
        reply = Reply(call.id, status, payload, shard.log.epoch, info)
        if active.method is not None:
            self.telemetry.ended[status] += 1
        if remember and active.method is not None and not active.shared:
            own_entry = self._remember(active, reply) or own_entry
        self._unfile(active)
        self._close(active)
        shard.release(
            activation.last_index,
            Output(active.sink, reply, active.joined, None, active.arrived),
            own_entry=own_entry,
        )
        if active.entered:
            active.entered = False
            admitted = activation.gate.leave(shared=active.shared)
            if admitted:
                self._admit(admitted)

    def _remember(self, active: ActiveCall, reply: Reply) -> bool:
        """Keep the answer of a call that made no entry; True: it has one now."""
        call = active.call
        digest = records.digest_of(call.method, call.arguments)
        now_ms = self.now_ms()
        activation = active.activation
        if self.answers.remember(
            activation.group, call.request_id, (reply, digest), active.deadline_ms, now_ms
        ):
            return False
        if reply.status == 0:
            record = records.encode_dedup_ok(
                call.method, call.arguments, reply.payload, call.encoding, call.principal
            )
        else:
            assert reply.error is not None
            record = records.encode_dedup_error(
                call.method, call.arguments, reply.status, reply.error, call.principal
            )
        activation.commit_record(active, record, now_ms)
        return True

    def _close(self, active: ActiveCall) -> None:
        """It is open no more."""
        if active.stage is Stage.DONE:
            return
        active.stage = Stage.DONE
        active.context = None
        calls = active.activation.calls
        if active.kind is Kind.CALL:
            calls.pop(active.call.request_id, None)
        else:
            for key, value in list(calls.items()):
                if value is active:
                    del calls[key]
        self.admission.close(active.size_bytes)

    # -- deadlines and cancelling ----------------------------------------------------------

    def _file(self, active: ActiveCall) -> None:
        """It waits: watch its deadline."""
        if active.bucket < 0:
            active.bucket = self.deadlines.add(active, active.deadline_ms)

    def _unfile(self, active: ActiveCall) -> None:
        if active.bucket >= 0:
            self.deadlines.discard(active, active.bucket)
            active.bucket = -1

    def on_due(self, active: ActiveCall, now_ms: int) -> None:
        """A deadline (or the bound on waiting in order) has passed."""
        active.bucket = -1
        if active.stage is Stage.DONE:
            return
        if active.cancelled is not None:
            self.reset(active.activation, f"{active} ignored its cancellation")
        elif active.stage is Stage.HELD and now_ms < active.deadline_ms:
            self._give_up_order(active)
        elif active.stage is Stage.RUNNING:
            self._cancel_running(active, Cancelled.DEADLINE, now_ms)
        else:
            self._expire(active)

    def _give_up_order(self, active: ActiveCall) -> None:
        """An earlier call of the stub never came: ask the caller to send all again, in order."""
        activation = active.activation
        error = UnavailableError("an earlier call of this stub has not arrived: send all again")
        for held in activation.order_of(active.call.stub_id).take_held():
            self._finish(held, *_failure(error), own_entry=False, remember=False)

    def _expire(self, active: ActiveCall) -> None:
        """The deadline of a call that has not run passed."""
        activation = active.activation
        waited = active.waits_for or self._holder_of(activation, active)
        error = DeadlineExceededError(
            f"the deadline of {active} passed while it waited for {waited}", took_effect="no"
        )
        self._withdraw(active)
        self._finish(active, *_failure(error), own_entry=False, remember=True)

    def _holder_of(self, activation: Activation, active: ActiveCall) -> str:
        for other in activation.calls.values():
            if other is not active and other.entered:
                return f"{activation.class_name}/{activation.key}, held by {other}"
        return f"{activation.class_name}/{activation.key}"

    def _withdraw(self, active: ActiveCall) -> None:
        activation = active.activation
        if active.stage is Stage.QUEUED:
            if activation.parked and active in activation.parked:
                activation.parked.remove(active)
            else:
                self._admit(activation.gate.withdraw(active))
        elif active.stage is Stage.HELD:
            activation.order_of(active.call.stub_id).forget(active.call.sequence)

    def _cancel_running(self, active: ActiveCall, why: Cancelled, now_ms: int) -> None:
        if active.cancelled is None:
            active.cancelled = why
            active.bucket = self.deadlines.add(active, now_ms + int(self.limits.cancel_s * 1000))
            if active.task is not None:
                active.task.cancel()

    def cancel(self, active: ActiveCall, sink: Sink, call_id: int, why: Cancelled) -> None:
        """One attempt is taken back; the call goes on if another attempt still waits for it."""
        if active.stage is Stage.DONE:
            return
        if active.sink is not sink or active.call.id != call_id:
            if active.joined:
                active.joined = [j for j in active.joined if j != (sink, call_id)]
            return
        if active.joined:
            active.sink, joined_id = active.joined.pop(0)
            active.call.id = joined_id
            return
        self.stop(active, why)

    def stop(self, active: ActiveCall, why: Cancelled) -> None:
        """Take a call back, whoever waits for it."""
        if active.stage is Stage.RUNNING:
            if active.cancelled is None:  # else it has been told, and its last deadline runs
                self._unfile(active)
                self._cancel_running(active, why, self.now_ms())
            return
        self._withdraw(active)
        error = UnavailableError(f"{active} was cancelled before it ran: {why.value}")
        if active.stage is Stage.READY:
            active.deadline_ms = 0  # `begin` answers it
            return
        self._finish(active, *_failure(error), own_entry=False, remember=False)

    def add_credit(self, active: ActiveCall, items: int) -> None:
        """The reader of a stream has room again."""
        active.credit = min(active.credit + items, 1_000_000)
        waiter = active.credit_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _is_quiet(self) -> bool:
        """Nothing else to do on this loop, as far as one can tell."""
        return not self.workers.ready and self.admission.open_calls == 0


def _failure(error: RoostError) -> tuple[int, bytes, ErrorInfo]:
    status, info = to_status(error)
    return int(status), b"", info


def _reply_of(record: records.DedupRecord) -> Reply:
    if record.started:
        status, info = to_status(
            OutcomeUnknownError(
                "an interleaved call was cut off after it had started: it is not run again"
            )
        )
        return Reply(0, int(status), b"", 0, info)
    return Reply(0, record.status, record.payload, 0, record.error)
