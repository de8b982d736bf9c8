"""Who owned each shard before: the last changes of owners that this node has seen.

For operators only, and in memory: a node that has just started knows the owners of now. A change that was
overtaken by the next one before the map was read again is not among them; epochs show the gap.

No record says why it was changed. But what makes a shard move is in the same map: an order, a store that is drained or
stops, a death. So the map that a node has when it sees the change tells why, unless that was taken back since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import Epoch, How, Map, ShardRecord, StoreId, Versioned

KEPT = 8
"""Of each shard."""


class Move(msgspec.Struct, frozen=True):
    """A shard got an owner."""

    epoch: Epoch
    owner: StoreId
    how: How
    seen_ms: int  # server time; 0: it was so when this node began to look
    why: str = ""  # for people; empty: there is no more to say, or it cannot be known


class Moves:
    """Of all shards of a cluster."""

    def __init__(self) -> None:
        self._moves: dict[ShardId, deque[Move]] = {}
        self._is_begun = False

    def on_records(
        self, records: Mapping[ShardId, Versioned], found: Map | None, now_ms: int
    ) -> None:
        """Records as they are, of some shards or of all, in any order; and the newest map there is."""
        for shard, versioned in records.items():
            record = versioned.record
            reason = ""
            moves = self._moves.get(shard)
            if moves is None:
                moves = self._moves[shard] = deque(maxlen=KEPT)
            elif record.epoch <= moves[-1].epoch:
                continue
            elif record.epoch == moves[-1].epoch + 1 and found is not None:
                reason = why(shard, record, moves[-1].owner, found)
            seen_ms = now_ms if self._is_begun else 0
            moves.append(Move(record.epoch, record.owner, record.how, seen_ms, reason))
        self._is_begun = True

    def of(self, shard: ShardId) -> Sequence[Move]:
        """The oldest first."""
        return tuple(self._moves.get(shard, ()))


def why(shard: ShardId, record: ShardRecord, before: StoreId, found: Map) -> str:
    """Why `record` is what came after an epoch of `before`."""
    if record.reborn == record.epoch:
        return "data was given up"  # M8
    if record.how is How.FAILOVER:
        died = record.previous in found.deaths  # P6
        return "its owner's process died" if died else "its owner was lost, or cut off"
    info = found.sessions.get(before)
    if info is None or info.stopping:
        return "its owner stopped"
    if info.short_of_disk:
        return "its owner's disk was nearly full"
    if info.draining:
        return "its owner was drained"
    if found.pins.get(shard) == record.owner:
        return "an operator's move"
    return "the plan's balance"
