from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.cluster.ids import HASH_NAME, shard_of
from roost.cluster.shard_map import Shape, ShardMap, ShardRecord
from roost.errors import RoostError

SHAPE = Shape("c", HASH_NAME, b"seed", 4)

records = st.builds(
    ShardRecord,
    shard=st.integers(0, 5),  # two of them are of no shard that there is
    epoch=st.integers(1, 4),
    owner=st.sampled_from("abc"),
    address=st.sampled_from(("h:1", "h:2")),
    in_sync=st.sampled_from((("a",), ("a", "b"))),
    change=st.integers(0, 2),
)


def merged(news: list[ShardRecord]) -> list[ShardRecord]:
    shards = ShardMap(SHAPE)
    for record in news:
        shards.merge([record])
    return list(shards)


@given(st.lists(records, max_size=30), st.randoms(use_true_random=False))
def test_the_same_news_in_any_order_any_number_of_times_is_the_same_map(
    news: list[ShardRecord], rng: object
) -> None:
    again = [*news, *news[:7]]
    rng.shuffle(again)  # type: ignore[attr-defined]  # a random.Random
    assert merged(again) == merged(news)


@given(st.lists(records, max_size=30))
def test_an_epoch_never_goes_back(news: list[ShardRecord]) -> None:
    shards = ShardMap(SHAPE)
    for record in news:
        before = shards.record(record.shard)
        changed = shards.merge([record])
        after = shards.record(record.shard)
        if before is not None:
            assert after is not None
            assert (after.epoch, after.change) >= (before.epoch, before.change)
            assert (after == before) is (not changed)


def test_a_higher_epoch_replaces_a_lower_one_and_not_the_other_way() -> None:
    old, new = ShardRecord(1, 3, "a", "h:1", change=9), ShardRecord(1, 4, "b", "h:2")
    shards = ShardMap(SHAPE)
    assert shards.merge([old]) == [old]
    assert shards.merge([new]) == [new]
    assert shards.merge([old]) == []
    assert shards.record(1) == new


def test_within_an_epoch_the_later_change_counts() -> None:
    shards = ShardMap(SHAPE)
    shards.merge([ShardRecord(1, 3, "a", "h:1", ("a",), 8)])
    shards.merge([ShardRecord(1, 3, "a", "h:1", ("a", "b"), 7)])
    record = shards.record(1)
    assert record is not None
    assert record.in_sync == ("a",)


def test_names_fall_into_the_shards_that_the_nodes_use() -> None:
    shards = ShardMap(SHAPE)
    for key in ("a", "b", "ü"):
        for _ in range(2):  # found, then remembered
            assert shards.shard_of("Room", key) == shard_of("Room", key, seed=b"seed", shards=4)


@pytest.mark.parametrize(
    "shape",
    [
        Shape("c", "md5", b"", 4),
        Shape("c", HASH_NAME, b"", 3),
        Shape("c", HASH_NAME, b"", 0),
        Shape("c", HASH_NAME, b"", 8192),
    ],
)
def test_a_cluster_of_other_rules_is_refused(shape: Shape) -> None:
    with pytest.raises(RoostError):
        ShardMap(shape)
