"""Which idle objects leave memory first.

A clock with a second chance: live objects stand in a ring in the order in which they were last
looked at. A step looks at the first; if it was used since, it goes to the end, else it is the
coldest there is. Nothing is done when an object is used but to note the time.

Source: Corbató, "A Paging Experiment with the Multics System", 1969.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class Idle(Protocol):
    """What the ring asks of its members."""

    used_ms: int
    idle_after_ms: int

    @property
    def may_leave(self) -> bool:
        """Nothing runs, waits, or is held for it."""


MemberT = TypeVar("MemberT", bound=Idle)


class EvictionRing(Generic[MemberT]):
    """Live objects, roughly coldest first, each with the time of use that was seen last."""

    __slots__ = ("_ring",)

    def __init__(self) -> None:
        self._ring: OrderedDict[MemberT, int] = OrderedDict()

    def add(self, member: MemberT) -> None:
        """A new activation."""
        self._ring[member] = member.used_ms

    def remove(self, member: MemberT) -> None:
        """It has left memory."""
        self._ring.pop(member, None)

    def repack(self) -> None:
        """Take no more room than its members need; it stays as large as it ever was otherwise."""
        self._ring = OrderedDict(self._ring)

    def __len__(self) -> int:
        return len(self._ring)

    def idle(self, now_ms: int, steps_max: int) -> list[MemberT]:
        """Members whose idle time is over, after looking at no more than `steps_max`."""
        leaving: list[MemberT] = []
        for _ in range(min(steps_max, len(self._ring))):
            member, _ = self._ring.popitem(last=False)
            self._ring[member] = member.used_ms
            if member.may_leave and now_ms - member.used_ms >= member.idle_after_ms:
                leaving.append(member)
        return leaving

    def coldest(self, count: int, steps_max: int) -> list[MemberT]:
        """Up to `count` members to push out now, whatever their idle time.

        Busy ones are passed over; after `steps_max` looks the search ends, and the next goes on there.
        """
        leaving: list[MemberT] = []
        for _ in range(min(steps_max, 2 * len(self._ring))):  # twice round: the second chance
            if len(leaving) >= count or not self._ring:
                break
            member, seen_ms = self._ring.popitem(last=False)
            if member.may_leave and member.used_ms == seen_ms:
                leaving.append(member)  # named once; its activation ends now
            else:
                self._ring[member] = member.used_ms
        return leaving
