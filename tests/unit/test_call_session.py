"""What a caller is told when refusals and deadlines meet."""

from __future__ import annotations

from roost.errors import (
    DeadlineExceededError,
    NotOwnerError,
    OutcomeUnknownError,
    OverloadedError,
    RoostError,
)
from roost.stub import Order
from roost.wire.messages import Call, Item, Outcome, Reply, Skip
from roost.wire.session import CallSession, Waiting
from roost.wire.status import OutOfOrderError, to_error, to_status

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


def test_a_refusal_says_nothing_of_an_attempt_on_a_link_that_broke() -> None:
    for is_told_late in (False, True):
        session, asked = started()
        session.outgoing = []  # it went out
        session.on_lost()
        assert isinstance(asked.call, Call)
        nobody = NotOwnerError("shard 3 is not owned by this node")
        session.on_messages([refusal(asked.call, nobody)], DEADLINE_MS - 1)
        if is_told_late:
            session.on_tick(DEADLINE_MS + 20)  # sent again
            late = DeadlineExceededError("no owner could be reached in time", took_effect="no")
            session.on_messages([refusal(asked.call, late)], DEADLINE_MS + 21)
        else:
            session.on_tick(DEADLINE_MS + 100)
        assert isinstance(asked.error, DeadlineExceededError)
        assert asked.error.took_effect == "maybe"


def test_what_had_not_gone_out_when_a_link_broke_did_nothing() -> None:
    session, asked = started()
    session.on_lost()  # the server was going away, and new calls were held
    assert isinstance(asked.call, Call)
    session.on_messages(
        [refusal(asked.call, NotOwnerError("shard 3 is not owned by this node"))], DEADLINE_MS - 1
    )
    session.on_tick(DEADLINE_MS + 100)
    assert isinstance(asked.error, NotOwnerError)


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


def several(count: int) -> tuple[CallSession, Order, list[Asked]]:
    """Calls of one stub, all sent."""
    session = CallSession(jitter=lambda: 0.5, on_outgoing=lambda: None)
    order = Order()
    calls = [
        Asked(Call(0, "Cell", "c", "put", b"", bytes(16), 0, DEADLINE_MS, 7, order.begin()), order)
        for _ in range(count)
    ]
    for asked in calls:
        session.start(asked)
    session.outgoing = []
    return session, order, calls


def finish(session: CallSession, order: Order, asked: Asked) -> None:
    assert isinstance(asked.call, Call)
    order.end(asked.call.sequence)
    session.give_up(asked)
    session.outgoing = []


def sent(session: CallSession) -> list[tuple[str, int]]:
    """Kind and sequence of what goes out, with the `oldest` of calls."""
    out: list[tuple[str, int]] = []
    for message in session.outgoing:
        if isinstance(message, Call):
            out.append((f"call, oldest {message.oldest}", message.sequence))
        elif isinstance(message, Skip):
            out.append(("skip", message.sequence))
    session.outgoing = []
    return out


def test_after_a_break_no_call_waits_for_one_that_is_finished() -> None:
    session, order, (one, two, three, _four, _five) = several(5)
    finish(session, order, one)
    finish(session, order, three)
    session.on_lost()
    assert sent(session) == [
        ("call, oldest 2", 2),
        ("call, oldest 2", 4),
        ("skip", 3),
        ("call, oldest 2", 5),
    ]
    finish(session, order, two)
    session.on_lost()
    assert sent(session) == [("call, oldest 4", 4), ("call, oldest 4", 5)]


def test_an_owner_that_misses_an_earlier_call_is_told_that_it_is_finished() -> None:
    session, order, (_one, two, three) = several(3)
    finish(session, order, two)
    session.on_messages(
        [refusal(three.call, OutOfOrderError("has not arrived"))],  # type: ignore[arg-type]
        0,
    )
    session.on_tick(100)
    assert sent(session) == [("call, oldest 1", 3), ("skip", 2)]
    session.on_messages([refusal(three.call, OverloadedError("full"))], 100)  # type: ignore[arg-type]
    session.on_tick(1000)
    assert sent(session) == [("call, oldest 1", 3)]


def test_an_outcome_that_will_not_be_known_ends_the_call() -> None:
    for error in (OutcomeUnknownError("cut"), OutcomeUnknownError("cut for good", retryable=False)):
        session, asked = started()
        assert isinstance(asked.call, Call)
        session.on_messages([refusal(asked.call, error)], 0)
        assert (asked.error is None) is error.retryable  # else it is sent again
