"""Promises received: until when no other replica can speak in an owner's place (P3).

One `PeerCover` is what one other node has promised. Heartbeats are for all shards of a stream at once:
an acknowledgement covers the shards that were registered before the heartbeat was sent and were not
refused since. It counts from when the heartbeat was *sent*: the promise was made at some moment after.
"""

from __future__ import annotations

from collections import deque

from roost.cluster.ids import ShardId
from roost_node.core.replication.promises import LEASE_MS

MARGIN = 0.1
NEVER = -1


class PeerCover:
    """What one other node has promised to this session."""

    __slots__ = ("_acked", "_from", "_lease_ms", "_number", "_old_ms", "_sent")

    def __init__(self, lease_ms: int = LEASE_MS, margin: float = MARGIN) -> None:
        self._lease_ms = lease_ms - int(lease_ms * margin)
        self._number = 0
        self._sent: deque[tuple[int, int]] = deque()  # (number, when), not acknowledged
        self._acked: tuple[int, int] = (0, NEVER)
        self._from: dict[ShardId, int] = {}  # registered before the heartbeat of this number
        self._old_ms: dict[ShardId, int] = {}  # what streams that have broken were promised

    def register(self, shard: ShardId) -> None:
        """The shard was registered on the stream: later heartbeats are about it too."""
        self._from[shard] = self._number + 1

    def heartbeat(self, now_ms: int) -> int:
        """The number of the heartbeat that is sent now."""
        self._number += 1
        self._sent.append((self._number, now_ms))
        return self._number

    def on_acked(self, number: int) -> int:
        """A heartbeat was acknowledged; when it had been sent (NEVER: not one of ours)."""
        sent_ms = NEVER
        while self._sent and self._sent[0][0] <= number:
            found, when_ms = self._sent.popleft()
            if found == number:
                self._acked = (found, when_ms)
                sent_ms = when_ms
        return sent_ms

    def on_refused(self, shard: ShardId) -> None:
        """The node follows a higher epoch: whatever it had promised for the shard runs out."""
        until_ms = self.until_ms(shard)
        self._from.pop(shard, None)
        self._old_ms[shard] = until_ms

    def on_stream_lost(self) -> None:
        """A new stream starts with nothing registered; old promises run out by themselves (P1)."""
        self._old_ms = {shard: self.until_ms(shard) for shard in {*self._from, *self._old_ms}}
        self._from.clear()
        self._sent.clear()
        self._acked = (self._number, NEVER)

    def forget(self, shard: ShardId) -> None:
        """The shard is not owned here any more."""
        self._from.pop(shard, None)
        self._old_ms.pop(shard, None)

    def drop(self) -> None:
        """The clock stood still (a suspend): no promise can be trusted (P3)."""
        self._old_ms.clear()
        self._sent.clear()
        self._acked = (self._number, NEVER)

    def until_ms(self, shard: ShardId) -> int:
        """Until when the node's promise covers the shard; NEVER: not at all."""
        old_ms = self._old_ms.get(shard, NEVER)
        number, sent_ms = self._acked
        first = self._from.get(shard)
        if first is None or number < first or sent_ms == NEVER:
            return old_ms
        return max(old_ms, sent_ms + self._lease_ms)
