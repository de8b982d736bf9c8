"""What a caller is told when refusals and deadlines meet."""

from __future__ import annotations

from roost.errors import DeadlineExceededError, OverloadedError, RoostError
from roost.stub import Order
from roost.wire.messages import Call, Item, Outcome, Reply
from roost.wire.session import CallSession, Waiting
from roost.wire.status import to_error, to_status

DEADLINE_MS = 10_000


class Asked(Waiting):
    """Keeps how it ended."""

    error: RoostError | None = None

    def end(self, reply: Reply | Outcome) -> None:
        assert isinstance(reply, Reply)
        self.error = to_error(reply.status, reply.error)

    def fail(self, error: RoostError) -> None:
        self.error = error

    def item(self, item: Item) -> None:
        raise AssertionError("no stream here")


def started() -> tuple[CallSession, Asked]:
    session = CallSession(jitter=lambda: 0.5, on_outgoing=lambda: None)
    asked = Asked(Call(0, "Cell", "c", "put", b"", bytes(16), deadline_ms=DEADLINE_MS, sequence=1))
    session.start(asked)
    return session, asked


def refusal(call: Call, error: RoostError) -> Reply:
    status, info = to_status(error)
    return Reply(call.id, int(status), b"", 0, info)


def test_the_last_refusal_is_what_a_late_attempt_is_told() -> None:
    session, asked = started()
    assert isinstance(asked.call, Call)
    full = OverloadedError("the mailbox is full", retry_after_s=0.01)
    session.on_messages([refusal(asked.call, full)], DEADLINE_MS - 50)
    session.on_tick(DEADLINE_MS)  # sent again, and arrives when its time is over
    late = DeadlineExceededError("arrived after its deadline", took_effect="no")
    session.on_messages([refusal(asked.call, late)], DEADLINE_MS + 1)
    assert isinstance(asked.error, OverloadedError)


def test_a_deadline_that_may_have_taken_effect_is_told_as_such() -> None:
    session, asked = started()
    assert isinstance(asked.call, Call)
    full = OverloadedError("the mailbox is full", retry_after_s=0.01)
    session.on_messages([refusal(asked.call, full)], DEADLINE_MS - 50)
    session.on_tick(DEADLINE_MS)
    cut = DeadlineExceededError("the deadline passed", took_effect="maybe")
    session.on_messages([refusal(asked.call, cut)], DEADLINE_MS + 1)
    assert isinstance(asked.error, DeadlineExceededError)


def test_a_call_that_is_sent_again_says_what_is_finished_by_now() -> None:
    order = Order()
    session = CallSession(jitter=lambda: 0.5, on_outgoing=lambda: None)
    calls = [
        Call(0, "Cell", "c", "put", b"", bytes(16), deadline_ms=DEADLINE_MS, sequence=order.begin())
        for _ in range(3)
    ]
    for call in calls:
        session.start(Asked(call, order))
    assert [call.oldest for call in calls] == [1, 1, 1]
    session.on_messages([Reply(calls[0].id), Reply(calls[2].id)], 0)
    session.on_lost()
    # A new owner has never heard of the first: it would wait for it until the deadline.
    assert calls[1].oldest == 2
    assert session.outgoing == [calls[1]]
