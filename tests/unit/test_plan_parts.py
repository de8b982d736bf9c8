"""The parts of placement: the roster, shares, evening out, an owner's steps, the preview."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planning.town import WIDE, Town
from roost.cluster.ids import ShardId
from roost_node.core.placement.allowance import Allowance
from roost_node.core.placement.balance import even_out, misfit
from roost_node.core.placement.bundles import bundled
from roost_node.core.placement.preview import Load, preview
from roost_node.core.placement.ring import Spot
from roost_node.core.placement.roster import GRACE_MS, Place, Roster, Standing
from roost_node.core.placement.shares import Share, copy_shares, zone_limits
from roost_node.core.placement.starts import Budgets, Goal, begin
from roost_node.core.placement.wish import (
    AddLearner,
    DropReplica,
    SetTarget,
    Step,
    Why,
    next_step,
)
from roost_node.core.record import (
    OPERATIONS_MAX,
    ClusterConfig,
    Epoch,
    Guard,
    How,
    Map,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Versioned,
    Wish,
)
from roost_node.core.timeline import Timeline

A, B, C, D = (StoreId(name) for name in "abcd")
READY = {A, B, C, D}


# ---------------------------------------------------------------------------- roster


def info(store: StoreId, *, draining: bool = False, stopping: bool = False) -> SessionInfo:
    return SessionInfo(store, SessionId(7), "", "z", 50, draining=draining, stopping=stopping)


def test_a_store_without_a_session_is_away_then_gone() -> None:
    roster = Roster()
    roster.on_map({A: info(A)}, [A], 1000)
    assert roster.places(1000)[A].standing is Standing.LIVE
    roster.on_map({}, [A], 2000)
    place = roster.places(1999 + GRACE_MS)[A]
    assert (place.standing, place.zone, place.weight) == (Standing.AWAY, "z", 50)
    assert roster.next_change_ms() == 2000 + GRACE_MS
    assert roster.places(2000 + GRACE_MS)[A].standing is Standing.GONE


def test_a_store_that_comes_back_has_a_whole_grace_again() -> None:
    roster = Roster()
    roster.on_map({}, [A], 0)
    roster.on_map({A: info(A)}, [A], 59_000)
    assert roster.places(59_000)[A].standing is Standing.LIVE
    assert roster.next_change_ms() is None
    roster.on_map({}, [A], 61_000)
    assert roster.places(61_000)[A].standing is Standing.AWAY


def test_a_store_that_was_told_to_leave_is_not_waited_for() -> None:
    roster = Roster()
    roster.on_map({A: info(A, draining=True), B: info(B, stopping=True)}, [A, B], 0)
    assert roster.places(0)[A].standing is Standing.DRAINING
    assert roster.places(0)[B].standing is Standing.STOPPING
    roster.on_map({}, [A, B], 1)
    assert roster.places(1)[A].standing is Standing.GONE
    assert roster.places(1)[B].standing is Standing.AWAY


def test_a_store_that_is_drained_because_it_is_lost_is_not_waited_for() -> None:
    roster = Roster()
    roster.on_map({A: info(A)}, [A], 0)
    roster.on_map({}, [A], 1)
    assert roster.places(1)[A].standing is Standing.AWAY
    roster.on_map({}, [A], 2, frozenset([A]))
    assert roster.places(2)[A].standing is Standing.GONE
    roster.on_map({}, [A], 3)
    assert roster.places(3)[A].standing is Standing.AWAY, "the order was taken back"


def test_a_store_that_nobody_names_is_forgotten() -> None:
    roster = Roster()
    roster.on_map({A: info(A)}, [A], 0)
    roster.on_map({}, [A], 1)
    roster.on_map({}, [], 2)
    assert roster.places(2) == {}


# ---------------------------------------------------------------------------- shares


spots = st.lists(
    st.tuples(st.sampled_from("xyz"), st.integers(1, 400)), min_size=1, max_size=9
).map(lambda ones: [Spot(StoreId(f"s{n}"), zone, w) for n, (zone, w) in enumerate(ones)])


@given(spots, st.integers(1, 4), st.sampled_from([1, 8, 100, 1024]))
def test_shares_are_all_there_is_to_share(members: list[Spot], copies: int, shards: int) -> None:
    copies = min(copies, len(members))
    shares = copy_shares(members, shards, copies)
    assert sum(share.exact for share in shares.values()) == pytest.approx(shards * copies)
    assert sum(share.low for share in shares.values()) <= shards * copies
    assert sum(share.high for share in shares.values()) >= shards * copies
    for zone, (least, most) in zone_limits(members, copies).items():
        here = sum(shares[spot.store].exact for spot in members if spot.zone == zone)
        assert shards * least - 1e-3 <= here <= shards * most + 1e-3
    assert all(share.high <= shards for share in shares.values())


def test_a_zone_of_few_stores_holds_as_many_copies_as_one_of_many() -> None:
    members = [Spot(StoreId(f"x{n}"), "x", 100) for n in range(4)] + [Spot(B, "y", 100)]
    shares = copy_shares(members, 100, 2)
    assert shares[B].exact == pytest.approx(100)
    assert shares[StoreId("x0")].exact == pytest.approx(25)


# ---------------------------------------------------------------------------- evening out


@given(st.lists(st.integers(0, 40), min_size=2, max_size=8))
def test_loads_are_evened_out_with_the_fewest_shifts(counts: list[int]) -> None:
    load = {StoreId(f"s{n}"): count for n, count in enumerate(counts)}
    share = Share(sum(counts) / len(counts))
    over = sum(max(count - share.high, 0) for count in counts)
    under = sum(max(share.low - count, 0) for count in counts)

    def shift(_: str, giver: StoreId, taker: StoreId) -> None:
        load[giver] -= 1
        load[taker] += 1

    shifts = even_out(load, dict.fromkeys(load, share), lambda *_: "any", shift)
    assert shifts == max(over, under)
    assert not any(misfit(count, share) for count in load.values())


def test_a_chain_reaches_a_store_that_no_item_can_go_to_directly() -> None:
    items = {A: {"1", "2"}, B: {"3"}, C: set[str]()}
    may = {("1", B), ("2", B), ("3", C)}
    load = {A: 2, B: 1, C: 0}

    def pick(giver: StoreId, taker: StoreId) -> str | None:
        return min((item for item in items[giver] if (item, taker) in may), default=None)

    def shift(item: str, giver: StoreId, taker: StoreId) -> None:
        items[giver].remove(item)
        items[taker].add(item)
        load[giver] -= 1
        load[taker] += 1

    assert even_out(load, dict.fromkeys(load, Share(1.0)), pick, shift) == 2
    assert items == {A: {"2"}, B: {"1"}, C: {"3"}}


# ---------------------------------------------------------------------------- an owner's steps


def step(
    in_sync: str, learners: str, owner: str, wish: str, *, go: bool = True, least: int = 1
) -> Step | None:
    """`wish`: its owner first."""
    record = ShardRecord(
        Epoch(3), StoreId(owner), SessionId(1), How.CREATED,
        tuple(map(StoreId, in_sync)), tuple(map(StoreId, learners)),
    )  # fmt: skip
    stores = tuple(map(StoreId, wish))
    return next_step(ShardId(1), record, Wish(stores[0], stores, go), READY, least)


def test_a_move_is_learner_then_in_sync_then_handoff_then_drop() -> None:
    assert step("ab", "", "a", "cb") == AddLearner(ShardId(1), C)
    assert step("ab", "c", "a", "cb") is None  # catching up
    assert step("abc", "", "a", "cb") == SetTarget(ShardId(1), C)
    assert step("abc", "", "c", "cb") == DropReplica(ShardId(1), A)
    assert step("bc", "", "c", "cb") is None


def test_nothing_is_begun_before_its_turn() -> None:
    assert step("ab", "", "a", "cb", go=False) is None


def test_no_member_is_dropped_before_another_has_its_data() -> None:
    assert step("ab", "c", "a", "ac") is None
    assert step("abc", "", "a", "ac") == DropReplica(ShardId(1), B)


def test_no_member_is_dropped_below_min_in_sync() -> None:
    assert step("ab", "", "a", "a", least=2) is None
    assert step("ab", "", "a", "a", least=1) == DropReplica(ShardId(1), B)


def test_a_learner_that_is_not_wanted_any_more_is_dropped() -> None:
    assert step("ab", "c", "a", "ab") == DropReplica(ShardId(1), C)


def test_a_store_that_is_not_ready_gets_nothing() -> None:
    record = ShardRecord(Epoch(1), A, SessionId(1), How.CREATED, (A, B))
    assert next_step(ShardId(1), record, Wish(A, (A, B, C), True), {A, B}, 1) is None
    assert next_step(ShardId(1), record, Wish(B, (A, B), True), {A}, 1) is None
    assert next_step(ShardId(1), record, None, READY, 1) is None


# ---------------------------------------------------------------------------- preview


def test_a_preview_tells_what_a_join_would_move() -> None:
    town = Town(64, 2)
    town.join_many(3)
    town.rest()
    town.join("new", "z0")
    sizes = {ShardId(n): 10 for n in range(64)}
    situation = town.situation
    shown = preview(msgspec.structs.replace(situation, sizes=sizes), WIDE)
    assert shown.before[StoreId("new")] == Load(0, 0)
    assert shown.after[StoreId("new")] == Load(16, 32)
    assert (shown.copies, shown.bytes) == (32, 320)
    assert shown.handoffs == 16
    assert all(not move.begun for move in shown.moves)
    assert [move.why for move in shown.moves] == sorted(move.why for move in shown.moves)
    before, after = shown.peaks()
    assert (before, after) == (22 * 4 / 64, 1.0)
    town.rest()
    assert preview(town.situation, WIDE).moves == ()
    assert {s: Load(town.owners[s], town.copies[s]) for s in shown.after} == shown.after


def test_a_preview_names_shards_that_wait_for_a_store() -> None:
    town = Town(8, 1)
    town.join_many(2)
    town.rest()
    lost = {shard for shard, record in town.records.items() if record.owner == "s00"}
    town.die("s00")
    town.wait()
    shown = preview(town.situation, WIDE)
    assert set(shown.waiting) == lost
    assert not [move for move in shown.moves if move.shard in lost]
    assert Why.REPAIR not in {move.why for move in shown.moves}


# ---------------------------------------------------------------------------- what begins


def test_the_most_urgent_begins_first() -> None:
    config = ClusterConfig("c", 4, b"", "blake2b-64", 2, 1)
    sessions = {store: SessionInfo(store, SessionId(1), "") for store in READY}
    layouts = {0: (A, B), 1: (A, B), 2: (A,)}
    map_ = Map(
        1,
        config,
        sessions,
        {},
        {
            ShardId(shard): Versioned(
                1, ShardRecord(Epoch(1), A, SessionId(1), How.CREATED, stores)
            )
            for shard, stores in layouts.items()
        },
    )
    goals = {
        ShardId(0): Goal(A, (A, C)),
        ShardId(1): Goal(B, (A, B)),
        ShardId(2): Goal(A, (A, B)),
    }
    places = dict.fromkeys(sorted(READY), Place(Standing.LIVE))
    changes = begin(goals, map_, places, {}, 1, Budgets(copies_max=1))
    assert [(change.shard, change.why, change.wish.go) for change in changes] == [
        (2, Why.REPAIR, True),
        (1, Why.HANDOFF, True),
        (0, Why.BALANCE, False),
    ]


# --- what a controller carries out


def test_changes_go_together_as_many_as_a_transaction_takes_and_in_their_order() -> None:
    town = Town(shards=512)
    town.join_many(3)
    town.rest()
    town.die("s00")
    leader = Guard(StoreId("s01"), town.map.sessions[StoreId("s01")].session, alive=True)
    changes = town.plan()
    assert len(changes) > 128
    bundles = bundled(changes, town.map, leader)
    assert len(bundles) == 2
    assert [c for bundle in bundles for c in bundle.changes] == list(changes)
    for bundle in bundles:
        wanted = bundle.transaction
        assert wanted.operations <= OPERATIONS_MAX
        assert leader in wanted.guards
        assert len(wanted.guards) == len(set(wanted.guards)) == 3
        assert [swap.shard for swap in wanted.swaps] == [c.shard for c in bundle.changes]
    apart = bundles[0].apart(town.map, leader)
    assert [bundle.changes for bundle in apart] == [(c,) for c in bundles[0].changes]


def test_bytes_are_allowed_again_as_time_passes_and_debts_are_waited_off() -> None:
    allowance = Allowance(1000, now_ms=0)
    assert allowance.left(5000) == 1000, "no more than a second's"
    allowance.take(2500)
    assert allowance.left(5000) == -1500
    assert allowance.left(6500) == 0
    assert allowance.left(6600) == 100


def test_a_store_that_went_back_is_believed_again_from_a_higher_generation_on() -> None:
    timeline = Timeline(generation=3)
    assert timeline.is_forward(3, 100)
    assert timeline.is_forward(3, 100)
    assert not timeline.is_forward(3, 99)
    assert not timeline.is_forward(3, 500), "it grows past what was seen, and is another history"
    assert not timeline.is_forward(2, 600)
    assert timeline.is_forward(4, 7)
    timeline.on_restored()
    assert not timeline.is_forward(4, 8)
