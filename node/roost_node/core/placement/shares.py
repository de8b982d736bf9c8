"""How many shards each store should hold: its fair share.

The picture: water poured into vessels as wide as the stores' weights. A vessel is full at one copy of every
shard, and a zone's vessels together at as many copies of a shard as the zone may hold; what does not fit
rises in the others. So with three zones and three copies each zone holds every shard once, however many
stores it has, and balance is a matter within the zone.

A share is a fraction; a store holds its floor or its ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from roost_node.core.placement.ring import Spot
from roost_node.core.record import StoreId

ROUNDS = 100  # halvings of the water level: more than a float tells apart
SLACK = 1e-6  # shares are sums of floats: a whole number stays one


class Share:
    """Between `low` and `high` shards, both inclusive."""

    __slots__ = ("exact", "high", "low")

    def __init__(self, exact: float) -> None:
        self.exact = exact
        self.low = math.floor(exact + SLACK)
        self.high = math.ceil(exact - SLACK)


def zone_limits(spots: Iterable[Spot], copies: int) -> dict[str, tuple[int, int]]:
    """The fewest and most copies of one shard in each zone, when they are spread as wide as can be."""
    sizes: dict[str, int] = {}
    for spot in spots:
        sizes[spot.zone] = sizes.get(spot.zone, 0) + 1
    level = 0
    while sum(min(size, level) for size in sizes.values()) < min(copies, sum(sizes.values())):
        level += 1
    return {zone: (min(size, level - 1), min(size, level)) for zone, size in sizes.items()}


def copy_shares(spots: Iterable[Spot], shards: int, copies: int) -> dict[StoreId, Share]:
    """Each store's fair share of `shards` with `copies` each. All must fit: copies <= stores."""
    zones: dict[str, list[Spot]] = {}
    for spot in sorted(spots):
        zones.setdefault(spot.zone, []).append(spot)
    limits = zone_limits([spot for members in zones.values() for spot in members], copies)

    def in_zone(zone: str, level: float) -> float:
        low, high = limits[zone]
        poured = sum(min(level * spot.weight, shards) for spot in zones[zone])
        return min(max(poured, shards * low), shards * high)

    level = _level(lambda level: sum(in_zone(zone, level) for zone in zones), shards * copies)
    shares: dict[StoreId, Share] = {}
    for zone, members in zones.items():
        shares |= _pour(members, in_zone(zone, level), shards)
    return shares


def owner_shares(spots: Iterable[Spot], shards: int) -> dict[StoreId, Share]:
    """Each store's fair share of owners: by weight alone, as every shard has one."""
    return _pour(sorted(spots), shards, shards)


def _pour(spots: list[Spot], total: float, most: int) -> dict[StoreId, Share]:
    def each(level: float) -> list[float]:
        return [min(level * spot.weight, most) for spot in spots]

    level = _level(lambda level: sum(each(level)), total)
    return {spot.store: Share(part) for spot, part in zip(spots, each(level), strict=True)}


def _level(volume: Callable[[float], float], total: float) -> float:
    """The lowest level at which the volume is `total`; `volume` grows with the level."""
    low, high = 0.0, max(1.0, total)  # every weight is at least 1
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if volume(middle) >= total else (middle, high)
    return high
