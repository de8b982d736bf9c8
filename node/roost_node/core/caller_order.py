"""The order in which calls of one stub start: the order in which its caller made them.

Calls arrive in any order: they are sent again after a break, by other ways, or are refused for lack
of room. Each carries its sequence and `oldest`, the lowest sequence that its caller still waits for.
A call may start when every sequence in [oldest, its own) has started, was answered from a record, or
was given up by a `Skip`; until then it is held here. When one is refused, later ones are refused too
until it comes again, or the second try would be overtaken.

Not here: whether a call that was seen before may run again (`dedup.py`).
"""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")

HELD_MAX = 1024


class Admission(enum.Enum):
    """What becomes of a call that has just arrived."""

    START = 1  # its turn
    HOLD = 2  # an earlier one is missing
    REFUSE = 3  # an earlier one was refused, or too many are held: the caller sends all again


class CallerOrder(Generic[ItemT]):
    """One stub's calls at one object."""

    __slots__ = ("_held", "_next", "_refused", "_skipped", "used_ms")

    def __init__(self) -> None:
        self._next = 0  # the lowest sequence that has not started
        self._refused = 0  # the lowest that was refused and has not come again; 0: none
        self._held: dict[int, ItemT] | None = None
        self._skipped: set[int] | None = None
        self.used_ms = 0

    def arrive(self, item: ItemT, sequence: int, oldest: int) -> Admission:
        """Decide on one call."""
        expected = self._next
        if oldest > expected:  # its caller has seen the end of everything before
            expected = self._next = oldest
            self._advance()
            expected = self._next
        if self._refused and (sequence <= self._refused or self._refused < expected):
            self._refused = 0
        if sequence < expected:
            return Admission.START  # sent again; `dedup` knows whether it has run
        if self._refused:
            return Admission.REFUSE
        if sequence == expected:
            self._next = expected + 1
            self._advance()
            return Admission.START
        if self._held is None:
            self._held = {}
        elif len(self._held) >= HELD_MAX or sequence in self._held:
            return Admission.REFUSE  # (two calls of one sequence: this caller counts wrong)
        self._held[sequence] = item
        return Admission.HOLD

    def refuse(self, sequence: int) -> None:
        """The call `sequence` was about to start and was refused after all (no room for it)."""
        if sequence < self._next:
            self._next = sequence
        self._refused = sequence

    def skip(self, sequence: int) -> ItemT | None:
        """The caller gave `sequence` up, or it is finished. Returns the call if it is held: it is over."""
        if sequence == self._refused:
            self._refused = 0
        held = self._held.pop(sequence, None) if self._held is not None else None
        if sequence == self._next:
            self._next += 1
            self._advance()
        elif sequence > self._next:
            if self._skipped is None:
                self._skipped = set()
            if len(self._skipped) < HELD_MAX:
                self._skipped.add(sequence)
        return held

    def ready(self) -> ItemT | None:
        """The held call whose turn has come, one at a time; it counts as started."""
        held = self._held
        if not held:
            return None
        item = held.pop(self._next, None)
        if item is not None:
            self._next += 1
            self._advance()
        else:
            # Overtaken by `oldest`: nobody waits for these any more, yet they may start.
            late = min(held)
            if late < self._next:
                item = held.pop(late)
        if not held:
            self._held = None
        return item

    def take_held(self) -> list[ItemT]:
        """Give up on everything held (lowest first): it will be sent again."""
        held, self._held = self._held, None
        return [held[sequence] for sequence in sorted(held)] if held else []

    def forget(self, sequence: int) -> None:
        """A held call was cancelled; its sequence stays missing until skipped or sent again."""
        if self._held is not None:
            self._held.pop(sequence, None)

    @property
    def has_held(self) -> bool:
        """Is anything waiting for an earlier call?"""
        return bool(self._held)

    def _advance(self) -> None:
        skipped = self._skipped
        if skipped:
            while self._next in skipped:
                skipped.discard(self._next)
                self._next += 1
            if skipped and min(skipped) < self._next:
                self._skipped = {s for s in skipped if s > self._next}
