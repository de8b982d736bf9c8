"""Is a history linearizable?

An operation took effect at one moment between its start and its end, if there is an order of all
operations of an object that respects those intervals and in which a sequential model gives every
result. Searched depth first with memory of (what is placed, state); objects are checked apart.

Source: Wing and Gong, "Testing and Verifying Concurrent Objects", 1993; the memory is Lowe's, 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

Model = Callable[[Any, Any], tuple[Hashable, Any]]
"""(state, operation) -> (state after it, its result)."""


@dataclass(frozen=True)
class Operation:
    """One call as its caller saw it. `end` None: it was never answered, so it may or may not count."""

    start: float
    end: float | None
    request: Any
    result: Any


def is_linearizable(history: Sequence[Operation], model: Model, initial: Hashable) -> bool:
    """Search for an order. Cost grows with how much overlaps, not with the history's length."""
    operations = sorted(history, key=lambda o: o.start)
    count = len(operations)
    # Placed operations: everything below `low`, and the set bits of `ahead` above it.
    seen: set[tuple[int, int, Hashable]] = set()
    stack: list[tuple[int, int, Hashable]] = [(0, 0, initial)]
    while stack:
        low, ahead, state = stack.pop()
        while ahead & 1:
            low, ahead = low + 1, ahead >> 1
        if low == count:
            return True
        if (low, ahead, state) in seen:
            continue
        seen.add((low, ahead, state))
        earliest_end = float("inf")
        for index in range(low, count):
            operation = operations[index]
            if operation.start > earliest_end:
                break
            if ahead >> (index - low) & 1:
                continue
            if operation.end is not None:
                earliest_end = min(earliest_end, operation.end)
        for index in range(low, count):
            operation = operations[index]
            if operation.start > earliest_end:
                break
            if ahead >> (index - low) & 1:
                continue
            placed = ahead | 1 << (index - low)
            if operation.end is None:
                stack.append((low, placed, state))  # it never took effect
            after, result = model(state, operation.request)
            if operation.end is None or result == operation.result:
                stack.append((low, placed, after))
    return False
