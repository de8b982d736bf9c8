"""How far logs are cut: nobody who may need entries is forgotten, and learners cost a bounded amount."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roost.cluster.ids import ShardId
from roost_node.core.replication.progress import Progress
from roost_node.core.replication.trimming import Need, bases, needed_from


def need(shard: int, for_all: int, for_members: int, size: int) -> Need:
    return Need(ShardId(shard), for_all, for_members, size)


def test_learners_hold_logs_back_as_long_as_all_of_them_fit() -> None:
    needs = [need(1, 10, 90, 500), need(2, 20, 95, 400), need(3, 70, 70, 0)]
    assert bases(needs, 900) == {1: 10, 2: 20, 3: 70}


def test_beyond_the_bound_the_log_of_which_most_is_kept_is_cut_first() -> None:
    needs = [need(1, 10, 90, 500), need(2, 20, 95, 400), need(3, 70, 70, 0)]
    assert bases(needs, 899) == {1: 90, 2: 20, 3: 70}
    assert bases(needs, 399) == {1: 90, 2: 95, 3: 70}


def test_a_log_is_kept_for_nobody_who_needs_a_snapshot_anyway() -> None:
    assert needed_from(90, 10, [40, 60]) == 40
    assert needed_from(90, 10, [10, 95]) == 10
    assert needed_from(90, 41, [40, 60]) == 60, "it was cut beyond the bound: 40 is of no use"
    assert needed_from(90, 0, [0]) == 90, "it has shown nothing yet"


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 1000))),
    st.integers(0, 3000),
)
def test_what_is_kept_for_learners_never_passes_the_bound(
    sizes: list[tuple[int, int, int]], bytes_max: int
) -> None:
    needs = [need(n, min(a, b), max(a, b), size) for n, (a, b, size) in enumerate(sizes)]
    found = bases(needs, bytes_max)
    held = [one for one in needs if found[one.shard] < one.for_members]
    assert sum(one.bytes for one in held) <= bytes_max
    assert all(one.for_all <= found[one.shard] <= one.for_members for one in needs)


def test_what_a_replica_had_is_remembered_when_its_stream_breaks() -> None:
    progress = Progress(0)
    progress.follow(40, 0)
    progress.acknowledged(30, 40, 1)
    progress.reset()
    assert (progress.match, progress.kept_from) == (0, 30)
    progress.acknowledged(20, 40, 2)
    assert progress.kept_from == 30, "it shows more soon, or is served from the state"
