"""Where each epoch of a log begins, and where two logs agree.

Every epoch has one owner, which numbers its entries without a gap, so (epoch, index) names one entry,
and two logs that have an entry in common have everything before it in common. It is enough to know
where each epoch starts, a few numbers a shard, to find the last entry that two logs share.

Invariant: epochs and indexes both grow along the list.
Source: "log matching" (Ongaro and Ousterhout, 2014); epoch boundaries instead of probing (KIP-101).
"""

from __future__ import annotations

import msgspec

from roost_node.core.record import Epoch


class Shape(msgspec.Struct, frozen=True, array_like=True):
    """What one node tells another of its log: enough to find where they agree.

    Entries up to `base` are in the state only (cut away, or covered by a snapshot): committed.
    """

    starts: tuple[tuple[Epoch, int], ...]  # (epoch, index of its first entry), ascending
    end: int  # index of the last entry; 0: empty
    base: int = 0

    def epoch_at(self, index: int) -> Epoch:
        """The epoch of the entry at `index`; 0 before the first."""
        for epoch, first in reversed(self.starts):
            if first <= index:
                return epoch
        return Epoch(0)

    @property
    def last_epoch(self) -> Epoch:
        """Of the last entry."""
        return self.starts[-1][0] if self.starts else Epoch(0)

    @property
    def rank(self) -> tuple[int, int]:
        """Of two logs that may hold committed entries, the higher one holds them all (L3)."""
        return (self.last_epoch, self.end)

    def extended(self, epoch: Epoch, index: int) -> Shape:
        """With one more entry. Raises AssertionError where it does not follow."""
        assert index == self.end + 1, "indexes have no gap"
        assert epoch >= self.last_epoch, "epochs never run back"
        starts = self.starts
        if epoch != self.last_epoch:
            starts = (*starts, (epoch, index))
        return Shape(starts, index, self.base)

    def cut(self, last: int) -> Shape:
        """Without what is after `last`."""
        assert last >= self.base, "L4: what is committed is never cut"
        if last >= self.end:
            return self
        return Shape(tuple(s for s in self.starts if s[1] <= last), last, self.base)

    def trimmed(self, base: int) -> Shape:
        """With entries up to `base` in the state only; epoch starts are kept from its epoch on."""
        assert self.base <= base <= self.end, "only what is there is cut away"
        keep = max((s[1] for s in self.starts if s[1] <= base), default=0)
        return Shape(tuple(s for s in self.starts if s[1] >= keep), self.end, base)


def agreement(mine: Shape, other: Shape) -> int:
    """The index of the last entry that both logs have; 0 where there is none that can be named.

    Everything up to a `base` is committed, hence in both logs, if both are that long. But a disk may have
    lost what it had acknowledged and kept what stood there before: then the entries at the `base` differ,
    and where the logs part is in a state only.
    """
    index = min(mine.end, other.end)
    floor = min(index, max(mine.base, other.base))
    while index > floor:
        a, b = mine.epoch_at(index), other.epoch_at(index)
        if a == b:
            return index
        shape, epoch = (mine, a) if a > b else (other, b)
        index = next(first for e, first in shape.starts if e == epoch) - 1
    is_known = floor >= mine.base and floor >= other.base
    if is_known and mine.epoch_at(floor) != other.epoch_at(floor):
        return 0
    return max(index, floor)
