"""Who counts: the in-sync set as an owner must take it, while its own changes may be under way.

A change of the record is a compare-and-swap on its revision (O1). One whose answer was lost may still
be applied, whatever a read of the old revision shows (O2). So until the key's revision has moved past
the one that was compared, every set that was proposed counts as well, for commits and for promises;
and the owner writes again, because only another revision makes the old comparison fail.
"""

from __future__ import annotations

from roost_node.core.record import ShardRecord, StoreId, Versioned, union

TOUCH_AFTER_MS = 400
"""How long a change may be unanswered before the owner writes again (ms)."""


class Members:
    """The record as last known, and what was proposed on top of it."""

    __slots__ = ("_asked", "_asked_ms", "_counting", "_proposed", "record", "revision")

    def __init__(self, versioned: Versioned) -> None:
        self.record: ShardRecord = versioned.record
        self.revision = versioned.revision
        self._proposed: dict[int, ShardRecord] = {}  # by token, oldest first
        self._asked: set[int] = set()  # tokens of requests whose answer may still come
        self._asked_ms = 0
        self._count()

    def counting(self) -> frozenset[StoreId]:
        """Every store that must acknowledge a commit (R1)."""
        return self._counting

    def _count(self) -> None:
        proposed = (p.in_sync for p in self._proposed.values())
        self._counting = union([self.record.in_sync, *proposed])  # O2

    def promising(self) -> frozenset[StoreId]:
        """Every store that might be promoted, so that its promise is needed (P3)."""
        return self.counting()

    def propose(self, record: ShardRecord, token: int, now_ms: int) -> None:
        """A change is about to be asked for; it counts from now on (M1)."""
        self._proposed[token] = record
        self._asked.add(token)
        self._asked_ms = now_ms
        self._count()

    def on_applied(self, token: int, revision: int) -> bool:
        """That request was applied: it is the record now. False: that is old news."""
        record = self._proposed.get(token)
        if record is None or revision <= self.revision:
            return False
        self._move(Versioned(revision, record))
        return True

    def on_refused(self, token: int) -> None:
        """That request was not applied and never will be: its conditions did not hold."""
        self._proposed.pop(token, None)
        self._asked.discard(token)
        self._count()

    def on_unanswered(self, token: int) -> None:
        """Nobody knows: it stays proposed (O2)."""
        self._asked.discard(token)

    def on_read(self, found: Versioned) -> bool:
        """A linearizable read; True: the record has moved, and nothing older can be applied now."""
        if found.revision <= self.revision:
            return False
        self._move(found)
        return True

    def _move(self, found: Versioned) -> None:
        self.record = found.record
        self.revision = found.revision
        self._proposed.clear()
        self._asked.clear()
        self._count()

    @property
    def is_settled(self) -> bool:
        """No change is under way or in doubt."""
        return not self._proposed

    def must_touch(self, now_ms: int) -> bool:
        """A change is in doubt, and it is time to write again."""
        if not self._proposed:
            return False
        return not self._asked or now_ms - self._asked_ms >= TOUCH_AFTER_MS

    def last_proposed(self) -> ShardRecord:
        """What was wanted last."""
        return next(reversed(self._proposed.values()))

    @property
    def in_doubt(self) -> tuple[ShardRecord, ...]:
        """Every change that may still be applied."""
        return tuple(self._proposed.values())
