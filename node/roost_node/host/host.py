"""The live objects of one store, put together from its parts.

A call's way: find or start its object, let it enter in order (`arrivals.py`, `known.py`,
`objects.py`), run it, commit it, answer (`turns.py`); when it waits too long or is taken back,
`waits.py`. Everything here runs on one event loop. The rules are in the cores (`core/`). User code runs
in `worker.py`, disks are written in `committer.py`, and output leaves by `Shard.release` alone (R6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from roost.errors import RoostError
from roost.object import ClassSpec
from roost.wire.deadlines import Deadlines
from roost.wire.messages import Call, Query, Reply, Skip
from roost.wire.status import to_status
from roost_node.config import Limits
from roost_node.core.admission import Admission
from roost_node.core.clock import ServerClock
from roost_node.core.dedup import Answers
from roost_node.core.eviction import EvictionRing
from roost_node.host.activation import Activation
from roost_node.host.arrivals import Arrivals
from roost_node.host.call import ActiveCall, Cancelled, Sink
from roost_node.host.children import Children
from roost_node.host.committer import Committer
from roost_node.host.flusher import Flusher, ThreadFlusher
from roost_node.host.keeper import Keeper
from roost_node.host.known import ANSWERS_BYTES_MAX, ANSWERS_MAX, Answer, Known
from roost_node.host.objects import Objects
from roost_node.host.ownership import Alone, Ownership
from roost_node.host.shard import Shard
from roost_node.host.turns import Turns
from roost_node.host.waits import Waits
from roost_node.host.worker import Workers
from roost_node.storage import layout, records
from roost_node.storage.engine import Store
from roost_node.telemetry import Telemetry


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
        self.arrivals = Arrivals(self)
        self.known = Known(self)
        self.objects = Objects(self)
        self.ownership: Ownership = Alone(self)
        self.turns = Turns(self, check_effects=check_effects)
        self.waits = Waits(self)
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
        self.answers: Answers[Answer] = Answers(ANSWERS_MAX, ANSWERS_BYTES_MAX)
        self.activations: dict[tuple[str, str], Activation] = {}
        self.ring: EvictionRing[Activation] = EvictionRing()
        self.size_bytes = 0  # encoded size of all live objects
        self.behind_bytes = 0  # of entries that are not in the state, as of the last look
        self.closing = False  # calls are refused
        self.settling = False  # but running ones may finish, and call others for that
        self.paused: list[tuple[Call, Sink]] | None = None  # calls wait for a reload
        self.paused_bytes = 0  # their arguments
        self.refuse_cold: str | None = None  # memory is short
        self.refuse_writes: str | None = None  # disk is short
        self.is_short_of_disk = False  # the same, until there is clearly more room
        self.keeper = Keeper(self)

    def submit(self, call: Call, sink: Sink, now_ms: int = 0) -> ActiveCall | None:
        """Take a call. Its answer goes to `sink`; the active call is returned while it is open.

        `now_ms`: a reading of the node's clock that serves all calls of one frame; 0: none was taken.
        """
        if not now_ms:
            now_ms = self.now_ms()
        try:
            if self.paused is not None and not (call.chain and self.settling):
                self.arrivals.pause(call, sink, self.paused, now_ms)
                return None
            return self.arrivals.accept(call, sink, now_ms)
        except RoostError as error:
            self.refuse(call, sink, error)
            return None

    def refuse(self, call: Call, sink: Sink, error: RoostError) -> None:
        """Answer a call that was not taken."""
        self.telemetry.reject(type(error).__name__)
        status, info = to_status(error)
        sink.send(Reply(call.id, status, b"", 0, info))
        if call.stub_id and call.sequence > 0:
            activation = self.activations.get((call.class_name, call.key))
            if activation is not None:
                self.arrivals.refused(activation, call, for_good=not error.retryable)

    def query(self, query: Query, sink: Sink) -> None:
        """What became of a request?"""
        self.known.query(query, sink)

    def skip(self, skip: Skip) -> None:
        """A caller gave one sequence of its stub up."""
        self.arrivals.skip(skip)

    def cancel(self, active: ActiveCall, sink: Sink, call_id: int, why: Cancelled) -> None:
        """One attempt is taken back; the call goes on if another attempt still waits for it."""
        self.waits.cancel(active, sink, call_id, why)

    def add_credit(self, active: ActiveCall, items: int) -> None:
        """The reader of a stream has room again."""
        self.waits.add_credit(active, items)

    def deactivate(self, activation: Activation, reason: str) -> None:
        """Let an idle object leave memory; calls that come meanwhile wait for the next activation."""
        self.objects.deactivate(activation, reason)

    def reset(self, activation: Activation, why: str) -> None:
        """Memory is dropped; the next call loads from state plus younger entries (L4)."""
        self.objects.reset(activation, why)

    def delete(self, class_name: str, key: str, sink: Sink, call_id: int) -> None:
        """Delete all that an object stores, when it is free; the reply's payload is b"1" if it was."""
        self.objects.delete(class_name, key, sink, call_id)

    def shard_of(self, class_name: str, key: str, now_ms: int) -> Shard:
        """The shard of an object, opened when it is first needed."""
        return self.objects.shard_of(class_name, key, now_ms)

    def _is_quiet(self) -> bool:
        """Nothing else to do on this loop, as far as one can tell."""
        return not self.workers.ready and self.admission.open_calls == 0
