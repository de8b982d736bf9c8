"""Which output may leave.

Nothing that an object says (reply, stream item, child call) may be seen before everything it could
have observed would survive the loss of this node (R1 to R3). So each output waits here for an index
of the shard's log, and leaves when the log is committed up to it. An output that has no entry of its
own (a read, a child call) also needs the owner's cover (R3): at one store cover is never missing.

Invariant: outputs that wait for the same index leave in the order in which they came; one that
waits for a lower index leaves no later than one that waits for a higher.
Not here: what becomes durable when (`log.py`, `host/committer.py`).
Source: external synchrony (Nightingale et al., "Rethink the Sync", 2006), here by shard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

OutputT = TypeVar("OutputT")


def always_covered() -> bool:
    """With nobody else in the in-sync set nobody can be promoted, and no promise is needed (P)."""
    return True


class OutputGate(Generic[OutputT]):
    """Outputs of one shard that wait for an index of its log."""

    __slots__ = ("_committed", "_held", "_is_covered", "_uncovered")

    def __init__(self, committed: int, is_covered: Callable[[], bool] = always_covered) -> None:
        self._committed = committed
        self._is_covered = is_covered
        self._held: dict[int, list[tuple[OutputT, bool]]] = {}
        self._uncovered: list[OutputT] = []  # committed, but cover is missing (R3, R4)

    def offer(self, index: int, output: OutputT, *, own_entry: bool) -> bool:
        """True: it may leave now. False: it is kept until `index` is committed and covered."""
        if index <= self._committed and not self._uncovered:
            if own_entry or self._is_covered():
                return True
            self._uncovered.append(output)
            return False
        held = self._held.get(index)
        if held is None:
            held = self._held[index] = []
        held.append((output, own_entry))
        return False

    def on_committed(self, index: int) -> list[OutputT]:
        """What may leave now that everything up to `index` is committed."""
        released: list[OutputT] = []
        covered: bool | None = None
        held = self._held
        for reached in range(self._committed + 1, index + 1):
            outputs = held.pop(reached, None)
            if outputs is None:
                continue
            for output, own_entry in outputs:
                if own_entry:
                    released.append(output)  # R2: no further check
                    continue
                if covered is None:
                    covered = self._is_covered()  # R3: asked after the execution
                if covered:
                    released.append(output)
                else:
                    self._uncovered.append(output)
        self._committed = max(self._committed, index)
        return released

    def on_covered(self) -> list[OutputT]:
        """Cover is back, or a read of the shard's record served instead (R4)."""
        released, self._uncovered = self._uncovered, []
        return released

    def waiting_count(self) -> int:
        """Outputs that may not leave yet."""
        return sum(map(len, self._held.values())) + len(self._uncovered)
