"""A new owner's first question: whose log is the longest (L3)?

Every in-sync member has every committed entry, so any of their logs would do, ours too. But a disk may
have dropped a synced tail without a word, and then ours is not what it was when we were put into the
set. So all members that can be reached are asked, and the longest log is adopted before anything of
the new epoch is written.

A log that ends before the longest one begins (its owner dropped what is in its state), or that has parted
from it before, cannot be mended by entries. Such a store has lost so much that it must not own the
shard: it steps down.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from roost_node.core.record import StoreId
from roost_node.core.replication.epochs import Shape, agreement

ASK_MS_MAX = 500
"""How long a member may take to show its log, and again to send what we lack of it (ms)."""


class Step(enum.Enum):
    """What to do next."""

    WAIT = "wait"  # a member may still answer
    FETCH = "fetch"  # the log of `Recovery.source` is longer than ours
    OPEN = "open"  # ours is the longest
    STEP_DOWN = "step down"  # `Recovery.longest` has entries in its state only that we lack


class Recovery:
    """Asks, once for each ownership."""

    __slots__ = ("_asked_ms", "_fetching_ms", "_shapes", "longest", "source")

    def __init__(self, others: Iterable[StoreId], now_ms: int) -> None:
        self._asked_ms = now_ms
        self._fetching_ms = 0
        self._shapes: dict[StoreId, Shape | None] = dict.fromkeys(others)
        self.source: StoreId | None = None  # whose log is being fetched
        self.longest: StoreId | None = None  # who is to own the shard instead

    def on_shape(self, member: StoreId, shape: Shape) -> None:
        """A member showed its log, perhaps because what was asked of it is not there any more."""
        if member in self._shapes:
            self._shapes[member] = shape
        if self.source == member:
            self.source = None

    def on_unreachable(self, member: StoreId) -> None:
        """Its stream broke, or it listens to somebody else."""
        if member in self._shapes:
            self._shapes[member] = None
        if self.source == member:
            self.source = None

    def on_fetched(self, member: StoreId) -> bool:
        """Entries came; False: nobody had asked for them."""
        if self.source != member:
            return False
        self.source = None
        return True

    def next(self, mine: Shape, now_ms: int) -> Step:
        """What to do, now that our log looks like this."""
        if self.source is not None:
            if now_ms - self._fetching_ms < ASK_MS_MAX:
                return Step.WAIT
            del self._shapes[self.source]  # it has had its time
            self.source = None
        silent = any(shape is None for shape in self._shapes.values())
        if silent and now_ms - self._asked_ms < ASK_MS_MAX:
            return Step.WAIT
        known = [(shape.rank, member) for member, shape in self._shapes.items() if shape]
        rank, member = max(known, default=((0, 0), StoreId("")))
        if rank <= mine.rank:
            return Step.OPEN
        if self._is_out_of_reach(mine, self.shape_of(member)):
            self.longest = member
            return Step.STEP_DOWN
        self.source = member
        self._fetching_ms = now_ms
        return Step.FETCH

    def _is_out_of_reach(self, mine: Shape, other: Shape) -> bool:
        return agreement(mine, other) < other.base

    def shape_of(self, member: StoreId) -> Shape:
        """The log that a member showed."""
        shape = self._shapes[member]
        assert shape is not None, "only a log that is known can be the longest"
        return shape
