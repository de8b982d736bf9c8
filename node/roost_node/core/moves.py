"""Who owned each shard before: the last changes of owners that this node has seen.

For operators only, and in memory: a node that has just started knows the owners of now. A change that was
overtaken by the next one before the map was read again is not among them; epochs show the gap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import Epoch, How, StoreId, Versioned

KEPT = 8
"""Of each shard."""


class Move(msgspec.Struct, frozen=True):
    """A shard got an owner."""

    epoch: Epoch
    owner: StoreId
    how: How
    seen_ms: int  # server time; 0: it was so when this node began to look


class Moves:
    """Of all shards of a cluster."""

    def __init__(self) -> None:
        self._moves: dict[ShardId, deque[Move]] = {}
        self._is_begun = False

    def on_records(self, records: Mapping[ShardId, Versioned], now_ms: int) -> None:
        """Records as they are, of some shards or of all; in any order."""
        for shard, versioned in records.items():
            record = versioned.record
            moves = self._moves.get(shard)
            if moves is None:
                moves = self._moves[shard] = deque(maxlen=KEPT)
            elif record.epoch <= moves[-1].epoch:
                continue
            seen_ms = now_ms if self._is_begun else 0
            moves.append(Move(record.epoch, record.owner, record.how, seen_ms))
        self._is_begun = True

    def of(self, shard: ShardId) -> Sequence[Move]:
        """The oldest first."""
        return tuple(self._moves.get(shard, ()))
