"""The places of copies and owners, on paper: what the plan moves about before it wishes for anything.

A shard has a seat at each store that should hold a copy, and one of them is its owner's. Three rules say
where a seat may go:

- never two at one store;
- to another zone only where the shard has fewer seats: so its spread over zones never gets worse;
- never to a store that is not live;
- never, for balance, where an operator has said who is to own the shard.

Among the seats that may go, those without data go first, as they cost nothing yet; then followers' before
owners', as these need a handoff too (the other way round while ownership has to go the same way); then the
shard that prefers the new store most.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Mapping

from roost.cluster.ids import ShardId
from roost_node.core.placement.ring import Ring
from roost_node.core.placement.shares import Share
from roost_node.core.record import ShardRecord, StoreId

Rank = tuple[bool, bool, bool, int, int, ShardId]


class Seats:
    """A layout that is being worked on, with its counts."""

    __slots__ = (
        "_data", "_heaps", "_live", "_owner_shares", "_records", "_ring", "_version", "_zones",
        "copies", "held", "owned", "owner", "owners", "pins", "replicas",
    )  # fmt: skip

    def __init__(
        self,
        ring: Ring,
        zones: Mapping[StoreId, str],
        live: Container[StoreId],
        records: Mapping[ShardId, ShardRecord],
        owner_shares: Mapping[StoreId, Share],
        pins: Mapping[ShardId, StoreId] | None = None,
    ) -> None:
        """`zones`: of every store that may have a seat; `live`: those that may get new ones.

        `pins`: shards whose owner is given. Their seats count, and never move for balance.
        """
        self._ring = ring
        self._zones = zones
        self._live = live
        self._records = records
        self._owner_shares = owner_shares
        self.pins = pins or {}
        self.replicas: dict[ShardId, list[StoreId]] = {}
        self.owner: dict[ShardId, StoreId] = {}
        self.held: dict[StoreId, set[ShardId]] = {store: set() for store in zones}
        self.owned: dict[StoreId, set[ShardId]] = {store: set() for store in zones}
        self.copies: dict[StoreId, int] = dict.fromkeys(zones, 0)
        self.owners: dict[StoreId, int] = dict.fromkeys(zones, 0)
        self._data: dict[StoreId, set[ShardId]] = {store: set() for store in zones}
        for shard, record in records.items():
            for store in (*record.in_sync, *record.learners):
                if store in zones:
                    self._data[store].add(shard)
        self._version = 0
        self._heaps: dict[tuple[StoreId, StoreId, bool], tuple[int, list[Rank]]] = {}

    def copy(self) -> Seats:
        """The same layout, to try something on."""
        other = Seats(
            self._ring, self._zones, self._live, self._records, self._owner_shares, self.pins
        )
        for shard, replicas in self.replicas.items():
            other.seat(shard, replicas)
            other.give(shard, self.owner.get(shard))
        return other

    def has_data(self, shard: ShardId, store: StoreId) -> bool:
        """Whether this store holds (some of) the shard's entries already, as far as one can know."""
        # One that is away is no member any more, and yet it comes back with what it had.
        return store not in self._live or shard in self._data[store]

    def seat(self, shard: ShardId, stores: Iterable[StoreId]) -> None:
        """Add seats."""
        replicas = self.replicas.setdefault(shard, [])
        for store in stores:
            replicas.append(store)
            if shard not in self.pins:
                self.held[store].add(shard)
            self.copies[store] += 1
            self._version += 1

    def unseat(self, shard: ShardId, store: StoreId) -> None:
        """Take a seat away, and the ownership with it."""
        self.replicas[shard].remove(store)
        self.held[store].discard(shard)
        self.copies[store] -= 1
        self._version += 1
        if self.owner.get(shard) == store:
            self.give(shard, None)

    def give(self, shard: ShardId, store: StoreId | None) -> None:
        """Make a store the owner."""
        old = self.owner.pop(shard, None)
        if old is not None:
            self.owned[old].discard(shard)
            self.owners[old] -= 1
        if store is not None:
            self.owner[shard] = store
            if shard not in self.pins:
                self.owned[store].add(shard)
            self.owners[store] += 1

    def crowd(self, shard: ShardId, zone: str) -> int:
        """How many seats the shard has in a zone."""
        return sum(self._zones[store] == zone for store in self.replicas[shard])

    # ------------------------------------------------------------------ copies

    def vacancy(self, shard: ShardId, shares: Mapping[StoreId, Share]) -> StoreId | None:
        """The store for one more seat: least crowded zone, data, room, preference."""
        replicas = self.replicas[shard]
        crowds = dict.fromkeys(self._zones.values(), 0)
        for store in replicas:
            crowds[self._zones[store]] += 1
        free = [
            store
            for store in self._ring.preference(shard)
            if store not in replicas and store in self._live
        ]
        if not free:
            return None
        fewest = min(crowds[self._zones[store]] for store in free)
        free = [store for store in free if crowds[self._zones[store]] == fewest]
        free = [store for store in free if self.has_data(shard, store)] or free
        if shard not in self.owner:  # its new owner should find room too, or others must make it
            wanted = [s for s in free if self.copies[s] < shares[s].high and self._may_own_more(s)]
            free = wanted or free
        return _first_with_room(free, self.copies, shares)

    def _may_own_more(self, store: StoreId) -> bool:
        share = self._owner_shares.get(store)
        return share is not None and self.owners[store] < share.high

    def surplus(self, shard: ShardId, shares: Mapping[StoreId, Share]) -> StoreId:
        """The seat to give up: not pinned, most crowded zone, no data, not the owner's, the fullest store."""
        ranks = self._ring.ranks(shard)
        return max(
            self.replicas[shard],
            key=lambda store: (
                store != self.pins.get(shard),
                self.crowd(shard, self._zones[store]),
                not self.has_data(shard, store),
                store != self.owner.get(shard),
                self.copies[store] - shares[store].exact,
                ranks[store],
            ),
        )

    def fits(self, shard: ShardId, giver: StoreId, taker: StoreId) -> bool:
        """Whether the giver's seat may go to the taker."""
        if taker in self.replicas[shard]:
            return False
        old, new = self._zones[giver], self._zones[taker]
        return old == new or self.crowd(shard, new) < self.crowd(shard, old)

    def pick_free(self, giver: StoreId, taker: StoreId) -> ShardId | None:
        """The best shard to move a seat of that costs no copying."""
        if taker not in self._live:
            return None
        free = self.held[giver] & self._data[taker]
        if giver in self._live:
            free |= self.held[giver] - self._data[giver]
        if not free:
            return None  # nearly always
        with_owner = self._should_take_owner(giver, taker)
        return min(
            (shard for shard in free if self.fits(shard, giver, taker)),
            key=lambda shard: self._rank(shard, giver, taker, with_owner),
            default=None,
        )

    def pick(self, giver: StoreId, taker: StoreId) -> ShardId | None:
        """The best shard to move a seat of."""
        if taker not in self._live:
            return None
        with_owner = self._should_take_owner(giver, taker)
        version, heap = self._heaps.get((giver, taker, with_owner), (-1, []))
        while True:
            while heap:
                shard = heap[0][-1]
                if shard in self.held[giver] and self.fits(shard, giver, taker):
                    return shard
                heapq.heappop(heap)
            if version == self._version:
                return None
            version = self._version
            heap = [self._rank(s, giver, taker, with_owner) for s in self.held[giver]]
            heap = [rank for rank in heap if self.fits(rank[-1], giver, taker)]
            heapq.heapify(heap)
            self._heaps[giver, taker, with_owner] = (version, heap)

    def shift(self, shard: ShardId, giver: StoreId, taker: StoreId) -> None:
        """Move a seat; ownership moves with it."""
        is_owner = self.owner.get(shard) == giver
        self.unseat(shard, giver)
        self.seat(shard, (taker,))
        if is_owner:
            self.give(shard, taker)

    def _costs(self, shard: ShardId, giver: StoreId, taker: StoreId) -> bool:
        return self.has_data(shard, giver) and not self.has_data(shard, taker)

    def _should_take_owner(self, giver: StoreId, taker: StoreId) -> bool:
        """Whether ownership has to go the same way; two of a zone can often not hand off directly."""
        shares = self._owner_shares
        if giver not in shares or taker not in shares:
            return False
        return self.owners[giver] > shares[giver].low and self.owners[taker] < shares[taker].low

    def _rank(self, shard: ShardId, giver: StoreId, taker: StoreId, with_owner: bool) -> Rank:
        ranks = self._ring.ranks(shard)
        return (
            self._costs(shard, giver, taker),
            not self.has_data(shard, taker),
            (self.owner.get(shard) == giver) != with_owner,
            ranks[taker],
            -ranks[giver],
            shard,
        )

    # ------------------------------------------------------------------ owners

    def heir(self, shard: ShardId) -> StoreId | None:
        """The owner for a shard that has none: it is, or is in sync, or has room; then preference."""
        record, shares = self._records.get(shard), self._owner_shares
        able = [
            store
            for store in self._ring.preference(shard)
            if store in self.replicas[shard] and store in shares and store in self._live
        ]
        if record is not None:
            owner = record.owner
            if owner in able and self.owners[owner] < shares[owner].high:
                return owner
            able = [store for store in able if store in record.in_sync] or able
        return _first_with_room(able, self.owners, shares) if able else None

    def pick_owned(self, giver: StoreId, taker: StoreId) -> ShardId | None:
        """The best shard to change the owner of: no handoff more than before, in sync, most preferred."""
        if taker not in self._live:
            return None
        both = self.owned[giver] & self.held[taker]
        return min(both, key=lambda shard: self._owner_rank(shard, giver, taker), default=None)

    def pick_owned_free(self, giver: StoreId, taker: StoreId) -> ShardId | None:
        """The same, if its owner changes anyway."""
        shard = self.pick_owned(giver, taker)
        return None if shard is None or self._is_owner(shard, giver) else shard

    def shift_owned(self, shard: ShardId, giver: StoreId, taker: StoreId) -> None:
        """Change the owner."""
        assert self.owner[shard] == giver, "only an owner can hand a shard off"
        self.give(shard, taker)

    def _is_owner(self, shard: ShardId, store: StoreId) -> bool:
        record = self._records.get(shard)
        return record is not None and record.owner == store

    def _owner_rank(
        self, shard: ShardId, giver: StoreId, taker: StoreId
    ) -> tuple[bool, bool, bool, int, ShardId]:
        record = self._records.get(shard)
        return (
            self._is_owner(shard, giver),
            not self._is_owner(shard, taker),
            record is None or taker not in record.in_sync,
            self._ring.ranks(shard)[taker],
            shard,
        )


def _first_with_room(
    stores: list[StoreId], load: Mapping[StoreId, int], shares: Mapping[StoreId, Share]
) -> StoreId:
    """The first below its floor, else the first below its ceiling, else the least full."""
    for store in stores:
        if load[store] < shares[store].low:
            return store
    for store in stores:
        if load[store] < shares[store].high:
            return store
    return min(stores, key=lambda store: (load[store] - shares[store].exact, stores.index(store)))
