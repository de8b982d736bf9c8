"""How far logs may be cut (L6).

What is in the state is kept in the log for those who lack it: members, which acknowledge within a
second or are let go (M5), and learners: such as catch up, and such as were members until they stopped or
fell behind. All that is kept for learners alone shares one bound, because it is kept in memory, too.
Beyond it logs are cut where most is kept, and a snapshot serves their learners (M7). For these nothing more
is kept, until they have the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from roost.cluster.ids import ShardId

LEARNERS_BYTES_MAX = 64 * 1024 * 1024
"""Of one node's logs, for learners alone: a node that restarts catches up on so much without a snapshot."""


class Need(msgspec.Struct, frozen=True):
    """Up to where the log of a shard may be cut: with its learners' leave, and at the most."""

    shard: ShardId
    for_all: int
    for_members: int
    bytes: int  # of the entries between the two


def needed_from(applied: int, base: int, had: Iterable[int]) -> int:
    """Up to where a log may be cut that begins after `base`, for replicas that had it up to `had`.

    0: it has shown nothing yet. Whoever ended before `base` is served from the state.
    """
    return min([applied, *(index for index in had if index and index >= base)])


def bases(needs: Iterable[Need], bytes_max: int = LEARNERS_BYTES_MAX) -> dict[ShardId, int]:
    """Up to where each log is to be cut."""
    found: dict[ShardId, int] = {}
    kept_bytes = 0
    for need in sorted(needs, key=lambda need: need.bytes):
        kept_bytes += need.bytes
        found[need.shard] = need.for_all if kept_bytes <= bytes_max else need.for_members
    return found
