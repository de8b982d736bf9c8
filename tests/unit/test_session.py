"""When a session is renewed, in doubt and lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roost_node.core.record import NO_SESSION, SessionId
from roost_node.core.session import (
    Confirmed,
    Doubted,
    Effect,
    KeepAlive,
    Lost,
    Register,
    Registered,
    SessionKeeper,
)

TTL_MS = 3000
X, Y = SessionId(10), SessionId(11)


def keeper() -> SessionKeeper:
    """One that has session X, asked for at 0 and granted at 100."""
    keeper = SessionKeeper(TTL_MS, 0, lambda: 0.999)
    assert keeper.on_tick(0) == [Register()]
    assert keeper.on_registered(X, 0, 100) == [Registered(X)]
    return keeper


def test_a_session_is_renewed_at_a_third_of_its_time_counted_from_sending() -> None:
    k = keeper()
    assert k.wake_ms == 1000
    assert k.on_tick(999) == []
    assert k.on_tick(1000) == [KeepAlive(X)]
    assert k.on_tick(1400) == [], "one at a time"
    assert k.on_kept_alive(X, 1000, 1500) == []
    assert k.wake_ms == 2000


def test_the_deadline_counts_from_when_the_answered_request_was_sent() -> None:
    k = keeper()
    assert k.is_certain(2999)
    assert not k.is_certain(3000), "granted at 100, but asked for at 0"
    k.on_tick(1000)
    k.on_kept_alive(X, 1000, 2900)
    assert k.is_certain(3999)
    assert not k.is_certain(4000)


def test_an_old_answer_never_shortens_the_session() -> None:
    k = keeper()
    k.on_kept_alive(X, 1000, 1100)
    k.on_kept_alive(X, 500, 1200)
    assert k.is_certain(3999)


def test_after_a_failure_it_is_tried_again_soon_and_past_the_deadline_at_leisure() -> None:
    k = keeper()
    k.on_tick(1000)
    k.on_keep_alive_failed(X, 1700)
    assert k.wake_ms == 1850
    assert k.on_tick(1850) == [KeepAlive(X)]
    k.on_keep_alive_failed(X, 2900)
    assert k.wake_ms == 3000, "the deadline comes before the next attempt"
    assert k.on_tick(3000) == [Doubted(X)]
    assert k.on_tick(3050) == [KeepAlive(X)]
    k.on_keep_alive_failed(X, 3500)
    assert k.wake_ms == 4500


def test_a_store_that_is_down_puts_the_session_in_doubt_and_never_ends_it() -> None:
    k = keeper()
    now, told = 100, []
    while now < 600_000:
        now = max(now, k.wake_ms)
        for effect in k.on_tick(now):
            told.append(effect)
            if isinstance(effect, KeepAlive):
                k.on_keep_alive_failed(X, now + 700)
    assert [e for e in told if not isinstance(e, KeepAlive)] == [Doubted(X)]  # F3
    k.on_tick(max(now, k.wake_ms))
    assert k.on_kept_alive(X, now, now + 5) == [Confirmed(X)]
    assert k.is_certain(now + 10)


def test_an_answer_that_was_too_long_under_way_leaves_the_doubt() -> None:
    k = keeper()
    k.on_tick(1000)
    assert k.on_tick(3000) == [Doubted(X)], "while the request is under way, too"
    assert k.on_kept_alive(X, 1000, 4500) == []
    assert not k.is_certain(4500)
    assert k.on_tick(4500) == [KeepAlive(X)]
    assert k.on_kept_alive(X, 4500, 4600) == [Confirmed(X)]


def test_a_session_that_is_gone_is_lost_at_once_and_another_registered() -> None:
    k = keeper()
    k.on_tick(1000)
    assert k.on_gone(X, "its key was deleted", 1200) == [Lost(X, "its key was deleted")]
    assert (k.session, k.is_certain(1200)) == (NO_SESSION, False)
    assert k.on_gone(X, "the keep-alive says so too", 1300) == [], "once"
    assert k.on_kept_alive(X, 1000, 1300) == [], "nothing is carried over (O4)"
    assert not k.is_certain(1300)
    assert k.on_tick(1300) == [Register()]
    assert k.on_keep_alive_failed(X, 1400) == []
    assert k.on_tick(1500) == [], "it is under way"
    assert k.on_registered(Y, 1300, 1600) == [Registered(Y)]


def test_registering_backs_off_to_the_time_to_live() -> None:
    k = SessionKeeper(TTL_MS, 0, lambda: 0.999)
    now, pauses = 0, []
    for _ in range(8):
        assert k.on_tick(now) == [Register()]
        k.on_register_failed(now)
        pauses.append(k.wake_ms - now)
        now = k.wake_ms
    assert pauses == [149, 299, 599, 1199, 2398, 2998, 2998, 2998]


def test_sessions_lost_one_after_the_other_back_off_too() -> None:
    k = keeper()
    k.on_gone(X, "revoked", 200)
    now, pauses = 200, []
    for _ in range(4):
        now = max(now, k.wake_ms)
        assert k.on_tick(now) == [Register()]
        k.on_registered(Y, now, now)
        k.on_gone(Y, "revoked", now)
        pauses.append(k.wake_ms - now)
    assert pauses == [299, 599, 1199, 2398]
    now = k.wake_ms
    k.on_tick(now)
    k.on_registered(Y, now, now)
    k.on_gone(Y, "revoked", now + 2 * TTL_MS)
    assert k.wake_ms == now + 2 * TTL_MS, "one that had lived is replaced at once"


@given(st.lists(st.tuples(st.sampled_from("tkfglr"), st.integers(0, 2000)), max_size=60))
def test_it_always_has_a_next_step_and_never_claims_more_than_was_answered(
    steps: list[tuple[str, int]],
) -> None:
    k = SessionKeeper(TTL_MS, 0, lambda: 0.5)
    now, sent, surely, next_id = 0, 0, -1, 100
    asked: Effect | None = None
    for kind, passes in steps:
        now += passes
        if kind == "t" and asked is None:
            for effect in k.on_tick(now):
                if isinstance(effect, Register | KeepAlive):
                    asked, sent = effect, now
        elif kind == "g":
            k.on_gone(k.session, "test", now)
            if k.session == NO_SESSION:
                surely = -1
        elif asked is not None:
            one, asked = asked, None
            if isinstance(one, Register):
                if kind == "k":
                    next_id += 1
                    k.on_registered(SessionId(next_id), sent, now)
                    surely = sent + TTL_MS
                else:
                    k.on_register_failed(now)
            elif isinstance(one, KeepAlive):
                if kind == "k":
                    k.on_kept_alive(one.session, sent, now)
                    if one.session == k.session:
                        surely = max(surely, sent + TTL_MS)
                else:
                    k.on_keep_alive_failed(one.session, now)
        assert not k.is_certain(max(surely, 0))
        if asked is None:
            assert k.wake_ms <= now + TTL_MS
