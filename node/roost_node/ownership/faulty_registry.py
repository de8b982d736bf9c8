"""The store behind `memory.py`: a `Registry` on the loop's clock, with leases, watchers and bad days.

It can be down, frozen, compacted, restored from a backup, and can end a session out of turn.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections.abc import Callable
from typing import TypeVar

import msgspec

from roost_node.core.record import SessionId, StoreId, is_gone
from roost_node.core.registry import Registry
from roost_node.ownership.coordinator import Changed

T = TypeVar("T")

HISTORY_MAX = 10_000
"""Hints kept for watchers that start late; older ones are compacted away."""


class _Lease(msgspec.Struct):
    store: StoreId
    ttl_s: float
    until: float = 0.0


class Backup(msgspec.Struct, frozen=True):
    """What a store held, and the leases that ran."""

    registry: Registry
    leases: dict[SessionId, _Lease]


class FaultyRegistry:
    """The store itself. `is_up` and `is_frozen` are for the nemesis to see; it turns them by methods."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.context = contextvars.copy_context()  # not that of whoever asks: it may have ended
        self.is_up = True
        self.is_frozen = False
        self.breaks = 0  # how often watches were cut
        self.restores = 0  # from how many backups
        self.compacted = 0  # hints up to this revision are gone
        self._history: list[Changed] = []
        self._leases: dict[SessionId, _Lease] = {}
        self._backlog: list[Callable[[], None]] = []
        self._waiting: list[asyncio.Future[None]] = []

    # --- the nemesis's side

    def stop(self) -> None:
        """Refuse connections. What was stored stays, leases do not run."""
        self.is_up = False
        self._backlog.clear()
        self.break_watches()

    def freeze(self) -> None:
        """Take requests and answer none of them, until `resume`."""
        self.is_frozen = True

    def resume(self) -> None:
        """Be there again. Leases start anew, as when etcd elects a leader."""
        self.is_up, self.is_frozen = True, False
        for session, lease in self._leases.items():
            self._extend(session, lease)
        backlog, self._backlog = self._backlog, []
        for carry_out in backlog:
            carry_out()
        self._wake()

    def end_session(self, session: SessionId) -> None:
        """Let a lease run out now, whatever its owner does."""
        lease = self._leases.pop(session, None)
        if lease is not None:
            self.change(lambda registry: registry.expire(lease.store, session))

    def compact(self) -> None:
        """Forget the history of changes."""
        self.compacted = self.registry.revision
        self._history.clear()

    def break_watches(self) -> None:
        """Cut every watch: hints may be lost."""
        self.breaks += 1
        self._wake()

    def backup(self) -> Backup:
        """What is stored now."""
        return Backup(copy.deepcopy(self.registry), dict(self._leases))

    def restore(self, backup: Backup) -> None:
        """Go back to a backup, revisions and leases included (O7). What is under way to it never arrives."""
        self.restores += 1
        last_session = self.registry.last_session
        self.registry = copy.deepcopy(backup.registry)
        self.registry.last_session = last_session
        self._leases = {
            session: _Lease(lease.store, lease.ttl_s) for session, lease in backup.leases.items()
        }
        for session, lease in self._leases.items():
            self._extend(session, lease)
        self._history.clear()
        self.compacted = 0
        self.break_watches()

    # --- the clients' side

    def arrive(self, carry_out: Callable[[], None], restores: int) -> None:
        """A request has come, sent after so many restores: those who run a restored store had no part in what was."""
        if restores != self.restores:
            return
        if self.is_frozen:
            self._backlog.append(carry_out)
        elif self.is_up:
            carry_out()

    def change(self, do: Callable[[Registry], T]) -> T:
        """Do something that may change what is stored, and tell the watchers what did."""
        before = copy.copy(self.registry)
        before.sessions, before.deaths = dict(before.sessions), dict(before.deaths)
        before.shards, before.wishes = dict(before.shards), dict(before.wishes)
        before.drains, before.pins = set(before.drains), dict(before.pins)
        result = do(self.registry)
        if self.registry.revision != before.revision:
            self._history.append(_difference(before, self.registry))
            if len(self._history) > HISTORY_MAX:
                half = HISTORY_MAX // 2
                self.compacted = self._history[half - 1].revision
                del self._history[:half]
            self._wake()
        return result

    def grant(self, store: StoreId, ttl_s: float) -> SessionId:
        """A lease."""
        session = self.registry.grant()
        lease = self._leases[session] = _Lease(store, ttl_s)
        self._extend(session, lease)
        return session

    def renew(self, session: SessionId) -> bool:
        """Extend a lease; whether its session's key is there too."""
        lease = self._leases.get(session)
        if lease is None:
            return False
        self._extend(session, lease)
        return not is_gone(self.registry.sessions, lease.store, session)

    def since(self, revision: int) -> list[Changed]:
        """The hints after a revision."""
        return [hint for hint in self._history if hint.revision > revision]

    async def moved(self) -> None:
        """Wait for a change, or a cut watch."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _extend(self, session: SessionId, lease: _Lease) -> None:
        loop = asyncio.get_running_loop()
        lease.until = loop.time() + lease.ttl_s
        loop.call_at(lease.until, self._maybe_expire, session, lease.until, context=self.context)

    def _maybe_expire(self, session: SessionId, until: float) -> None:
        lease = self._leases.get(session)
        runs = self.is_up and not self.is_frozen
        if lease is not None and runs and lease.until == until:  # not extended since
            self.end_session(session)


def _difference(before: Registry, after: Registry) -> Changed:
    def changed(old: dict[T, object], new: dict[T, object]) -> tuple[T, ...]:
        return tuple(k for k in {**old, **new} if old.get(k) is not new.get(k))

    return Changed(
        after.revision,
        changed({**before.shards}, {**after.shards}),
        (*changed({**before.sessions}, {**after.sessions}), *(before.drains ^ after.drains)),
        changed({**before.deaths}, {**after.deaths}),
        (*changed({**before.wishes}, {**after.wishes}), *changed({**before.pins}, {**after.pins})),
        before.config != after.config,
        before.controller != after.controller,
    )
