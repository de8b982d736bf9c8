"""What nodes tell each other about shards. One stream from each owner's node to each other node.

A stream belongs to one session of the sender and keeps order; when it breaks, all that was said on it
is void, but for the promises: they run out by themselves (P1). Bodies of entries are opaque here.
"""

from __future__ import annotations

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import Epoch, ShardRecord
from roost_node.core.replication.audit import Outcome
from roost_node.core.replication.epochs import Shape


class LogEntry(msgspec.Struct, frozen=True, array_like=True):
    """One entry of a shard's log (L1), as it travels and as it is stored."""

    epoch: Epoch
    index: int
    previous_epoch: Epoch
    hash: bytes  # over everything up to here
    log_time_ms: int
    body: bytes  # the writes; empty for the first entry of an epoch


# -- owner to follower -------------------------------------------------------------------------


class Register(msgspec.Struct, frozen=True, tag=True):
    """I own this shard at this epoch: what comes from now on, and my heartbeats, are about it too."""

    shard: ShardId
    epoch: Epoch


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """Acknowledging it is a promise for every shard registered before it (P1)."""

    number: int


class Append(msgspec.Struct, frozen=True, tag=True):
    """Entries that follow (previous_index, previous_epoch), and how far the log is committed."""

    shard: ShardId
    epoch: Epoch
    previous_index: int
    previous_epoch: Epoch
    entries: tuple[LogEntry, ...]
    commit: int


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """Send me your entries after `after`: yours is the longest log (L3)."""

    shard: ShardId
    epoch: Epoch
    after: int


class SnapshotBegin(msgspec.Struct, frozen=True, tag=True):
    """The whole state as of `shape.end`, which is its base too, follows; forget what you had (M7)."""

    shard: ShardId
    epoch: Epoch
    shape: Shape
    hash: bytes


class SnapshotRows(msgspec.Struct, frozen=True, tag=True):
    """Some of the state; the shells' matter, the cores never see it."""

    shard: ShardId
    epoch: Epoch
    rows: tuple[tuple[bytes, bytes], ...]


class SnapshotEnd(msgspec.Struct, frozen=True, tag=True):
    """That was all of it."""

    shard: ShardId
    epoch: Epoch


class HandedOver(msgspec.Struct, frozen=True, tag=True):
    """I have handed the shard over, and this is its record now (H1): its new owner may begin at once."""

    shard: ShardId
    epoch: Epoch  # of the record
    revision: int
    record: ShardRecord


ToFollower = Register | Heartbeat | Append | Fetch | SnapshotBegin | SnapshotEnd | HandedOver


class Audit(msgspec.Struct, frozen=True, tag=True):
    """Hash a piece of the state as it is after entry `index`; the shells' matter, too."""

    shard: ShardId
    epoch: Epoch
    number: int  # of the question
    index: int
    start: bytes  # the first key of the piece
    bytes_max: int  # where it ends
    bytes_per_s: int  # how fast to go


FromOwner = ToFollower | SnapshotRows | Audit
"""What travels on a stream."""

# -- follower to owner -------------------------------------------------------------------------


class Registered(msgspec.Struct, frozen=True, tag=True):
    """I listen to this epoch (it is on my disk, O7), and this is my log."""

    shard: ShardId
    epoch: Epoch
    shape: Shape


class Refused(msgspec.Struct, frozen=True, tag=True):
    """I have seen a higher epoch of this shard: nothing of yours counts here any more (P2, O7)."""

    shard: ShardId
    epoch: Epoch  # the one that was refused
    seen: Epoch


class HeartbeatAck(msgspec.Struct, frozen=True, tag=True):
    """The promise (P1)."""

    number: int


class Appended(msgspec.Struct, frozen=True, tag=True):
    """My disk holds your log up to `index` (L2)."""

    shard: ShardId
    epoch: Epoch
    index: int
    hash: bytes


class Mismatch(msgspec.Struct, frozen=True, tag=True):
    """What you sent does not follow anything that I have; this is my log."""

    shard: ShardId
    epoch: Epoch
    shape: Shape


class Fetched(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Fetch`."""

    shard: ShardId
    epoch: Epoch
    entries: tuple[LogEntry, ...]


class Audited(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Audit`."""

    shard: ShardId
    epoch: Epoch
    number: int
    outcome: Outcome
    digest: bytes


ToOwner = Registered | Refused | HeartbeatAck | Appended | Mismatch | Fetched
FromFollower = ToOwner | Audited
"""What travels back."""
