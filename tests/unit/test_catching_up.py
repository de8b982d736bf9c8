"""How fast learners come, in numbers for people."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from roost.cli.status import _catching_up, _moving
from roost.cluster.ids import ShardId, ranges
from roost.v1 import admin_pb2
from roost_node.core.overview import Behind
from roost_node.core.record import StoreId
from roost_node.core.replication.epochs import Shape
from roost_node.replication.catching_up import CatchingUp

SEVEN, B = ShardId(7), StoreId("b")


def owner(end: int, match: int | None) -> Any:
    progress = {}
    if match is not None:
        progress[B] = SimpleNamespace(match=match, snapshot=False, snapshot_bytes=0)
    members = SimpleNamespace(record=SimpleNamespace(learners=(B,)))
    return SimpleNamespace(members=members, progress=progress, shape=Shape((), end))


def test_the_rate_is_that_between_two_looks() -> None:
    replicas = SimpleNamespace(owners={SEVEN: owner(1000, None)})
    watched = CatchingUp(cast(Any, replicas), dict)
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


def test_a_snapshot_is_counted_in_bytes_of_about_what_the_shard_takes() -> None:
    there = owner(1000, 0)
    there.progress[B].snapshot = True
    replicas = SimpleNamespace(owners={SEVEN: there})
    watched = CatchingUp(cast(Any, replicas), lambda: {SEVEN: 5000})
    watched.look(10.0)
    assert watched.behind() == [Behind(SEVEN, B, 1000, 0.0, 0, 5000, 0.0)]
    there.progress[B].snapshot_bytes = 3000
    watched.look(12.0)
    assert watched.behind() == [Behind(SEVEN, B, 1000, 0.0, 3000, 5000, 1500.0)]
    there.progress[B].snapshot_bytes = 6000  # it was an estimate
    assert watched.behind() == [Behind(SEVEN, B, 1000, 0.0, 6000, 6000, 1500.0)]
    there.progress[B].snapshot, there.progress[B].match = False, 900
    assert watched.behind()[0].snapshot_of == 0


def learner(
    store: str, entries: int, rate: float, sent: int = 0, of: int = 0, speed: float = 0.0
) -> admin_pb2.LearnerBehind:
    return admin_pb2.LearnerBehind(
        store_id=store, entries=entries, entries_per_s=rate,
        snapshot_bytes=sent, snapshot_of=of, bytes_per_s=speed,
    )  # fmt: skip


def test_the_line_for_a_store_sums_its_shards_and_says_how_long_it_takes() -> None:
    lines = list(
        _catching_up(
            [learner("b" * 32, 4000, 300.0), learner("b" * 32, 1000, 200.0), learner("a", 5, 0)]
        )
    )
    assert lines == [
        "store a is catching up with 1 shard: 5 entries missing, 0/s, waiting",
        "store bbbbbbbb is catching up with 2 shards: 5,000 entries missing, 500/s, about 10 s left",
    ]


def test_the_line_tells_of_snapshots_what_has_come_of_how_much() -> None:
    two = [learner("a", 7, 0, 3_000_000, 5_000_000, 500_000), learner("a", 9, 0, 0, 4_000_000, 0)]
    assert list(_catching_up([*two, learner("a", 4, 2)])) == [
        "store a is catching up with 3 shards: 20 entries missing, 2/s; snapshots of 2 shards:"
        " 3.0 MB of about 9.0 MB, 0.5 MB/s, about 12 s left"
    ]


def test_a_store_that_is_away_is_not_said_to_catch_up() -> None:
    assert list(_catching_up([learner("a", 5, 0), learner("a", 1, 0)], {"a"})) == [
        "store a is away: 6 entries of 2 shards behind"
    ]


def test_shards_are_named_inranges() -> None:
    assert ranges([9, 0, 1, 2, 3, 7, 10, 1]) == "0-3, 7, 9-10"
    assert ranges([]) == ""


def test_moves_are_shown_by_how_far_they_are() -> None:
    def moving(owner: str, in_sync: str, wished: str, begun: bool = True) -> admin_pb2.ShardInfo:
        return admin_pb2.ShardInfo(
            owner=owner, in_sync=in_sync, wished_owner=wished[0], wished=wished, begun=begun
        )

    shards = [
        moving("a", "abc", "dbc", begun=False),
        moving("a", "abc", "dbc"),
        moving("b", "abc", "dbc"),
        moving("a", "abcd", "dbc"),
        moving("d", "abcd", "dbc"),
    ]
    assert list(_moving(shards)) == [
        "2 shards on the move: copied to d",
        "1 shard on the move: handed over to d",
        "1 shard on the move: old copies are let go",
        "1 shard on the move: waiting for others to arrive",
    ]
