"""Which failure is sent again, where and when.

A router solves what has to do with *where*: an owner that is not the owner any more, that shuts down,
whose link broke. What has to do with *how much* (a node or disk that is full) goes to the caller, who
alone can ask for less; it comes back with the same request id. Every other answer is final.

| what came | then |
| --- | --- |
| NOT_OWNER | again, at once if the map names another owner, else after a pause, or as soon as it does |
| UNAVAILABLE | again after a pause; a call with callers' order at most `TRIES_IN_ORDER` times |
| broken link | again when the owner can be reached, all that were unfinished on it, in order |
| OVERLOADED, DISK_FULL, OUTCOME_UNKNOWN | to the caller, who may send it again (not if it is *final*) |
| anything else | to the caller, for good |

The bound on calls in order: a node refuses a call while an earlier one of its stub is missing, and
only the caller can send that one.
"""

from __future__ import annotations

import enum

from roost.wire.messages import Status

TRIES_IN_ORDER = 5
PAUSE_MS_MIN = 5
PAUSE_MS_MAX = 500

_MAY_COME_AGAIN = frozenset(
    (
        Status.UNAVAILABLE,
        Status.OVERLOADED,
        Status.DISK_FULL,
        Status.NOT_OWNER,
        Status.OUTCOME_UNKNOWN,
    )
)


class Verdict(enum.Enum):
    """What becomes of a call after an attempt failed."""

    AGAIN = 1  # nothing happened: the router sends it again
    BACK = 2  # the caller is told, and may send it again
    FINAL = 3  # the caller is told, and this call is over


def verdict(status: int, tries: int, *, in_order: bool, is_final: bool) -> Verdict:
    """`tries`: attempts made until now. `in_order`: the call has a place among its stub's.

    `is_final`: the node says that it will give no other answer.
    """
    if is_final:
        return Verdict.FINAL
    if status == Status.NOT_OWNER:
        return Verdict.AGAIN
    if status == Status.UNAVAILABLE:
        return Verdict.BACK if in_order and tries >= TRIES_IN_ORDER else Verdict.AGAIN
    return Verdict.BACK if status in _MAY_COME_AGAIN else Verdict.FINAL


def pause_ms(tries: int, jitter: float) -> int:
    """How long to wait before the next attempt at the same node; `jitter` is 0 to 1."""
    pause = min(PAUSE_MS_MAX, PAUSE_MS_MIN << min(tries, 10))
    return max(1, int(pause * (0.5 + jitter)))
