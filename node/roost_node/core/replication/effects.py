"""What the cores order the shell to do. Bodies of entries are the shell's: cores speak of indexes."""

from __future__ import annotations

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import Epoch, StoreId, Transaction, Versioned
from roost_node.core.replication.messages import LogEntry, ToFollower, ToOwner


class ToPeer(msgspec.Struct, frozen=True):
    """Say it on our stream to that node."""

    peer: StoreId
    message: ToFollower


class Reply(msgspec.Struct, frozen=True):
    """Say it on that node's stream to us; lost when the stream `stream` is gone."""

    peer: StoreId
    stream: int
    message: ToOwner


class SendEntries(msgspec.Struct, frozen=True):
    """Send an `Append` with entries (first .. last) of our log; none where first > last."""

    peer: StoreId
    shard: ShardId
    epoch: Epoch
    first: int
    last: int
    previous_epoch: Epoch
    commit: int


class SendFetched(msgspec.Struct, frozen=True):
    """Answer a `Fetch` with our entries after `after`, as many as fit into a message."""

    peer: StoreId
    stream: int
    shard: ShardId
    epoch: Epoch
    after: int


class SendSnapshot(msgspec.Struct, frozen=True):
    """Send our state as of the commit index, between `SnapshotBegin` and `SnapshotEnd`."""

    peer: StoreId
    shard: ShardId
    epoch: Epoch


class Write(msgspec.Struct, frozen=True):
    """Put this on the disk, in order; report `on_durable(number)` after the flush.

    `seen`: the highest epoch (O7). `mark`: True, first drop all that there is of the shard, and let it
    count as empty from now on; False, it counts again (M7). `cut`: drop the log after this index (-1:
    nothing), then append `entries`.
    """

    number: int
    shard: ShardId
    seen: Epoch
    cut: int = -1
    entries: tuple[LogEntry, ...] = ()
    mark: bool | None = None


class Commit(msgspec.Struct, frozen=True):
    """Entries up to `index` are committed: they may go into the state."""

    shard: ShardId
    index: int


class OpenEpoch(msgspec.Struct, frozen=True):
    """We own the shard: make the empty entry of `epoch` after `end`, then calls may run (R5)."""

    shard: ShardId
    epoch: Epoch
    end: int


class StartServing(msgspec.Struct, frozen=True):
    """The waits are over and the tail is committed: outputs may leave (R5)."""

    shard: ShardId
    epoch: Epoch


class StopCalls(msgspec.Struct, frozen=True):
    """A handoff begins: start no call, end or cancel those that run, then `on_quiet` (H1)."""

    shard: ShardId
    epoch: Epoch


class FallSilent(msgspec.Struct, frozen=True):
    """The handoff is proposed next: from here on nothing leaves (H1)."""

    shard: ShardId
    epoch: Epoch


class ResumeCalls(msgspec.Struct, frozen=True):
    """The handoff did not come about: calls run and outputs leave again."""

    shard: ShardId
    epoch: Epoch


class LoseShard(msgspec.Struct, frozen=True):
    """We own it no more: drop its activations, release nothing, tell callers to look elsewhere."""

    shard: ShardId
    epoch: Epoch


class SteppedDown(msgspec.Struct, frozen=True):
    """Our log ends where `to` has dropped it already: that store is asked to own the shard (L3).

    Our disk has lost what it had acknowledged: raise the alarm.
    """

    shard: ShardId
    epoch: Epoch
    to: StoreId
    end: int


class Moved(msgspec.Struct, frozen=True):
    """Another node owns it, by this record: tell those who ask us, so that they need not search."""

    shard: ShardId
    versioned: Versioned


class Change(msgspec.Struct, frozen=True):
    """Carry out a transaction on the record; report `on_change_answered(shard, token, ...)`."""

    shard: ShardId
    token: int
    transaction: Transaction


class ReadRecord(msgspec.Struct, frozen=True):
    """Read record and sessions linearizably, beginning now; report `on_news` with `token`."""

    shard: ShardId
    token: int


class Diverged(msgspec.Struct, frozen=True):
    """That replica's log has another hash at `index` than ours: raise the alarm, copy it anew."""

    shard: ShardId
    peer: StoreId
    index: int


Effect = (
    ToPeer
    | Reply
    | SendEntries
    | SendFetched
    | SendSnapshot
    | Write
    | Commit
    | OpenEpoch
    | StartServing
    | StopCalls
    | FallSilent
    | ResumeCalls
    | LoseShard
    | Moved
    | SteppedDown
    | Change
    | ReadRecord
    | Diverged
)
