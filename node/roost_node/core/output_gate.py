"""Which output may leave.

Nothing that an object says (reply, stream item, child call) may be seen before everything it could
have observed would survive the loss of this node (R1 to R3). So each output waits here for an index
of the shard's log, and leaves when the log is committed up to it. An output that has no entry of its
own (a read, a child call) also needs the owner's cover (R3): at one store cover is never missing.

A gate that is closed holds everything: a new owner has not waited out its promises yet (R5), or hands
the shard over (H1).

Invariant: outputs that wait for the same index leave in the order in which they came; one that
waits for a lower index leaves no later than one that waits for a higher.
Not here: what becomes durable when (`log.py`, `host/committer.py`).
Source: external synchrony (Nightingale et al., "Rethink the Sync", 2006), here by shard.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from operator import itemgetter
from typing import Generic, TypeVar

OutputT = TypeVar("OutputT")


def always_covered() -> bool:
    """With nobody else in the in-sync set nobody can be promoted, and no promise is needed (P)."""
    return True


class OutputGate(Generic[OutputT]):
    """Outputs of one shard that wait for an index of its log."""

    small_values = ("_committed",)
    __slots__ = ("_closed", "_committed", "_held", "_in_order", "_is_covered", "_uncovered")

    def __init__(
        self,
        committed: int,
        is_covered: Callable[[], bool] = always_covered,
        *,
        closed: bool = False,
    ) -> None:
        self._closed = closed
        self._committed = committed
        self._is_covered = is_covered
        self._held: list[tuple[int, OutputT, bool]] = []
        self._in_order = True  # no held output waits for less than one before it
        self._uncovered: list[OutputT] = []  # committed, but cover is missing (R3, R4)

    def offer(self, index: int, output: OutputT, *, own_entry: bool) -> bool:
        """True: it may leave now. False: it is kept until `index` is committed and covered."""
        if index <= self._committed and not self._uncovered and not self._closed:
            if own_entry or self._is_covered():
                return True
            self._uncovered.append(output)
            return False
        held = self._held
        if held and held[-1][0] > index:
            self._in_order = False
        held.append((index, output, own_entry))
        return False

    def on_committed(self, index: int) -> list[OutputT]:
        """What may leave now that everything up to `index` is committed."""
        if index > self._committed:
            self._committed = index
        held = self._held
        if not held or self._closed:
            return []
        index = self._committed
        if not self._in_order:
            held.sort(key=itemgetter(0))  # stable: first come, first out
            self._in_order = True
        count = len(held) if held[-1][0] <= index else bisect_right(held, index, key=itemgetter(0))
        leaving = held[:count]
        del held[:count]
        released: list[OutputT] = []
        covered: bool | None = None
        for _, output, own_entry in leaving:
            if own_entry:
                released.append(output)  # R2: no further check
                continue
            if covered is None:  # R3: asked after the execution; none overtakes one that waits
                covered = not self._uncovered and self._is_covered()
            if covered:
                released.append(output)
            else:
                self._uncovered.append(output)
        return released

    def on_covered(self, count: int | None = None) -> list[OutputT]:
        """Cover is back, or a read of the record served instead for the first `count` of them (R4)."""
        if self._closed:
            return []
        if count is None:
            count = len(self._uncovered)
        released, self._uncovered = self._uncovered[:count], self._uncovered[count:]
        if not self._uncovered:  # those that came while others waited for cover stand behind them
            released += self.on_committed(self._committed)
        return released

    def close(self) -> None:
        """Nothing leaves from now on."""
        self._closed = True

    def open(self) -> list[OutputT]:
        """Outputs may leave again: these may do so now."""
        self._closed = False
        return self.on_committed(self._committed)

    def give_up(self) -> list[tuple[OutputT, bool]]:
        """The shard is lost: everything that waits, and whether it had an entry of its own."""
        waiting = [(output, False) for output in self._uncovered]
        waiting += [(output, own_entry) for _, output, own_entry in self._held]
        self._uncovered, self._held = [], []
        self._closed = True
        return waiting

    @property
    def uncovered_count(self) -> int:
        """Outputs that wait for nothing but cover."""
        return len(self._uncovered)

    def waiting_count(self) -> int:
        """Outputs that may not leave yet."""
        return len(self._held) + len(self._uncovered)
