"""Evening out loads with as few shifts as possible.

Stores have loads, and each a share between `low` and `high`. A shift takes one item from a store to
another. It is made only if it lowers the sum of squared misfits (what a load is above `high` or below
`low`), and from the fullest to the emptiest. So each shift serves a store that is over *and* one that is
under while there are both, and the number of shifts is the least there is: the greater of the two sums.

Where no item can go straight from one to the other, it goes in a chain: A gives one to B, and B another
one to C; the loads between stay as they are.

Always: terminates, as the sum of squares falls with every round; and where nothing is over or under,
nothing is shifted.
Source: Harvey et al., "Semi-Matchings for Bipartite Graphs and Load Balancing", 2003.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TypeVar

from roost_node.core.placement.shares import Share
from roost_node.core.record import StoreId

ItemT = TypeVar("ItemT", bound=Hashable)

Pick = Callable[[StoreId, StoreId], ItemT | None]
"""The item that would best go from the first store to the second, if any may."""


def even_out(
    load: Mapping[StoreId, int],
    shares: Mapping[StoreId, Share],
    pick: Pick[ItemT],
    shift: Callable[[ItemT, StoreId, StoreId], None],
) -> int:
    """Shift until no shift helps; `shift` must change `load`. Returns the number of shifts."""
    count = 0
    while True:
        chain = _direct(load, shares, pick) or _chain(load, shares, pick)
        if not chain:
            return count
        for item, giver, taker in chain:
            shift(item, giver, taker)
            count += 1


def misfit(load: int, share: Share) -> int:
    """How far a load is above (+) or below (-) its share."""
    return max(load - share.high, 0) + min(load - share.low, 0)


class _Need:
    """Who could give and who could take, at the loads of this moment."""

    def __init__(self, load: Mapping[StoreId, int], shares: Mapping[StoreId, Share]) -> None:
        self.order = sorted(  # the fullest first
            shares,
            key=lambda store: (
                -misfit(load[store], shares[store]),
                shares[store].exact - load[store],
                store,
            ),
        )
        squares = {
            store: [misfit(load[store] + by, share) ** 2 for by in (-1, 0, 1)]
            for store, share in shares.items()
        }
        self._giving = {store: before - after for store, (after, before, _) in squares.items()}
        self._taking = {store: before - after for store, (_, before, after) in squares.items()}

    def takers(self, giver: StoreId) -> list[StoreId]:
        """To whom a shift would help, the emptiest first."""
        gain = self._giving[giver]
        return [
            store
            for store in reversed(self.order)
            if gain + self._taking[store] > 0 and store != giver
        ]


def _direct(
    load: Mapping[StoreId, int], shares: Mapping[StoreId, Share], pick: Pick[ItemT]
) -> list[tuple[ItemT, StoreId, StoreId]]:
    need = _Need(load, shares)
    for giver in need.order:
        for taker in need.takers(giver):
            item = pick(giver, taker)
            if item is not None:
                return [(item, giver, taker)]
    return []


def _chain(
    load: Mapping[StoreId, int], shares: Mapping[StoreId, Share], pick: Pick[ItemT]
) -> list[tuple[ItemT, StoreId, StoreId]]:
    need = _Need(load, shares)
    for giver in need.order:
        takers = need.takers(giver)
        chain = _search(giver, takers, need.order, pick) if takers else []
        if chain:
            return chain
    return []


def _search(
    giver: StoreId, takers: Collection[StoreId], order: list[StoreId], pick: Pick[ItemT]
) -> list[tuple[ItemT, StoreId, StoreId]]:
    """The shortest chain from `giver` to one of `takers`, breadth first."""
    chains: dict[StoreId, list[tuple[ItemT, StoreId, StoreId]]] = {giver: []}
    queue = deque([giver])
    while queue:
        via = queue.popleft()
        for store in reversed(order):
            if store in chains:
                continue
            item = pick(via, store)
            if item is None or any(item == other for other, _, _ in chains[via]):
                continue  # one item twice in a chain: the second shift may no longer be legal
            chains[store] = [*chains[via], (item, via, store)]
            if store in takers:
                return chains[store]
            queue.append(store)
    return []
