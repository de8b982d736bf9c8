"""A follower's half of a shard: which entries it takes, and what it may say that it has.

It listens to the highest epoch that it has seen, which is on its disk before anything depends on it
(O7), and to nobody below. It cuts its log only at an entry that *differs* from its owner's, never
because a message ends earlier (L1). What it acknowledges is on its disk (R1, L2).

These are decisions only: `replicas.py` holds a shard's facts (`Kept`), numbers the writes and sends
an acknowledgement when its write is durable.
"""

from __future__ import annotations

import msgspec

from roost_node.core.record import Epoch
from roost_node.core.replication.epochs import Shape
from roost_node.core.replication.messages import Append, LogEntry


class Incoming(msgspec.Struct, frozen=True):
    """A snapshot that an owner is sending."""

    epoch: Epoch
    shape: Shape
    hash: bytes


class Kept(msgspec.Struct):
    """What a node knows of its own copy of a shard, written or about to be."""

    seen: Epoch = Epoch(0)  # the highest epoch; lower ones are refused for good (O7)
    shape: Shape = Shape((), 0)
    hash: bytes = b""  # running hash at the end of the log
    commit: int = 0
    marked: bool = False  # a snapshot was begun and did not end: the copy counts as empty (M7)
    incoming: Incoming | None = None  # the snapshot that is under way


class Accepted(msgspec.Struct, frozen=True):
    """Cut after `cut` (-1: nothing), then append `entries`; our log matches up to `match`."""

    cut: int
    entries: tuple[LogEntry, ...]
    match: int


def listens_to(kept: Kept, epoch: Epoch) -> bool:
    """Is this the highest epoch that was seen, or a higher one (O7)?"""
    return epoch >= kept.seen


def accept(shape: Shape, message: Append) -> Accepted | None:
    """What an append means for a log of this shape; None: it does not follow it."""
    previous = message.previous_index
    if previous > shape.end or previous < shape.base:
        return None
    if previous > shape.base and shape.epoch_at(previous) != message.previous_epoch:
        return None
    for number, entry in enumerate(message.entries):
        if entry.index <= shape.end and shape.epoch_at(entry.index) == entry.epoch:
            continue  # we have it: (epoch, index) names one entry
        cut = entry.index - 1 if entry.index <= shape.end else -1  # L1: only at a difference
        return Accepted(cut, message.entries[number:], previous + len(message.entries))
    return Accepted(-1, (), previous + len(message.entries))


def after(shape: Shape, accepted: Accepted) -> Shape:
    """The log's shape once it is done."""
    if accepted.cut >= 0:
        shape = shape.cut(accepted.cut)
    for entry in accepted.entries:
        shape = shape.extended(entry.epoch, entry.index)
    return shape
