"""Promises given: what this node owes to other sessions, and when it may speak in their place.

Acknowledging a session's heartbeat is a promise: nothing is released here, as owner of a shard taken
from that session, until L after the heartbeat was processed (P1). A replica that is promoted waits
until what it owes to sessions that are gone has run out. No clock of another machine is asked.

Promises are kept in memory only, so a process that has just started assumes that it owes the most
it could (P5).
"""

from __future__ import annotations

from collections.abc import Collection

from roost_node.core.record import SessionId

LEASE_MS = 1_500
"""L: how long a promise lasts, in ms of CLOCK_BOOTTIME."""


class Promises:
    """What this process owes."""

    __slots__ = ("_lease_ms", "_started_ms", "_until_ms")

    def __init__(self, started_ms: int, lease_ms: int = LEASE_MS) -> None:
        self._started_ms = started_ms
        self._lease_ms = lease_ms
        self._until_ms: dict[SessionId, int] = {}

    def give(self, session: SessionId, now_ms: int) -> None:
        """A heartbeat of `session` is being acknowledged (P1)."""
        self._until_ms[session] = now_ms + self._lease_ms

    def owed_until_ms(self, live: Collection[SessionId], dead: Collection[SessionId]) -> int:
        """When a replica promoted now may release something (P4, P5).

        `live`: sessions in the coordination store, read at or after the revision of the promotion.
        `dead`: sessions proven to have ended (P6); a session may be in neither.
        """
        owed = [
            until
            for session, until in self._until_ms.items()
            if session not in live and session not in dead
        ]
        return max([self._started_ms + self._lease_ms, *owed])

    def forget_lapsed(self, now_ms: int) -> None:
        """Drop what has run out."""
        lapsed = [s for s, until_ms in self._until_ms.items() if until_ms <= now_ms]
        for session in lapsed:
            del self._until_ms[session]
