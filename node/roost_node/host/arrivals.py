"""What becomes of a call that has just arrived.

The order of questions: is the node open, is the request well-formed, is it open already (`known.py`: join), is
it young enough, has it been answered (`known.py`), is there room, does its chain come back to an object it holds,
is it its turn within its stub; then the object's gate.

The rules are in the cores (`core/`); this asks them in order and carries out what they say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from roost.cluster.ids import first_sent_ms
from roost.errors import (
    DeadlineExceededError,
    DeadlockError,
    DiskFullError,
    ExpiredRequestError,
    InvalidArgumentError,
    OverloadedError,
    TooLargeError,
    UnavailableError,
    UnknownMethodError,
)
from roost.wire.codec import too_large_arguments
from roost.wire.messages import ARGUMENTS_BYTES_MAX, CHAIN_LENGTH_MAX, Call, Skip
from roost.wire.status import OutOfOrderError
from roost_node.core.caller_order import Admission as Turn
from roost_node.core.dedup import Age, age_of
from roost_node.core.lifecycle import ActivationState
from roost_node.host.activation import Activation
from roost_node.host.blame import failure
from roost_node.host.call import DEADLINE_DEFAULT_MS, ActiveCall, Kind, Sink, Stage

if TYPE_CHECKING:
    from roost_node.host.host import Host
    from roost_node.host.shard import Shard

DEADLINE_MAX_MS = 24 * 3600 * 1000
SHARD_BEHIND_BYTES = 256 * 1024  # a shard with less is not what makes the node fall behind
BEHIND_RETRY_S = 0.5


class Arrivals:
    """Takes calls as far as the object's gate."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def accept(self, call: Call, sink: Sink, now_ms: int) -> ActiveCall | None:
        """Take a call; None: it was answered from what is known. Raises why it is not taken."""
        host = self._host
        activation = host.activations.get((call.class_name, call.key))
        if activation is None:
            activation = host.objects.activate(call, now_ms)
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
        running = activation.calls.get(rid)
        if running is not None:  # whatever its age: it does not run again
            return host.known.join(running, call, sink)
        shard = activation.shard
        sent_ms = first_sent_ms(rid)
        age = age_of(sent_ms, shard.log.time_ms(now_ms), now_ms, shard.given_up_ms)
        if age is not Age.FINE:
            if age is Age.AHEAD:
                # Not the caller's fault where this machine's clock was set back: it may try again.
                ahead_s = (sent_ms - now_ms) / 1000
                raise UnavailableError(
                    f"the request id's time is {ahead_s:.0f} s ahead of this server's clock, at most 60 s: "
                    f"it is taken when the clock has come so far"
                )
            if sent_ms < shard.given_up_ms:
                raise ExpiredRequestError(
                    "the request is from before data of its shard was given up: what became of it is not"
                    " known any more"
                )
            raise ExpiredRequestError(
                "the request id is older than ten minutes: what became of it is not known any more"
            )
        record_key = b"" if method.read_only else activation.record_key(rid)
        if record_key and host.known.answer(activation, call, sink, record_key):
            return None
        deadline_ms = call.deadline_ms or now_ms + DEADLINE_DEFAULT_MS
        if method.timeout_s is not None:
            deadline_ms = min(deadline_ms, now_ms + int(method.timeout_s * 1000))
        deadline_ms = min(deadline_ms, now_ms + DEADLINE_MAX_MS)
        if deadline_ms <= now_ms:
            raise DeadlineExceededError(
                f"the call of {call.class_name}/{call.key}.{call.method} arrived after its deadline",
                took_effect="no",
            )
        if host.closing and not (call.chain and host.settling):
            raise UnavailableError("this node is shutting down: the call goes to the next one")
        self.check_room(call, now_ms)
        if shard.refusal is not None and not self.is_waited_for(call, shard):
            raise shard.refusal
        if not method.read_only:
            if host.refuse_writes is not None:
                raise DiskFullError(host.refuse_writes)
            if shard.write_refusal is not None:
                raise shard.write_refusal  # M3
        if shard.kept.is_full and not method.read_only:
            raise OverloadedError(
                f"shard {shard.id} keeps {shard.kept.size_bytes} bytes of records of finished calls, "
                f"at most {shard.kept.bytes_max} (kept_bytes_max): return less, and mark methods that "
                f"only read as read_only",
                retry_after_s=shard.kept.room_in_ms(shard.log.time_ms(now_ms)) / 1000,
            )
        if (
            host.behind_bytes > host.limits.behind_bytes_max
            and shard.log.size_bytes > SHARD_BEHIND_BYTES
            and not method.read_only
        ):
            raise OverloadedError(
                f"{shard.log.size_bytes} bytes of entries of shard {shard.id} wait for its copies, {host.behind_bytes}"
                f" of all, at most {host.limits.behind_bytes_max} (behind_bytes_max): a node is slow or frozen",
                retry_after_s=BEHIND_RETRY_S,
            )
        active = ActiveCall(
            call, sink, activation, method, deadline_ms, now_ms, len(call.arguments), Kind.CALL,
            method.read_only, method.interleave, call.credit, host.loop.time(), record_key, now_ms,
        )  # fmt: skip
        if call.chain:
            self._check_chain(active)
        depth = activation.gate.depth
        if depth:
            host.telemetry.mailbox_depth.add(depth)
            if depth >= spec.mailbox_max:
                raise OverloadedError(
                    f"{spec.name}/{call.key} has {depth} calls waiting, at most "
                    f"{spec.mailbox_max} (mailbox_max)",
                    retry_after_s=host.admission.retry_after_s(depth),
                )
        if call.stub_id:
            orders = activation.orders
            order = orders.get(call.stub_id) if orders is not None else None
            if order is None:
                order = activation.order_of(call.stub_id)
            order.used_ms = now_ms
            turn = order.arrive(active, call.sequence, call.oldest)
            if turn is Turn.REFUSE:
                self.enter_ready(activation, call.stub_id)
                raise OutOfOrderError(
                    "an earlier call of this stub was refused: send it again first"
                )
            activation.calls[rid] = active
            host.admission.open(active.size_bytes)
            if turn is Turn.HOLD:
                active.stage = Stage.HELD
                active.waits_for = "an earlier call of the same stub, which has not arrived"
                active.bucket = host.deadlines.add(
                    active, min(deadline_ms, now_ms + host.limits.order_wait_ms)
                )
            else:
                self.enter(active)
            if order.has_held:
                self.enter_ready(activation, call.stub_id)
            return active
        activation.calls[rid] = active
        host.admission.open(active.size_bytes)
        self.enter(active)
        return active

    def enter_ready(self, activation: Activation, stub_id: int) -> None:
        """Held calls whose turn has come."""
        order = activation.order_of(stub_id)
        while (held := order.ready()) is not None:
            self._host.waits.unfile(held)
            held.waits_for = None
            held.ready_ms = self._host.now_ms()
            self.enter(held)

    def enter(self, active: ActiveCall) -> None:
        """It is its turn within its stub: let it into the object, or queue it."""
        host = self._host
        activation = active.activation
        if activation.state is ActivationState.LEAVING:
            active.stage = Stage.QUEUED
            if activation.parked is None:
                activation.parked = []
            activation.parked.append(active)
            host.waits.file(active)
            return
        if self.try_gate(active):
            active.entered = True
            host.workers.start(active)
        else:
            active.stage = Stage.QUEUED
            host.waits.file(active)

    def try_gate(self, active: ActiveCall) -> bool:
        """Is it inside its object now? Else it waits in the gate's queue."""
        gate = active.activation.gate
        if active.call.chain and self._own_readers(active):
            return gate.enter_reentrant(
                active, shared=active.shared, own_readers=lambda: self._own_readers(active)
            )
        return gate.enter(active, shared=active.shared)

    def admit(self, admitted: list[ActiveCall]) -> None:
        """The gate let these in."""
        host = self._host
        now_ms = host.now_ms()
        for active in admitted:
            active.entered = True
            active.ready_ms = now_ms
            if active.resume is not None:
                if not active.resume.done():
                    active.resume.set_result(None)
            else:
                host.waits.unfile(active)
                host.workers.start(active)

    def check_room(self, call: Call, now_ms: int) -> None:
        """Raises OverloadedError when there is too much already."""
        host = self._host
        ready = host.workers.ready
        wait_ms = now_ms - ready[0].ready_ms if ready else 0
        admission = host.admission
        why = admission.refusal(len(call.arguments), wait_ms)
        if why is None and host.committer.is_busy:
            why = "the store is busy writing"
        if why is not None:
            raise OverloadedError(why, retry_after_s=admission.retry_after_s(admission.open_calls))

    def pause(self, call: Call, sink: Sink, paused: list[tuple[Call, Sink]], now_ms: int) -> None:
        """Keep a call until a reload is over. Raises OverloadedError when too much is kept."""
        host = self._host
        self.check_room(call, now_ms)
        if not paused:
            host.paused_bytes = 0
        size = host.paused_bytes + len(call.arguments)
        if len(paused) >= host.limits.open_calls_max or (
            size > host.limits.open_bytes_max and paused
        ):
            raise OverloadedError(
                f"{len(paused)} calls of {host.paused_bytes} bytes wait for a reload: no more are kept",
                retry_after_s=0.5,
            )
        host.paused_bytes = size
        paused.append((call, sink))

    def is_waited_for(self, call: Call, shard: Shard) -> bool:
        """Does a call wait for it that runs in that shard, which comes to rest when all that run have ended?"""
        for link in call.chain:
            caller = self._host.activations.get((link.class_name, link.key))
            if caller is not None and caller.shard is shard and link.request_id in caller.calls:
                return True
        return False

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

    def refused(self, activation: Activation, call: Call, *, for_good: bool) -> None:
        """A call was not taken: later ones of its stub wait for it, unless it will not come again."""
        if for_good:
            self.give_up(activation, call.stub_id, call.sequence)
        elif activation.orders and call.stub_id in activation.orders:
            activation.orders[call.stub_id].refuse(call.sequence)

    def skip(self, skip: Skip) -> None:
        """A caller gave one sequence of its stub up, or has seen its end."""
        activation = self._host.activations.get((skip.class_name, skip.key))
        if activation is not None and activation.orders and skip.stub_id in activation.orders:
            self.give_up(activation, skip.stub_id, skip.sequence)

    def give_up(self, activation: Activation, stub_id: int, sequence: int) -> None:
        """Nobody is to wait for that call of the stub."""
        held = activation.order_of(stub_id).skip(sequence)
        if held is not None:
            error = UnavailableError(f"{held} was given up before its turn came")
            self._host.turns.finish(held, *failure(error), own_entry=False, remember=False)
        self.enter_ready(activation, stub_id)
