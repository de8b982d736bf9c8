"""Exactly once: has this request been seen, and what was the answer?

The record of a call that wrote is part of its entry, filed under the call's *first-sent* minute
(L5), so it lives and dies with the writes. This module decides about time and about the answers
that have no entry: a call that may write but wrote nothing (or failed) must still not run a second
time after its caller was answered, so its answer is kept in memory until its deadline; at the bound
of that memory the shell makes an entry instead.

Records are kept for the window whatever happens, so what they take is bounded at the door: beyond
the bound of a shard no call that may write is taken (`Kept`) until a bucket has been dropped.

Not here: finding a record (`host/activation.py` looks at appended entries, then at the state).
"""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

from roost_node.core.log import AHEAD_MS_MAX, DEDUP_WINDOW_MS

AnswerT = TypeVar("AnswerT")

MINUTE_MS = 60_000


class Age(enum.Enum):
    """What a request's first-sent time says."""

    FINE = 1
    EXPIRED = 2  # its record may be gone: it must never run
    AHEAD = 3  # its record would be kept too long, or forgotten too soon


def age_of(first_sent_ms: int, log_time_ms: int, now_ms: int, given_up_ms: int = 0) -> Age:
    """Judge a request id's time against the shard's log time (L5).

    `given_up_ms`: when records were lost with the shard's data (M8).
    """
    if first_sent_ms < log_time_ms - DEDUP_WINDOW_MS or first_sent_ms < given_up_ms:
        return Age.EXPIRED
    if first_sent_ms > (log_time_ms if log_time_ms > now_ms else now_ms) + AHEAD_MS_MAX:
        return Age.AHEAD
    return Age.FINE


def minute_of(first_sent_ms: int) -> int:
    """The bucket in which a request's record is filed."""
    return first_sent_ms // MINUTE_MS


def droppable_before(log_time_ms: int) -> int:
    """Every bucket below this minute has passed its end by the window: it may be deleted."""
    return max(0, log_time_ms - DEDUP_WINDOW_MS) // MINUTE_MS


class Kept:
    """Bytes of the records that one shard keeps, by the minute under which they are filed; bounded."""

    small_values = ("size_bytes", "_by_minute")
    __slots__ = ("_by_minute", "bytes_max", "size_bytes")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.size_bytes = 0
        self._by_minute: dict[int, int] = {}

    def add(self, minute: int, size_bytes: int) -> None:
        """A record was filed; one that replaces another counts beside it until both are dropped."""
        self.size_bytes += size_bytes
        self._by_minute[minute] = self._by_minute.get(minute, 0) + size_bytes

    def drop_before(self, minute: int) -> None:
        """Every bucket below `minute` was deleted: it gives its bytes back."""
        for filed in [filed for filed in self._by_minute if filed < minute]:
            self.size_bytes -= self._by_minute.pop(filed)

    @property
    def is_full(self) -> bool:
        """No call that may write can be taken."""
        return self.size_bytes >= self.bytes_max

    def room_in_ms(self, log_time_ms: int) -> int:
        """When the oldest bucket will have been dropped."""
        if not self._by_minute:
            return 0
        end_ms = (min(self._by_minute) + 1) * MINUTE_MS
        return max(0, end_ms + DEDUP_WINDOW_MS - log_time_ms)


class Answers(Generic[AnswerT]):
    """Answers without an entry, until the deadlines of their calls; bounded in count and bytes."""

    __slots__ = ("_answers", "_bytes_max", "_count_max", "_sweep_at_ms", "size_bytes")

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._answers: dict[tuple[bytes, bytes], tuple[AnswerT, int, int]] = {}
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._sweep_at_ms = 0
        self.size_bytes = 0

    def get(self, group: bytes, request_id: bytes) -> AnswerT | None:
        """The answer that this request got."""
        found = self._answers.get((group, request_id))
        return found[0] if found is not None else None

    def remember(
        self,
        group: bytes,
        request_id: bytes,
        answer: AnswerT,
        size_bytes: int,
        until_ms: int,
        now_ms: int,
    ) -> bool:
        """Keep an answer. False: the memory is full, make an entry of it instead."""
        if not self._has_room(size_bytes):
            if now_ms < self._sweep_at_ms:
                return False
            self._sweep(now_ms)
            self._sweep_at_ms = now_ms + 1000
            if not self._has_room(size_bytes):
                return False
        before = self._answers.get((group, request_id))
        self.size_bytes += size_bytes - (before[2] if before is not None else 0)
        self._answers[group, request_id] = (answer, until_ms, size_bytes)
        return True

    def expire(self, now_ms: int, steps_max: int) -> None:
        """Forget the eldest as far as their deadlines have passed: their duplicates are refused."""
        answers = self._answers
        for _ in range(min(steps_max, len(answers))):
            name = next(iter(answers))
            _, until_ms, size_bytes = answers[name]
            if until_ms > now_ms:
                return  # those behind it that are over are found by a sweep, when room is short
            del answers[name]
            self.size_bytes -= size_bytes

    def _has_room(self, size_bytes: int) -> bool:
        return len(self._answers) < self._count_max and (
            self.size_bytes + size_bytes <= self._bytes_max
        )

    def _sweep(self, now_ms: int) -> None:
        self._answers = {k: v for k, v in self._answers.items() if v[1] > now_ms}
        self.size_bytes = sum(size for _, _, size in self._answers.values())

    def __len__(self) -> int:
        return len(self._answers)
