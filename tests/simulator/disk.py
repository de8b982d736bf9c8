"""The disk of a node of replication cores: it keeps what was flushed, and perhaps some of what was not."""

from __future__ import annotations

from collections.abc import Callable

from roost.cluster.ids import ShardId
from roost_node.core.replication.follower import Kept
from roost_node.core.replication.messages import LogEntry

Value = tuple[int, ...]


class Disk:
    """What one store keeps: batches become durable in order, a crash loses the rest."""

    def __init__(self) -> None:
        self.kept: dict[ShardId, Kept] = {}
        self.entries: dict[ShardId, dict[int, LogEntry]] = {}
        self.bases: dict[ShardId, tuple[int, Value]] = {}
        self.marked: set[ShardId] = set()
        self.pending: list[Callable[[], None]] = []

    def write(self, change: Callable[[], None]) -> None:
        self.pending.append(change)

    def flush(self, count: int) -> None:
        for change in self.pending[:count]:
            change()
        del self.pending[:count]

    def lose_tail(self, shard: ShardId, count: int) -> None:
        """What had been synced is gone, without a word."""
        kept, stored = self.kept.get(shard), self.entries.get(shard, {})
        if kept is None or shard in self.marked:
            return
        last = max(kept.shape.base, kept.shape.end - count)
        kept.shape = kept.shape.cut(last)
        for index in [i for i in stored if i > last]:
            del stored[index]
        kept.hash = stored[last].hash if last in stored else b""

    def reopen(self) -> tuple[dict[ShardId, Kept], dict[ShardId, Copy]]:
        """What a new process finds."""
        kept: dict[ShardId, Kept] = {}
        copies: dict[ShardId, Copy] = {}
        for shard, found in self.kept.items():
            copy = Copy()
            if shard in self.marked:  # M7: it counts as empty
                kept[shard] = Kept(found.seen, marked=True)
            else:
                copy.entries = dict(self.entries.get(shard, {}))
                copy.base, copy.base_value = self.bases.get(shard, (0, ()))
                shape = found.shape
                last = copy.entries.get(shape.end)
                kept[shard] = Kept(found.seen, shape, last.hash if last else found.hash, shape.base)
            copies[shard] = copy
        return kept, copies


class Copy:
    """One shard's entries and state in one process."""

    def __init__(self) -> None:
        self.entries: dict[int, LogEntry] = {}
        self.base = 0
        self.base_value: Value = ()

    def value(self, index: int) -> Value:
        """The state after entry `index`."""
        found = list(self.base_value)
        for at in range(self.base + 1, index + 1):
            body = self.entries[at].body
            if body:
                found.append(int(body))
        return tuple(found)

    def log(self, end: int) -> list[tuple[int, int, bytes]]:
        """(index, epoch, body) of what is above the base."""
        return [
            (at, self.entries[at].epoch, self.entries[at].body)
            for at in range(self.base + 1, end + 1)
        ]
