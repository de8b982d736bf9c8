"""One other replica as a shard's owner sees it: what it has, and whether it keeps up.

Counted is only what it acknowledged on the stream that is open now, at this epoch (L2, M6): a replica
that came back shows again what it holds. Lag is measured in time, not in entries (M5).
"""

from __future__ import annotations

from roost_node.core.replication.epochs import Shape

LAG_MS_MAX = 1_000


class Progress:
    """One member or learner."""

    __slots__ = (
        "_behind_index",
        "_behind_ms",
        "foreign",
        "heard_ms",
        "kept_from",
        "match",
        "next",
        "refused",
        "shape",
        "snapshot",
        "snapshot_bytes",
        "told_commit",
    )

    def __init__(self, now_ms: int) -> None:
        self.heard_ms = now_ms
        self.kept_from = (
            0  # it had our log up to here, on this stream or another: it may need the rest
        )
        self.reset()
        self._behind_index = 0
        self._behind_ms = now_ms

    def reset(self) -> None:
        """Its stream broke: nothing that it said counts any more."""
        self.match = 0  # its disk holds our log up to here
        self.next = 0  # the next entry to send; 0: its log is not known yet
        self.shape: Shape | None = None
        self.snapshot = False  # one is under way
        self.snapshot_bytes = 0  # of it that were sent
        self.foreign = False  # its log cannot be compared with ours: only a snapshot helps (M8)
        self.refused = False
        self.told_commit = -1  # the commit index that it was told last

    def heard(self, now_ms: int) -> None:
        """It answered something."""
        self.heard_ms = now_ms

    def acknowledged(self, index: int, end: int, now_ms: int) -> bool:
        """It has everything up to `index`. True: that is news."""
        self.heard_ms = now_ms
        if self.match >= self._behind_index:
            self._behind_ms = now_ms
        if index <= self.match:
            return False
        self.match = index
        self.kept_from = max(self.kept_from, index)
        if index >= self._behind_index:
            self._behind_index = end
            self._behind_ms = now_ms
        return True

    def follow(self, end: int, now_ms: int) -> None:
        """The owner's log ends at `end`."""
        if self.match >= self._behind_index and end > self._behind_index:
            self._behind_index = end
            self._behind_ms = now_ms

    def lag_ms(self, now_ms: int) -> int:
        """For how long it has owed an acknowledgement, or been silent."""
        behind = now_ms - self._behind_ms if self.match < self._behind_index else 0
        return max(behind, now_ms - self.heard_ms)

    def answered_since(self, moment_ms: int) -> bool:
        """Did it answer anything after that?"""
        return self.heard_ms >= moment_ms
