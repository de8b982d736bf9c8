"""Which idle objects leave memory first.

A clock with a second chance: live objects stand in a ring in the order in which they were last
looked at. A step looks at the first; if it was used since, it goes to the end, else it is the
coldest there is. Nothing is done when an object is used but to note the time.

Source: Corbató, "A Paging Experiment with the Multics System", 1969.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar


class Idle(Protocol):
    """What the ring asks of its members."""

    used_ms: int
    idle_after_ms: int

    @property
    def may_leave(self) -> bool:
        """Nothing runs, waits, or is held for it."""

    @property
    def is_gone(self) -> bool:
        """It has left by another way."""


MemberT = TypeVar("MemberT", bound=Idle)


class EvictionRing(Generic[MemberT]):
    """Live objects, roughly coldest first."""

    __slots__ = ("_ring",)

    def __init__(self) -> None:
        self._ring: deque[tuple[MemberT, int]] = deque()

    def add(self, member: MemberT) -> None:
        """A new activation."""
        self._ring.append((member, member.used_ms))

    def __len__(self) -> int:
        return len(self._ring)

    def idle(self, now_ms: int, steps_max: int) -> list[MemberT]:
        """Members whose idle time is over, after looking at no more than `steps_max`."""
        leaving: list[MemberT] = []
        ring = self._ring
        for _ in range(min(steps_max, len(ring))):
            member, _ = ring.popleft()
            if member.is_gone:
                continue
            if member.may_leave and now_ms - member.used_ms >= member.idle_after_ms:
                leaving.append(member)
            ring.append((member, member.used_ms))
        return leaving

    def coldest(self, count: int) -> list[MemberT]:
        """Up to `count` members to push out now, whatever their idle time; each is named once."""
        leaving: list[MemberT] = []
        ring = self._ring
        for _ in range(2 * len(ring)):
            if len(leaving) >= count:
                break
            member, seen_ms = ring.popleft()
            if member.is_gone:
                continue
            if member.may_leave and member.used_ms == seen_ms:
                leaving.append(member)  # it stays out of the ring
            else:
                ring.append((member, member.used_ms))
        return leaving
