"""What may enter an object.

One call at a time; calls that only read overlap with each other. Whoever cannot enter waits in one
queue, first come first served, so a waiting writer stops later readers. An interleaving call enters
for each stretch between two suspensions, and queues again like everybody else.

A *reentrant* call comes from a chain whose own calls are inside, suspended: it goes to the head of
the queue and is not stopped by those calls (`own_readers`), or the chain would wait for itself. They
may end while it waits, so each time that it could start they are counted anew.

Invariant: a writer inside is alone, except for readers of its own chain.
Source: fair readers-writer queue (Courtois et al., 1971, third problem).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


def _none() -> int:
    """Own readers of a call whose chain is not inside."""
    return 0


class InputGate(Generic[ItemT]):
    """Who is inside one object, and who waits."""

    __slots__ = ("_queue", "readers", "writing")

    def __init__(self) -> None:
        self.writing = False
        self.readers = 0
        self._queue: deque[tuple[ItemT, bool, Callable[[], int]]] | None = (
            None  # most objects never need one
        )

    def enter(self, item: ItemT, *, shared: bool) -> bool:
        """True: it is inside. False: it waits, and `leave` will return it."""
        if not self._queue and not self.writing:
            if shared:
                self.readers += 1
                return True
            if not self.readers:
                self.writing = True
                return True
        if self._queue is None:
            self._queue = deque()
        self._queue.append((item, shared, _none))
        return False

    def enter_reentrant(self, item: ItemT, *, shared: bool, own_readers: Callable[[], int]) -> bool:
        """Like `enter`; `own_readers` counts the shared places that its chain holds in here now."""
        if self._fits(shared, own_readers):
            self._admit(shared)
            return True
        if self._queue is None:
            self._queue = deque()
        self._queue.appendleft((item, shared, own_readers))
        return False

    def leave(self, *, shared: bool) -> list[ItemT]:
        """One that was inside is out. Returns those that are inside now."""
        if shared:
            assert self.readers > 0, "a reader left that had not entered"
            self.readers -= 1
        else:
            assert self.writing, "a writer left that had not entered"
            self.writing = False
        return self._next() if self._queue else []

    def withdraw(self, item: ItemT) -> list[ItemT]:
        """Take a waiting item back. Returns those that its leaving lets in."""
        queue = self._queue
        if queue:
            for entry in queue:
                if entry[0] is item:
                    queue.remove(entry)
                    return self._next()
        return []

    def drain(self) -> list[ItemT]:
        """Take back all that wait, in order."""
        items = [entry[0] for entry in self._queue or ()]
        self._queue = None
        return items

    @property
    def depth(self) -> int:
        """How many wait."""
        return len(self._queue) if self._queue else 0

    @property
    def is_idle(self) -> bool:
        """Nobody inside, nobody waiting."""
        return not (self.writing or self.readers or self._queue)

    def _fits(self, shared: bool, own_readers: Callable[[], int]) -> bool:
        return not self.writing and (shared or self.readers == own_readers())

    def _admit(self, shared: bool) -> None:
        if shared:
            self.readers += 1
        else:
            self.writing = True

    def _next(self) -> list[ItemT]:
        admitted: list[ItemT] = []
        queue = self._queue
        while queue:
            item, shared, own_readers = queue[0]
            if not self._fits(shared, own_readers):
                break
            queue.popleft()
            self._admit(shared)
            admitted.append(item)
        if not queue:
            self._queue = None
        return admitted
