"""When to renew this process's session, when it is in doubt, and when it is lost.

A session is a lease in the coordination store. It is renewed at a third of its time, and after a failure
again at a twentieth, as long as that can help. How long it surely lasts is counted from when the last
*answered* request was **sent**: the store extended it at some moment after that, and an answer that was
under way for long proves nothing newer.

Past that deadline the session is *in doubt*, not lost: the store may be down, and then nobody can take
anything over, and objects must go on (F3). What may be answered meanwhile is decided by the promises of
other nodes (P3), never here. It is *lost* only when an answer says so, or a read shows the key absent or
holding another session (O4, O5). Then the process registers anew, as another session.

`ownership/session.py` carries the requests.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from roost_node.core.record import NO_SESSION, SessionId

RENEW_PART = 3  # of the time to live: after how much of it we renew
RETRY_PART = 20  # and after how much we try again

NEVER = -1


class Register(msgspec.Struct, frozen=True):
    """Open a session, and tell `on_registered` or `on_register_failed`."""


class KeepAlive(msgspec.Struct, frozen=True):
    """Renew the session, and tell `on_kept_alive`, `on_keep_alive_failed` or `on_gone`."""

    session: SessionId


class Registered(msgspec.Struct, frozen=True):
    """This process has a session."""

    session: SessionId


class Doubted(msgspec.Struct, frozen=True):
    """The session may have run out; nobody said so."""

    session: SessionId


class Confirmed(msgspec.Struct, frozen=True):
    """The session that was in doubt is there."""

    session: SessionId


class Lost(msgspec.Struct, frozen=True):
    """The session is gone: drop all ownership, reads and received promises, now (O4)."""

    session: SessionId
    why: str


Effect = Register | KeepAlive | Registered | Doubted | Confirmed | Lost


class SessionKeeper:
    """One store's session, and the next one when it is lost.

    `jitter` gives numbers in [0, 1): nodes that lost their sessions together must not come back together.
    """

    def __init__(self, ttl_ms: int, now_ms: int, jitter: Callable[[], float]) -> None:
        self.session = NO_SESSION
        self.answered_ms = NEVER
        """When the store last answered at all: adds and handoffs ask how long ago (O6)."""
        self._ttl_ms = ttl_ms
        self._jitter = jitter
        self._deadline_ms = NEVER
        self._is_doubted = False
        self._is_asking = False  # a request is under way
        self._next_ms = now_ms  # when to send the next one
        self._pause_ms = 0  # before registering again
        self._since_ms = now_ms  # when this session began

    @property
    def wake_ms(self) -> int:
        """When `on_tick` has something to do, if nothing happens before."""
        doubt_ms = NEVER if self._is_doubted else self._deadline_ms
        if self._is_asking:
            return doubt_ms if doubt_ms != NEVER else self._next_ms + self._ttl_ms
        return self._next_ms if doubt_ms == NEVER else min(self._next_ms, doubt_ms)

    def is_certain(self, now_ms: int) -> bool:
        """Whether the session surely lasts."""
        return self.session != NO_SESSION and now_ms < self._deadline_ms

    def on_tick(self, now_ms: int) -> list[Effect]:
        """Time has passed."""
        effects: list[Effect] = []
        is_past = self.session != NO_SESSION and now_ms >= self._deadline_ms
        if is_past and not self._is_doubted:
            self._is_doubted = True
            effects.append(Doubted(self.session))
        if now_ms >= self._next_ms and not self._is_asking:
            self._is_asking = True
            effects.append(Register() if self.session == NO_SESSION else KeepAlive(self.session))
        return effects

    def on_registered(self, session: SessionId, sent_ms: int, now_ms: int) -> list[Effect]:
        """A new session, asked for at `sent_ms`."""
        assert self.session == NO_SESSION, "one session at a time"
        self.session, self._since_ms = session, now_ms
        self._extend(sent_ms, now_ms)
        return [Registered(session)]

    def on_register_failed(self, now_ms: int) -> list[Effect]:
        """No session, or nobody knows: what may have been opened runs out by itself."""
        self._is_asking = False
        self._back_off(now_ms)
        return []

    def on_kept_alive(self, session: SessionId, sent_ms: int, now_ms: int) -> list[Effect]:
        """The store extended the session after `sent_ms`."""
        if session != self.session:
            return []  # it was lost meanwhile: an old answer brings nothing back (O4)
        doubted = self._is_doubted
        self._extend(sent_ms, now_ms)
        is_confirmed = doubted and not self._is_doubted
        return [Confirmed(session)] if is_confirmed else []

    def on_keep_alive_failed(self, session: SessionId, now_ms: int) -> list[Effect]:
        """No answer: try again soon while that can help, then at leisure."""
        if session != self.session:
            return []
        self._is_asking = False
        part = RETRY_PART if self.is_certain(now_ms) else RENEW_PART
        self._next_ms = now_ms + self._ttl_ms // part
        return []

    def on_gone(self, session: SessionId, why: str, now_ms: int) -> list[Effect]:
        """An answer or a read showed that the session has ended."""
        if session != self.session or session == NO_SESSION:
            return []
        if now_ms - self._since_ms >= self._ttl_ms:
            self._pause_ms = 0  # it had lived: this is no loop of losing and registering
        self.session, self._deadline_ms = NO_SESSION, NEVER
        self._is_doubted = self._is_asking = False
        self.answered_ms = now_ms
        self._next_ms = now_ms
        if self._pause_ms:
            self._back_off(now_ms)
        self._pause_ms = self._pause_ms or self._ttl_ms // RETRY_PART
        return [Lost(session, why)]

    def _extend(self, sent_ms: int, now_ms: int) -> None:
        self._is_asking = False
        self.answered_ms = now_ms
        self._deadline_ms = max(self._deadline_ms, sent_ms + self._ttl_ms)
        self._is_doubted = now_ms >= self._deadline_ms and self._is_doubted
        self._next_ms = sent_ms + self._ttl_ms // RENEW_PART

    def _back_off(self, now_ms: int) -> None:
        floor_ms = self._ttl_ms // RETRY_PART
        self._pause_ms = min(max(self._pause_ms * 2, floor_ms), self._ttl_ms)
        self._next_ms = now_ms + int(self._pause_ms * (0.5 + self._jitter() / 2))
