"""How fast learners come, in numbers for people."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from roost.cli.cluster import _catching_up, _ranges
from roost.cluster.ids import ShardId
from roost.v1 import admin_pb2
from roost_node.core.overview import Behind
from roost_node.core.record import StoreId
from roost_node.core.replication.epochs import Shape
from roost_node.replication.catching_up import CatchingUp

SEVEN, B = ShardId(7), StoreId("b")


def owner(end: int, match: int | None) -> Any:
    progress = {} if match is None else {B: SimpleNamespace(match=match)}
    members = SimpleNamespace(record=SimpleNamespace(learners=(B,)))
    return SimpleNamespace(members=members, progress=progress, shape=Shape((), end))


def test_the_rate_is_that_between_two_looks() -> None:
    replicas = SimpleNamespace(owners={SEVEN: owner(1000, None)})
    watched = CatchingUp(cast(Any, replicas))
    watched.look(10.0)
    assert watched.behind() == [Behind(SEVEN, B, 1000, 0.0)], "a snapshot, or not heard yet"
    replicas.owners[SEVEN] = owner(1000, 100)
    watched.look(12.0)
    replicas.owners[SEVEN] = owner(1200, 700)
    assert watched.behind() == [Behind(SEVEN, B, 500, 50.0)]
    watched.look(14.0)
    assert watched.behind() == [Behind(SEVEN, B, 500, 300.0)]
    replicas.owners[SEVEN] = owner(1200, 0)  # its stream broke: it shows anew what it has
    watched.look(16.0)
    assert watched.behind() == [Behind(SEVEN, B, 1200, 0.0)]
    replicas.owners.clear()
    watched.look(18.0)
    assert watched.behind() == []


def learner(store: str, entries: int, rate: float) -> admin_pb2.LearnerBehind:
    return admin_pb2.LearnerBehind(store_id=store, entries=entries, entries_per_s=rate)


def test_the_line_for_a_store_sums_its_shards_and_says_how_long_it_takes() -> None:
    lines = list(
        _catching_up(
            [learner("b" * 32, 4000, 300.0), learner("b" * 32, 1000, 200.0), learner("a", 5, 0)]
        )
    )
    assert lines == [
        "store a is catching up with 1 shards: 5 entries missing, 0/s, snapshots, or waiting",
        "store bbbbbbbb is catching up with 2 shards: 5,000 entries missing, 500/s, about 10 s left",
    ]


def test_a_store_that_is_away_is_not_said_to_catch_up() -> None:
    assert list(_catching_up([learner("a", 5, 0), learner("a", 1, 0)], {"a"})) == [
        "store a is away: 6 entries of 2 shards behind"
    ]


def test_shards_are_named_in_ranges() -> None:
    assert _ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3, 7, 9-10"
    assert _ranges([]) == ""
