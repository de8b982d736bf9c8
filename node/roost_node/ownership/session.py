"""Carries out what `core/session.py` decides: one task that opens, renews and replaces the session.

Whoever reads the map or a hint and sees that the session's key is gone says so with `see`. What the
node has to do about it happens in `listener`, synchronously: when it returns from `Lost`, nothing of the
old session may be released (O4).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from roost_node.core.record import NO_SESSION, SessionId, SessionInfo, StoreId, is_gone
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
from roost_node.ownership.coordinator import (
    Coordinator,
    CoordinatorDownError,
    CoordinatorRefusedError,
    UnansweredError,
)

_log = logging.getLogger(__name__)

Listener = Callable[[Registered | Doubted | Confirmed | Lost], None]


class SessionLoop:
    """This process's session. `info` is what others see of it; `now_ms` is `CLOCK_BOOTTIME`."""

    def __init__(
        self,
        coordinator: Coordinator,
        info: SessionInfo,
        ttl_s: int,
        listener: Listener,
        now_ms: Callable[[], int],
        jitter: Callable[[], float],
    ) -> None:
        self._coordinator = coordinator
        self._info = info
        self._ttl_s = ttl_s
        self._listener = listener
        self._now_ms = now_ms
        self._keeper = SessionKeeper(ttl_s * 1000, now_ms(), jitter)
        self._has_news = False
        self._woken = asyncio.Event()
        self._was_registered = False

    @property
    def session(self) -> SessionId:
        """The session, or `NO_SESSION`."""
        return self._keeper.session

    def is_certain(self) -> bool:
        """Whether the session surely lasts."""
        return self._keeper.is_certain(self._now_ms())

    def answered_within(self, ms: int) -> bool:
        """Whether the store answered lately (O6)."""
        answered_ms = self._keeper.answered_ms
        return answered_ms >= 0 and self._now_ms() - answered_ms <= ms

    def say(
        self,
        *,
        draining: bool,
        stopping: bool,
        unreachable: tuple[StoreId, ...],
        stuck_on: tuple[StoreId, ...],
        short_of_disk: bool = False,
    ) -> None:
        """Tell the others, as soon as the store can be reached, and with every later session.

        But not whom we could not reach: that ends with the session (it may be why it ended).
        """
        self._info = msgspec.structs.replace(
            self._info,
            draining=draining,
            stopping=stopping,
            unreachable=unreachable,
            stuck_on=stuck_on,
            short_of_disk=short_of_disk,
        )
        self._has_news = True
        self._woken.set()

    def see(self, sessions: dict[StoreId, SessionInfo], as_of: SessionId) -> None:
        """A linearizable read, begun while `as_of` was our session, showed these sessions."""
        if is_gone(sessions, self._info.store, as_of):
            self._tell(self._keeper.on_gone(as_of, "a read shows it gone", self._now_ms()))
            self._woken.set()

    async def run(self) -> None:
        """For ever. Raises `CoordinatorRefusedError` if the store refuses our first session."""
        while True:
            for effect in self._keeper.on_tick(self._now_ms()):
                if isinstance(effect, Register):
                    await self._register()
                elif isinstance(effect, KeepAlive):
                    await self._keep_alive(effect.session)
                else:
                    self._tell([effect])
            if self._has_news and self.session != NO_SESSION:
                await self._update()
            self._woken.clear()
            wait_s = max(self._keeper.wake_ms - self._now_ms(), 0) / 1000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()

    async def close(self) -> None:
        """End the session, so that nobody waits for its lease. To be called when `run` has ended."""
        if self.session == NO_SESSION:
            return
        try:
            await self._coordinator.close_session(self.session)
        except (CoordinatorDownError, UnansweredError, CoordinatorRefusedError) as error:
            _log.warning("session not closed: it will run out", extra={"error": error.message})

    async def _register(self) -> None:
        sent_ms, info = self._now_ms(), self._info
        try:
            session = await self._coordinator.open_session(info, self._ttl_s)
        except (CoordinatorDownError, UnansweredError, CoordinatorRefusedError) as error:
            if isinstance(error, CoordinatorRefusedError) and not self._was_registered:
                raise  # to be put right by whoever starts us
            _log.warning("no session yet", extra={"error": error.message})
            self._tell(self._keeper.on_register_failed(self._now_ms()))
            return
        self._was_registered = True
        self._info = msgspec.structs.replace(self._info, session=session)
        self._has_news = self._has_news and self._info != msgspec.structs.replace(
            info, session=session
        )
        self._tell(self._keeper.on_registered(session, sent_ms, self._now_ms()))

    async def _keep_alive(self, session: SessionId) -> None:
        sent_ms = self._now_ms()
        try:
            is_there = await self._coordinator.keep_alive(session)
        except (CoordinatorDownError, UnansweredError, CoordinatorRefusedError) as error:
            _log.info("session not renewed", extra={"error": error.message})
            self._tell(self._keeper.on_keep_alive_failed(session, self._now_ms()))
            return
        now_ms = self._now_ms()
        if is_there:
            self._tell(self._keeper.on_kept_alive(session, sent_ms, now_ms))
        else:
            self._tell(self._keeper.on_gone(session, "the store says so", now_ms))

    async def _update(self) -> None:
        info = self._info
        try:
            is_there = await self._coordinator.update_session(info)
        except (CoordinatorDownError, UnansweredError, CoordinatorRefusedError) as error:
            _log.info("session not updated", extra={"error": error.message})
            return  # with the next renewal
        if not is_there:
            self._tell(self._keeper.on_gone(info.session, "the store says so", self._now_ms()))
        elif info == self._info:
            self._has_news = False

    def _tell(self, effects: list[Effect]) -> None:
        for effect in effects:
            assert not isinstance(effect, Register | KeepAlive), "those are carried out by `run`"
            fields = {"store": self._info.store, "session": f"{effect.session:016x}"}
            if isinstance(effect, Lost):
                self._info = msgspec.structs.replace(self._info, unreachable=(), stuck_on=())
                _log.warning("session lost", extra={**fields, "why": effect.why})
            else:
                _log.info("session %s", type(effect).__name__.lower(), extra=fields)
            self._listener(effect)
