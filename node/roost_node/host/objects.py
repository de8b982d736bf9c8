"""The live objects of a store: from the first call to leaving memory, or to a reset."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from roost.cluster.ids import check_key, shard_of
from roost.errors import (
    NotOwnerError,
    ObjectError,
    OutcomeUnknownError,
    OverloadedError,
    RoostError,
    StateMismatchError,
    UnavailableError,
    UnknownClassError,
)
from roost.object import ClassSpec
from roost.wire.messages import Call
from roost.wire.status import to_status
from roost_node.core.lifecycle import ActivationState
from roost_node.host.activation import Activation
from roost_node.host.blame import failure
from roost_node.host.call import (
    DEADLINE_DEFAULT_MS,
    ActiveCall,
    Cancelled,
    Kind,
    NoSink,
    Sink,
    Stage,
)
from roost_node.host.shard import Shard

if TYPE_CHECKING:
    from roost_node.host.host import Host


log = logging.getLogger(__name__)

FAILED_MAX = 10_000


class Objects:
    """Starts, ends and finds activations."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._shards: dict[int, Shard] = {}
        # Of shards that may be handed over. In order of age: a simulated run is to be repeatable.
        self.live: dict[int, dict[Activation, None]] = {}
        self.failed: dict[tuple[str, str], tuple[int, int]] = {}  # (failures, not before)

    def shard_of(self, class_name: str, key: str, now_ms: int) -> Shard:
        """The shard of an object, opened when it is first needed."""
        host = self._host
        store = host.store
        shard_id = shard_of(class_name, key, seed=store.seed, shards=store.shards)
        shard = self._shards.get(shard_id)
        if shard is None:
            shard = host.ownership.open(shard_id, now_ms)
            self.open_shard(shard)
        return shard

    def open_shard(self, shard: Shard) -> None:
        """This host runs the shard's objects now."""
        self._shards[shard.id] = shard
        if shard.replica is not None:
            self.live[shard.id] = {}
        self._host.keeper.opened(shard)

    def close_shard(self, shard: Shard) -> None:
        """It runs them no more: nothing of them has an effect, and their callers look elsewhere."""
        del self._shards[shard.id]
        shard.close()
        for activation in self.live.pop(shard.id, {}):
            self.reset(activation, f"shard {shard.id} has another owner")
        lost = to_status(
            OutcomeUnknownError(f"shard {shard.id} changed its owner before this was confirmed")
        )
        moved = to_status(NotOwnerError(f"shard {shard.id} has another owner now"))
        for output, own_entry in shard.gate.give_up():
            status, info = lost if own_entry else moved
            output.refuse(int(status), info)

    def shards(self) -> list[Shard]:
        """Those that have been opened."""
        return list(self._shards.values())

    def spec(self, class_name: str) -> ClassSpec:
        """The class of that name. Raises UnknownClassError."""
        host = self._host
        spec = host.classes.get(class_name)
        if spec is None:
            raise UnknownClassError(
                f"no class {class_name!r} is served here: there is "
                f"{', '.join(sorted(host.classes)) or 'none'}"
            )
        return spec

    def activate(self, call: Call, now_ms: int) -> Activation:
        """Bring the object of a call into memory. Raises when it cannot be had now."""
        host = self._host
        name = (call.class_name, call.key)
        spec = self.spec(call.class_name)
        check_key(call.key)
        if host.closing and not (call.chain and host.settling):
            raise UnavailableError("this node is shutting down: the call goes to the next one")
        if host.refuse_cold is not None:
            raise OverloadedError(host.refuse_cold, retry_after_s=0.5)
        failed = self.failed.get(name) if self.failed else None
        if failed is not None and now_ms < failed[1]:
            raise OverloadedError(
                f"{call.class_name}/{call.key} could not be activated {failed[0]} times in a row",
                retry_after_s=(failed[1] - now_ms) / 1000,
            )
        shard = self.shard_of(call.class_name, call.key, now_ms)
        if shard.refusal is not None and not host.arrivals.is_waited_for(call, shard):
            raise shard.refusal
        try:
            activation = Activation(host, spec, call.key, shard, now_ms)
        except StateMismatchError:
            raise
        except ObjectError:  # a migration raised: the user's code is not tried at once again
            self.has_failed(name, now_ms)
            raise
        # Before it stands among those that may leave: nothing holds it there yet.
        host.keeper.make_room(1, activation.size_bytes)
        host.activations[name] = activation
        live = self.live.get(shard.id) if self.live else None
        if live is not None:
            live[activation] = None
        host.ring.add(activation)
        host.size_bytes += activation.size_bytes
        host.telemetry.activations_started += 1
        if activation.loading:
            activation.state = ActivationState.LOADING
            self._start_hook(activation, Kind.ACTIVATE, now_ms + DEADLINE_DEFAULT_MS)
        return activation

    def has_failed(self, name: tuple[str, str], now_ms: int) -> None:
        """It could not be activated: after the second time in a row the next try has to wait."""
        failures = self.failed.pop(name, (0, 0))[0] + 1
        if len(self.failed) >= FAILED_MAX:
            self.failed.pop(next(iter(self.failed)))
        backoff_ms = min(30_000, 50 * 2 ** min(failures, 10)) if failures > 1 else 0
        self.failed[name] = (failures, now_ms + backoff_ms)

    def _start_hook(self, activation: Activation, kind: Kind, deadline_ms: int) -> ActiveCall:
        host = self._host
        call = Call(0, activation.class_name, activation.key, kind.value_name, b"", bytes(16))
        now_ms = host.now_ms()
        hook = ActiveCall(
            call, NoSink(), activation, None, deadline_ms, now_ms, 0, kind, ready_ms=now_ms
        )
        host.admission.open(0)
        activation.calls[kind.value_name.encode()] = hook
        if activation.gate.enter(hook, shared=False):
            hook.entered = True
            host.workers.start(hook)
        else:
            host.waits.file(hook)
        return hook

    def deactivate(self, activation: Activation, reason: str) -> None:
        """Let an idle object leave memory; calls that come meanwhile wait for the next activation."""
        host = self._host
        if activation.state is not ActivationState.ACTIVE:
            return
        if not activation.has_deactivate_hook:
            self.discard(activation)
            return
        activation.state = ActivationState.LEAVING
        hook = self._start_hook(
            activation, Kind.DEACTIVATE, host.now_ms() + int(host.limits.hook_s * 1000)
        )
        hook.waits_for = reason

    def delete(self, class_name: str, key: str, sink: Sink, call_id: int) -> None:
        """Delete all that an object stores, when it is free; the reply's payload is b"1" if it was."""
        host = self._host
        call = Call(call_id, class_name, key, "delete", b"", bytes(16))
        now_ms = host.now_ms()
        try:
            activation = host.activations.get((class_name, key)) or self.activate(call, now_ms)
            if activation.shard.refusal is not None:
                raise activation.shard.refusal
            if activation.shard.write_refusal is not None:
                raise activation.shard.write_refusal  # M3
        except RoostError as error:
            host.refuse(call, sink, error)
            return
        active = ActiveCall(
            call, sink, activation, None, now_ms + DEADLINE_DEFAULT_MS, now_ms, 0, Kind.DELETE,
            ready_ms=now_ms,
        )  # fmt: skip
        host.admission.open(0)
        activation.calls[b"delete" + call_id.to_bytes(8, "big")] = active
        host.arrivals.enter(active)

    def discard(self, activation: Activation) -> None:
        """It is out of memory; what waited goes to the next activation."""
        host = self._host
        if activation.state is ActivationState.GONE:
            return
        activation.state = ActivationState.GONE
        name = (activation.class_name, activation.key)
        if host.activations.get(name) is activation:
            del host.activations[name]
            host.size_bytes -= activation.size_bytes
        live = self.live.get(activation.shard.id) if self.live else None
        if live is not None:
            live.pop(activation, None)
        activation.let_go()
        host.ring.remove(activation)
        host.telemetry.activations_evicted += 1
        waiting = activation.gate.drain() + (activation.parked or [])
        for order in (activation.orders or {}).values():
            waiting += order.take_held()
        activation.parked = None
        for active in waiting:
            self.again(active)

    def again(self, active: ActiveCall) -> None:
        """Submit a call that never ran to the object's next activation."""
        host = self._host
        if active.kind not in (Kind.CALL, Kind.DELETE) or active.resume is not None:
            return
        host.waits.unfile(active)
        host.turns.close(active)
        if active.kind is Kind.DELETE:
            self.delete(active.call.class_name, active.call.key, active.sink, active.call.id)
            return
        self.submit_again(active.call, active.sink)
        for sink, call_id in active.joined or ():  # joins it, or is refused like it
            self.submit_again(msgspec.structs.replace(active.call, id=call_id), sink)

    def submit_again(self, call: Call, sink: Sink) -> None:
        """Submit a call that was kept back; its peer learns which one it is now."""
        active = self._host.submit(call, sink)
        if active is not None:
            sink.taken(call.id, active)

    def reset(self, activation: Activation, why: str) -> None:
        """Memory is dropped; the next call loads from state plus younger entries (L4)."""
        host = self._host
        if activation.state is ActivationState.GONE:
            return
        host.telemetry.resets += 1
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
                text = f"{active} was reset after it had committed: {why}"
                error = OutcomeUnknownError(text, retryable=False)
            host.turns.finish(active, *failure(error), own_entry=False, remember=False)
            if active.task is not None:
                active.cancelled = Cancelled.RESET
                active.task.cancel()
            if active.resume is not None and not active.resume.done():
                active.resume.set_result(None)
