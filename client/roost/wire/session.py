"""A caller's side of calls: what is unfinished, what is sent again, and when to give up.

Plain state: the shell (`client.py`) hands in replies, breaks and the time, sends what `outgoing`
holds, and is told of endings by `Waiting.end`. Every attempt of a call carries the same request id,
so sending again is safe at any moment; each attempt has an id of its own on the link.

Rules: a refused call (nothing happened) is sent again after a pause, together with the refused calls
of its stub, in order; after a break all unfinished calls are sent again, in order; a deadline ends
the call here even when no answer comes, a moment after the owner would have said so.

An owner that was restarted knows nothing of a stub's earlier calls. So each attempt says anew what the
oldest unfinished call is, and after a break, or when the owner misses an earlier call, it is told which
of those in between are finished: or it would wait for them for ever.

A refusal speaks of its own attempt. Where an earlier one went out on a link that broke, nobody here
knows what became of that, and the call does not end with "nothing happened" for want of time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from roost.errors import DeadlineExceededError, OutcomeUnknownError, RoostError
from roost.wire.deadlines import Deadlines
from roost.wire.messages import Call, Cancel, Item, Outcome, Query, Reply, Skip, ToClient, ToServer
from roost.wire.status import OutOfOrderError, to_error

RETRY_MS_MIN = 5
RETRY_MS_MAX = 1_000
ANSWER_SLACK_MS = 40  # the owner's own word on a deadline is worth waiting for
STREAM_BROKE = "the connection broke while the stream was open, after items had arrived"


def may_be_asked_again(error: RoostError) -> bool:
    """Whether the same request, sent again, may still get its answer."""
    if isinstance(error, DeadlineExceededError) or not error.retryable:
        return False
    return "not run again" not in error.message  # an interleaved call that was cut stays unknown


class StubOrder(Protocol):
    """The calls of one stub that are not finished."""

    def oldest(self) -> int:
        """The lowest sequence of them."""

    def end(self, sequence: int) -> None:
        """One is finished."""

    def finished_before(self, sequence: int) -> range:
        """The sequences right below that one that are finished."""


class Waiting:
    """A call that is not finished. The shell derives from it."""

    __slots__ = (
        "attempts", "bucket", "call", "done", "due_ms", "got_items", "is_unsure", "order", "order_lost",
        "retry_bucket", "why",
    )  # fmt: skip

    def __init__(self, call: Call | Query, order: StubOrder | None = None) -> None:
        self.call = call
        self.order = order
        self.order_lost = False  # the owner may not know what came before
        self.is_unsure = False  # an attempt may have taken effect, whatever later ones were told
        self.attempts = 0
        self.due_ms = 0  # its deadline, by our clock
        self.bucket = -1
        self.retry_bucket = -1
        self.done = False
        self.got_items = False
        self.why: RoostError | None = None  # the last refusal

    def end(self, reply: Reply | Outcome) -> None:
        """An answer (the shell decodes it, or raises what it says)."""
        raise NotImplementedError

    def fail(self, error: RoostError) -> None:
        """No answer."""
        raise NotImplementedError

    def item(self, item: Item) -> None:
        """One item of a stream."""
        raise NotImplementedError


class CallSession:
    """All unfinished calls of one client."""

    def __init__(self, jitter: Callable[[], float], on_outgoing: Callable[[], None]) -> None:
        self._jitter = jitter  # 0 to 1
        self._on_outgoing = on_outgoing
        self._next_id = 0
        self._open: dict[int, Waiting] = {}
        self._deadlines: Deadlines[Waiting] = Deadlines()
        self._retries: Deadlines[Waiting] = Deadlines()
        self._ahead_ms = 0  # server time less ours
        self.outgoing: list[ToServer] = []

    def on_server_time(self, ahead_ms: int) -> None:
        """A server's clock is so far ahead of ours: what goes to it says its deadline in its time.

        Ours goes on as before: how long a call waits is not for the next server's clock to say.
        """
        self._ahead_ms = ahead_ms
        for waiting in self._open.values():
            self._stamp(waiting)

    def _stamp(self, waiting: Waiting) -> None:
        if isinstance(waiting.call, Call):
            waiting.call.deadline_ms = waiting.due_ms + self._ahead_ms

    def start(self, waiting: Waiting) -> None:
        """Send a new call. Its deadline is in server time."""
        call = waiting.call
        if isinstance(call, Call):
            waiting.due_ms = call.deadline_ms - self._ahead_ms
            waiting.bucket = self._deadlines.add(waiting, waiting.due_ms + ANSWER_SLACK_MS)
        self._send(waiting)

    def _send(self, waiting: Waiting) -> None:
        self._next_id += 1
        call = waiting.call
        call.id = self._next_id
        waiting.attempts += 1
        self._open[call.id] = waiting
        self._stamp(waiting)
        order = waiting.order
        if order is not None and isinstance(call, Call):
            # Of now: an owner that knows nothing of this stub would wait for what is finished here.
            call.oldest = order.oldest()
        self.say(call)
        if waiting.order_lost and order is not None and isinstance(call, Call):
            waiting.order_lost = False
            for sequence in order.finished_before(call.sequence):
                self.say(Skip(call.class_name, call.key, call.stub_id, sequence))

    def say(self, message: ToServer) -> None:
        """Send something."""
        self.outgoing.append(message)
        # What is no call may go where calls are held back (`on_going_away`).
        if len(self.outgoing) == 1 or not isinstance(message, Call):
            self._on_outgoing()

    def on_messages(self, messages: list[ToClient], now_ms: int) -> None:
        """Answers came; those that nobody waits for are dropped."""
        opened = self._open
        for message in messages:
            if isinstance(message, Reply):
                waiting = opened.pop(message.id, None)
                if waiting is not None:
                    if message.status:
                        self._on_error(waiting, message, now_ms)
                    else:
                        self._forget(waiting)
                        waiting.end(message)
            elif isinstance(message, Item):
                waiting = opened.get(message.id)
                if waiting is not None:
                    waiting.got_items = True
                    waiting.item(message)
            else:
                waiting = opened.pop(message.id, None)
                if waiting is not None:
                    self._forget(waiting)
                    waiting.end(message)

    def _on_error(self, waiting: Waiting, reply: Reply, now_ms: int) -> None:
        error = to_error(reply.status, reply.error)
        call = waiting.call
        assert isinstance(call, Call)
        streams = call.credit > 0
        again = may_be_asked_again(error)
        if streams and (waiting.got_items or error.took_effect != "no"):
            again = False
        if not again:
            self._forget(waiting)
            is_late = isinstance(error, DeadlineExceededError) and error.took_effect == "no"
            if is_late and (waiting.is_unsure or waiting.why):
                waiting.fail(_why_not(waiting))  # "no" was said of one attempt
            else:
                waiting.end(reply)
            return
        waiting.why = error
        waiting.is_unsure |= error.took_effect != "no"
        if reply.error is not None and reply.error.type == OutOfOrderError.__name__:
            waiting.order_lost = True
        retry_after_ms = int(getattr(error, "retry_after_s", 0.0) * 1000)
        pause = min(RETRY_MS_MAX, RETRY_MS_MIN << min(waiting.attempts - 1, 10))
        pause = max(int(pause * (0.5 + self._jitter())), min(retry_after_ms, RETRY_MS_MAX), 1)
        waiting.retry_bucket = self._retries.add(waiting, now_ms + pause)

    def on_tick(self, now_ms: int) -> None:
        """Time has passed: send refused calls again, end those whose deadline is over."""
        if len(self._deadlines):
            for waiting in self._deadlines.due(now_ms):
                waiting.bucket = -1
                self._expire(waiting)
        if len(self._retries):
            due = self._retries.due(now_ms)
            if due:
                self._send_again(due)

    def _send_again(self, due: list[Waiting]) -> None:
        for waiting in sorted(due, key=_order):
            waiting.retry_bucket = -1
            if not waiting.done:
                self._send(waiting)

    def _expire(self, waiting: Waiting) -> None:
        call = waiting.call
        assert isinstance(call, Call)
        refused = waiting.retry_bucket >= 0
        self.give_up(waiting)
        waiting.fail(_why_not(waiting) if refused else _no_answer(call))

    def on_lost(self) -> None:
        """The link is gone: everything unfinished goes out again over the next one, in order."""
        unfinished = sorted(self._open.values(), key=_order)
        self._open = {}
        unsent = {message.id for message in self.outgoing if isinstance(message, Call)}
        self.outgoing = []
        for waiting in unfinished:
            waiting.is_unsure |= waiting.call.id not in unsent
            if waiting.got_items:
                self._forget(waiting)
                waiting.fail(_stream_error())
            else:
                waiting.order_lost = True
                self._send(waiting)

    def give_up(self, waiting: Waiting) -> None:
        """Nobody waits for it any more: take it back where that is still possible."""
        if waiting.done:
            return
        self._forget(waiting)
        call = waiting.call
        if self._open.pop(call.id, None) is not None:
            self.say(Cancel(call.id))
        if isinstance(call, Call) and call.stub_id:
            self.say(Skip(call.class_name, call.key, call.stub_id, call.sequence))

    def _forget(self, waiting: Waiting) -> None:
        waiting.done = True
        if waiting.order is not None:
            waiting.order.end(waiting.call.sequence)  # type: ignore[union-attr]  # likewise
        if waiting.bucket >= 0:
            self._deadlines.discard(waiting, waiting.bucket)
            waiting.bucket = -1
        if waiting.retry_bucket >= 0:
            self._retries.discard(waiting, waiting.retry_bucket)
            waiting.retry_bucket = -1

    def fail_all(self, error: RoostError) -> None:
        """The client closes."""
        waiting = {id(w): w for w in self._open.values()}
        while (bucket := self._retries.next_ms()) is not None:
            waiting.update((id(w), w) for w in self._retries.due(bucket))
        self._open = {}
        for one in waiting.values():
            one.retry_bucket = -1
            self._forget(one)
            one.fail(error)

    @property
    def is_idle(self) -> bool:
        """Nothing to watch the time for."""
        return not self._open and not len(self._retries)

    @property
    def open_count(self) -> int:
        """Calls that are not finished."""
        return len(self._open) + len(self._retries)


def _order(waiting: Waiting) -> tuple[int, int]:
    call = waiting.call
    return (call.stub_id, call.sequence) if isinstance(call, Call) else (0, 0)


def _why_not(waiting: Waiting) -> RoostError:
    """The last refusal, unless it says "nothing happened" where an earlier attempt may have had its effect."""
    why, call = waiting.why, waiting.call
    assert isinstance(call, Call)
    if why is not None and not (waiting.is_unsure and why.took_effect == "no"):
        return why
    return _no_answer(call)


def _no_answer(call: Call) -> DeadlineExceededError:
    return DeadlineExceededError(
        f"no answer from {call.class_name}/{call.key}.{call.method} before the deadline: the "
        f"same request id finds out what became of it"
    )


def _stream_error() -> RoostError:
    return OutcomeUnknownError(STREAM_BROKE + ": open it again")
