"""The auditor's judgement: which copy of a shard's state is wrong.

Running hashes prove that two logs are equal, not that what lies on two disks still is. So an owner has a piece of a
shard's state hashed by itself and by every in-sync follower, each when its state is at one and the same entry: rows
after entry n are a function of entries up to n, so the hashes are equal, or a disk (or this code) is wrong.

Who is wrong is decided by a majority of the copies, and by nothing less: of two that differ nobody knows which. A
copy that cannot be read needs no majority, it says so itself.

Everybody stops at the same entry without a word more than the question: it names the end of the owner's log, and
what was said before it on a stream told of commits below that only. So a state that hears it is not past it yet.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec

from roost_node.core.record import ShardRecord, StoreId


class Outcome(enum.IntEnum):
    """What became of hashing a piece. The numbers are on the wire."""

    MISSED = 0  # not hashed this time: the state went past the entry or did not reach it, or there is no time for it
    HASHED = 1
    UNREADABLE = 2  # a block of it is not what was written: this copy is bad


class Finding(msgspec.Struct, frozen=True):
    """One store's."""

    outcome: Outcome
    digest: bytes = b""


class Verdict(msgspec.Struct, frozen=True):
    """What is known now of a piece."""

    compared: int = 0  # copies that were hashed
    differ: bool = False
    bad: tuple[StoreId, ...] = ()  # known to be wrong
    unreadable: tuple[StoreId, ...] = ()  # that said so themselves: bad ones, or undecided

    @property
    def is_alarm(self) -> bool:
        """Is anything wrong?"""
        return self.differ or bool(self.unreadable)


def judge(in_sync: Collection[StoreId], findings: Mapping[StoreId, Finding]) -> Verdict:
    """The copies that are bad: never all, and never one without a majority against it or its own word."""
    unreadable = tuple(s for s in in_sync if _outcome(findings, s) is Outcome.UNREADABLE)
    hashed = {s: findings[s].digest for s in in_sync if _outcome(findings, s) is Outcome.HASHED}
    counts = Counter(hashed.values()).most_common()
    if not counts:
        return Verdict(unreadable=unreadable)
    right, votes = counts[0]
    if len(counts) == 1:
        return Verdict(len(hashed), bad=unreadable, unreadable=unreadable)
    if 2 * votes <= len(in_sync) - len(unreadable):
        return Verdict(len(hashed), differ=True, unreadable=unreadable)
    odd = tuple(store for store, digest in hashed.items() if digest != right)
    return Verdict(len(hashed), differ=True, bad=(*unreadable, *odd), unreadable=unreadable)


def _outcome(findings: Mapping[StoreId, Finding], store: StoreId) -> Outcome:
    found = findings.get(store)
    return found.outcome if found is not None else Outcome.MISSED


def without(record: ShardRecord, bad: Sequence[StoreId], min_in_sync: int) -> ShardRecord | None:
    """The record without bad copies, as many as M3 lets go; None: it lets none go.

    They stay learners whose state is not to be trusted (M7): whoever owns the shard sends them a snapshot.
    """
    leaving = [store for store in bad if store in record.in_sync]
    leaving = leaving[: max(0, len(record.in_sync) - min_in_sync)]
    if not leaving:
        return None
    return msgspec.structs.replace(
        record,
        in_sync=tuple(store for store in record.in_sync if store not in leaving),
        learners=_union(record.learners, leaving),
        suspects=_union(record.suspects, leaving),
    )


def _union(some: Sequence[StoreId], more: Sequence[StoreId]) -> tuple[StoreId, ...]:
    return (*some, *(store for store in more if store not in some))
