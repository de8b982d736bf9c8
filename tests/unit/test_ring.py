"""The ring: each shard's stores in order of preference."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from roost.cluster.ids import ShardId
from roost_node.core.placement.ring import Ring, Spot, ring_of
from roost_node.core.record import StoreId


def spots(count: int, zones: int = 1, weight: int = 100) -> frozenset[Spot]:
    return frozenset(Spot(StoreId(f"s{i:02}"), f"z{i % zones}", weight) for i in range(count))


memberships = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from("abc"), st.integers(1, 2000)),
    min_size=1,
    max_size=12,
    unique_by=lambda one: one[0],
).map(lambda ones: frozenset(Spot(StoreId(f"s{n}"), zone, weight) for n, zone, weight in ones))


@given(memberships, st.integers(0, 4095))
def test_a_shard_prefers_every_store_once(members: frozenset[Spot], shard: int) -> None:
    ring = Ring(members)
    preference = ring.preference(ShardId(shard))
    assert sorted(preference) == sorted(spot.store for spot in members)
    assert ring.ranks(ShardId(shard)) == {store: i for i, store in enumerate(preference)}


@given(memberships, st.integers(0, 4095))
def test_distinct_zones_come_first(members: frozenset[Spot], shard: int) -> None:
    zones = {spot.store: spot.zone for spot in members}
    first = Ring(members).preference(ShardId(shard))[: len(set(zones.values()))]
    assert len({zones[store] for store in first}) == len(first)


@given(st.integers(2, 12), st.integers(0, 11), st.integers(0, 4095))
def test_a_store_that_goes_leaves_the_order_of_the_others(n: int, gone: int, shard: int) -> None:
    everyone = spots(n)
    store = sorted(everyone)[gone % n].store
    before = Ring(everyone).preference(ShardId(shard))
    after = Ring(frozenset(s for s in everyone if s.store != store)).preference(ShardId(shard))
    assert [s for s in before if s != store] == list(after)


def test_a_heavier_store_is_preferred_in_proportion() -> None:
    members = spots(3) | {Spot(StoreId("big"), "z0", 300)}
    firsts = Counter(Ring(members).preference(ShardId(n))[0] for n in range(4096))
    assert 0.4 < firsts[StoreId("big")] / 4096 < 0.6  # its part is 1/2


def test_a_ring_without_stores_prefers_none() -> None:
    assert Ring(frozenset()).preference(ShardId(1)) == ()


def test_the_ring_of_a_membership_is_kept() -> None:
    assert ring_of(spots(5)) is ring_of(spots(5))


def test_every_process_has_the_same_ring() -> None:
    program = (
        "from roost_node.core.placement.ring import Ring, Spot;"
        "r = Ring(frozenset(Spot(f's{i:02}', f'z{i % 2}', 100) for i in range(7)));"
        "print([r.preference(n) for n in range(64)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    here = Ring(spots(7, zones=2))
    assert printed == {f"{[here.preference(ShardId(n)) for n in range(64)]}\n"}
