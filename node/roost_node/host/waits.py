"""Deadlines and cancelling: calls that end without having run, or are told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roost.errors import DeadlineExceededError, UnavailableError
from roost.wire.status import OutOfOrderError
from roost_node.host.activation import Activation
from roost_node.host.blame import failure
from roost_node.host.call import ActiveCall, Cancelled, Sink, Stage

if TYPE_CHECKING:
    from roost_node.host.host import Host


class Waits:
    """Watches the calls that wait, and takes calls back."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def file(self, active: ActiveCall) -> None:
        """It waits: watch its deadline."""
        if active.bucket < 0:
            active.bucket = self._host.deadlines.add(active, active.deadline_ms)

    def unfile(self, active: ActiveCall) -> None:
        """It waits no more."""
        if active.bucket >= 0:
            self._host.deadlines.discard(active, active.bucket)
            active.bucket = -1

    def on_due(self, active: ActiveCall, now_ms: int) -> None:
        """A deadline (or the bound on waiting in order) has passed."""
        active.bucket = -1
        if active.stage is Stage.DONE:
            return
        if active.cancelled is not None:
            self._host.objects.reset(active.activation, f"{active} ignored its cancellation")
        elif active.stage is Stage.HELD and now_ms < active.deadline_ms:
            self._give_up_order(active)
        elif active.stage is Stage.RUNNING:
            self._cancel_running(active, Cancelled.DEADLINE, now_ms)
        else:
            self.expire(active)

    def _give_up_order(self, active: ActiveCall) -> None:
        """An earlier call of the stub never came: ask the caller to send all again, in order."""
        activation = active.activation
        error = OutOfOrderError("an earlier call of this stub has not arrived: send all again")
        for held in activation.order_of(active.call.stub_id).take_held():
            self._host.turns.finish(held, *failure(error), own_entry=False, remember=False)

    def expire(self, active: ActiveCall) -> None:
        """The deadline of a call that has not run passed."""
        activation = active.activation
        waited = active.waits_for or self._holder_of(activation, active)
        error = DeadlineExceededError(
            f"the deadline of {active} passed while it waited for {waited}", took_effect="no"
        )
        self._withdraw(active)
        self._host.turns.finish(active, *failure(error), own_entry=False, remember=True)

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
                self._host.arrivals.admit(activation.gate.withdraw(active))
        elif active.stage is Stage.HELD:
            activation.order_of(active.call.stub_id).forget(active.call.sequence)

    def _cancel_running(self, active: ActiveCall, why: Cancelled, now_ms: int) -> None:
        host = self._host
        if active.cancelled is None:
            active.cancelled = why
            active.bucket = host.deadlines.add(active, now_ms + int(host.limits.cancel_s * 1000))
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
        host = self._host
        if active.stage is Stage.RUNNING:
            if active.cancelled is None:  # else it has been told, and its last deadline runs
                self.unfile(active)
                self._cancel_running(active, why, host.now_ms())
            return
        if active.stage is Stage.READY:
            active.cancelled = why  # `begin` answers it
            return
        self._withdraw(active)
        self.take_back(active, why)

    def take_back(self, active: ActiveCall, why: Cancelled) -> None:
        """Answer a call that is not going to run; it may be sent again."""
        host = self._host
        error = UnavailableError(f"{active} was cancelled before it ran: {why.value}")
        host.turns.finish(active, *failure(error), own_entry=False, remember=False)

    def add_credit(self, active: ActiveCall, items: int) -> None:
        """The reader of a stream has room again."""
        active.credit = min(active.credit + items, 1_000_000)
        waiter = active.credit_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
