"""A call from the moment it runs: its code, its commit, its answer.

User code is stepped by `worker.py`, which asks here for the coroutine and says here how it ended.
Output leaves by `Shard.release` alone (R6).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from roost.context import current_call
from roost.errors import DeadlineExceededError, OutcomeUnknownError, RoostError, UnavailableError
from roost.wire.messages import ErrorInfo, Reply
from roost_node.core.lifecycle import ActivationState
from roost_node.host import effects
from roost_node.host.blame import blame, failure
from roost_node.host.call import ActiveCall, Cancelled, Kind, Output, Stage
from roost_node.host.stream import run_stream
from roost_node.storage import records

if TYPE_CHECKING:
    from roost_node.host.host import Host


log = logging.getLogger(__name__)


class Turns:
    """Begins, commits, rolls back and ends turns."""

    def __init__(self, host: Host, *, check_effects: bool) -> None:
        self._host = host
        self._check_effects = check_effects

    def begin(self, active: ActiveCall, now_ms: int) -> Coroutine[Any, Any, Any] | None:
        """Make a call's coroutine; None: it was answered without running."""
        host = self._host
        activation = active.activation
        if active.cancelled is not None and active.kind is Kind.CALL:
            host.waits.take_back(active, active.cancelled)
            return None
        if activation.state is ActivationState.GONE:
            host.objects.again(active)
            return None
        if active.deadline_ms <= now_ms and active.kind is Kind.CALL:
            host.waits.expire(active)
            return None
        if activation.gate.readers and not active.shared:
            activation.part_from_readers()
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
                return effects.run_twice(host, active, arguments)
            if method.streams:
                return run_stream(host, active, method.function(activation.instance, *arguments))
            coroutine: Coroutine[Any, Any, Any] = method.function(activation.instance, *arguments)
        except Exception as error:
            self.fail(active, error, by_host=isinstance(error, RoostError))
            return None
        return coroutine

    def _begin_hook(self, active: ActiveCall) -> Coroutine[Any, Any, Any] | None:
        host = self._host
        activation = active.activation
        if active.kind is Kind.ACTIVATE:
            return activation.instance.on_activate()
        if active.kind is Kind.DEACTIVATE:
            return activation.deactivation(active.waits_for or "idle")
        now_ms = host.now_ms()
        deleted = activation.delete_everything(active, now_ms)
        self.finish(active, 0, b"1" if deleted else b"", None, own_entry=deleted, remember=False)
        if activation.calls:  # suspended ones must not bring back what they remember
            host.objects.reset(activation, "it was deleted")
        else:
            host.objects.discard(activation)
        return None

    def complete(self, active: ActiveCall, result: Any, now_ms: int) -> None:
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
        try:
            payload = b"" if method.streams else method.encode_result(result, call.encoding)
            if method.read_only:
                activation.check_reader(active)
                if active.doomed is not None:
                    raise active.doomed
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
        self.finish(active, 0, payload, None, own_entry=wrote, remember=not wrote)

    def _complete_hook(self, active: ActiveCall) -> None:
        host = self._host
        activation = active.activation
        try:
            activation.commit(None, None, host.now_ms())
        except Exception as error:
            self.fail(active, error)
            return
        if active.kind is Kind.ACTIVATE:
            activation.state = ActivationState.ACTIVE
            host.objects.failed.pop((activation.class_name, activation.key), None)
            self.finish(active, 0, b"", None, own_entry=False, remember=False)
        else:
            self.finish(active, 0, b"", None, own_entry=False, remember=False)
            host.objects.discard(activation)

    def fail(self, active: ActiveCall, error: BaseException, *, by_host: bool = False) -> None:
        """A call's code raised: roll back, answer. `by_host`: the host itself found the fault."""
        host = self._host
        if active.stage is Stage.DONE:
            return
        activation = active.activation
        if active.entered:
            if active.shared:
                activation.check_reader(active)
            else:
                activation.roll_back()
        if active.kind is not Kind.CALL:
            self._fail_hook(active, error)
            return
        shown = error if by_host and isinstance(error, RoostError) else self._shown(active, error)
        status, payload, info = failure(shown)
        wrote = False
        if active.started_entry:
            record = records.encode_dedup_error(
                active.call.method, active.call.arguments, status, info, active.call.principal
            )
            activation.commit_record(active, record, host.now_ms())
            wrote = True
        final = not shown.retryable
        self.finish(active, status, payload, info, own_entry=wrote, remember=final and not wrote)
        if (
            activation.spec.reset_on_error
            and isinstance(error, Exception)
            and (active.cancelled is None)
        ):
            host.objects.reset(
                activation, f"{active} raised {type(error).__name__} (reset_on_error)"
            )

    def _shown(self, active: ActiveCall, error: BaseException) -> RoostError:
        """The error that the caller is to see."""
        cancelled = active.cancelled
        if active.doomed is not None:
            error, cancelled = active.doomed, None
        took_effect = "maybe" if active.started_entry else "no"
        if cancelled is Cancelled.DEADLINE:
            waits = f" while it waited for {active.waits_for}" if active.waits_for else ""
            return DeadlineExceededError(
                f"the deadline of {active} passed{waits}",
                took_effect=took_effect,  # type: ignore[arg-type]  # a literal
            )
        if cancelled is not None:
            text = f"{active} was cancelled: {cancelled.value}"
            if active.started_entry:  # what it has committed stays, and it is not run again
                return OutcomeUnknownError(text, retryable=False)
            return UnavailableError(text)
        return blame(active, error)

    def _fail_hook(self, active: ActiveCall, error: BaseException) -> None:
        host = self._host
        activation = active.activation
        name = (activation.class_name, activation.key)
        log.warning(
            "hook failed",
            extra={"object": "/".join(name), "hook": active.kind.value_name},
            exc_info=error,
        )
        if active.kind is not Kind.ACTIVATE:
            self.finish(active, 0, b"", None, own_entry=False, remember=False)
            host.objects.discard(activation)
            return
        host.objects.has_failed(name, host.now_ms())
        shown = blame(active, error)
        waiting = activation.gate.drain()
        for order in (activation.orders or {}).values():
            waiting += order.take_held()
        for call in waiting:
            if call.kind in (Kind.CALL, Kind.DELETE):
                self.finish(call, *failure(shown), own_entry=False, remember=False)
        self.finish(active, 0, b"", None, own_entry=False, remember=False)
        host.objects.discard(activation)

    def on_suspended(self, active: ActiveCall) -> None:
        """User code waits for something."""
        if active.stage is Stage.DONE:
            return
        self._host.waits.file(active)
        if active.interleaves:
            if not active.exclusive_depth:
                self.end_stretch(active)
        elif active.shared:
            active.activation.check_reader(active)

    def end_stretch(self, active: ActiveCall) -> None:
        """Commit what an interleaving call has written so far, and let others in."""
        try:
            self.commit_stretch(active)
        except Exception as error:
            # The stretch cannot be kept, and its code cannot be told before it runs again.
            active.activation.roll_back()
            active.cancelled = Cancelled.RESET
            active.doomed = error
            if active.task is not None:
                active.task.cancel()
        self._leave(active)

    def commit_stretch(self, active: ActiveCall) -> bool:
        """Make an entry of the stretch; the first holds the *started* record."""
        call = active.call
        started = None
        if not active.started_entry:
            started = records.encode_dedup_started(call.method, call.arguments, call.principal)
        if not active.activation.commit(active, started, self._host.now_ms()):
            return False
        active.started_entry = True
        return True

    def resume(self, active: ActiveCall) -> bool:
        """May a suspended call go on now? False: wait for `active.resume`."""
        waits = active.resume is not None  # in the gate's queue, or just out of it
        if active.stage is Stage.DONE or (active.entered and not waits):
            active.resume = None
            return True
        if not active.entered:
            active.resume = self._host.loop.create_future()
            if waits or not self._host.arrivals.try_gate(active):
                return False
            active.entered = True
        active.resume = None
        activation = active.activation
        if activation.gate.readers and not active.shared:
            activation.part_from_readers()
        return True

    def _leave(self, active: ActiveCall) -> None:
        if active.entered:
            active.entered = False
            gate = active.activation.gate
            admitted = gate.leave(shared=active.shared)
            if admitted:
                self._host.arrivals.admit(admitted)

    def finish(
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
        host = self._host
        if active.stage is Stage.DONE:
            return
        activation = active.activation
        shard = activation.shard
        call = active.call
        reply = Reply(call.id, status, payload, shard.log.epoch, info)
        if active.method is not None:
            host.telemetry.ended[status] += 1
        if remember and active.method is not None and not active.shared:
            own_entry = host.known.remember(active, reply) or own_entry
        if active.bucket >= 0:
            host.waits.unfile(active)
        self.close(active)
        shard.release(
            activation.last_index,
            Output(active.sink, reply, active.joined, None, active.arrived),
            own_entry=own_entry,
        )
        if active.entered:
            active.entered = False
            admitted = activation.gate.leave(shared=active.shared)
            if admitted:
                host.arrivals.admit(admitted)

    def close(self, active: ActiveCall) -> None:
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
        self._host.admission.close(active.size_bytes)
