"""Many changes in few transactions.

A dead node of a hundred shards is a hundred failovers: one transaction for each would be a hundred syncs of
the coordination store's disk. So changes go together, as many as a transaction takes, under the guards of
all of them. If one of the conditions does not hold nothing happens, and whoever carries them out tries them
one by one.

Each is also guarded by the controller's own session: once that is gone another node may lead, and what the old
controller sends late must not touch wishes, which compare nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from roost_node.core.placement.wish import Change, transaction
from roost_node.core.record import OPERATIONS_MAX, Guard, Map, Transaction


class Bundle(msgspec.Struct, frozen=True):
    """Changes that are carried out together or not at all."""

    changes: tuple[Change, ...]
    transaction: Transaction

    def apart(self, map_: Map, leader: Guard) -> list[Bundle]:
        """Each change by itself."""
        return [bundle for change in self.changes for bundle in bundled((change,), map_, leader)]


def bundled(changes: Iterable[Change], map_: Map, leader: Guard) -> list[Bundle]:
    """The changes, in their order, as of the map that they were planned on."""
    found: list[Bundle] = []
    taken: list[Change] = []
    together = Transaction(guards=(leader,))
    for change in changes:
        grown = _joined(together, transaction(change, map_))
        if grown.operations > OPERATIONS_MAX:
            found.append(Bundle(tuple(taken), together))
            taken, grown = [], _joined(Transaction(guards=(leader,)), transaction(change, map_))
        taken.append(change)
        together = grown
    if taken:
        found.append(Bundle(tuple(taken), together))
    return found


def _joined(one: Transaction, other: Transaction) -> Transaction:
    guards = dict.fromkeys((*one.guards, *other.guards))
    return Transaction(
        swaps=one.swaps + other.swaps, guards=tuple(guards), wishes=one.wishes + other.wishes
    )
