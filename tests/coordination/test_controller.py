"""The elected controller over a store that fails, in simulated time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

import msgspec
import pytest

from coordination.town_hall import SOON_S, TTL_S, TownHall, plan_here, story
from roost.cluster.ids import ShardId
from roost_node.core.placement.plan import Situation
from roost_node.core.placement.starts import Budgets
from roost_node.core.placement.wish import Change
from roost_node.core.record import How, StoreId
from roost_node.ownership.controller import ControllerSettings
from roost_node.ownership.memory import Fate, storm

A, B, C, D = map(StoreId, "abcd")


def spread(hall: TownHall) -> int:
    counts = [hall.owners[name] for name in hall.nodes]
    return max(counts) - min(counts)


# --- creation


def test_a_new_cluster_waits_for_its_nodes_and_gives_each_its_share() -> None:
    async def run(hall: TownHall) -> None:
        for name in "abc":
            hall.join(name)
            await asyncio.sleep(0.8)
            assert hall.records == {}, "the next one comes within a second"
        await hall.eventually(hall.is_owned, within_s=SOON_S)
        assert spread(hall) == 0
        assert {frozenset(r.in_sync) for r in hall.records.values()} == {frozenset((A, B, C))}
        assert {r.how for r in hall.records.values()} == {How.CREATED}
        assert hall.leaders == ["a"]

    story(run)


def test_a_node_alone_is_given_everything_after_a_second() -> None:
    async def run(hall: TownHall) -> None:
        hall.join("a")
        await hall.eventually(hall.is_owned, within_s=2)
        assert {r.in_sync for r in hall.records.values()} == {(A,)}

    story(run)


def test_a_node_that_restarts_again_and_again_does_not_keep_a_cluster_from_being_created() -> None:
    async def run(hall: TownHall) -> None:
        hall.join("a")
        for _ in range(6):
            node = hall.join("b")
            await asyncio.sleep(0.4)
            if hall.is_owned():
                return
            node.die()
        raise AssertionError("it waited for b")

    story(run)


# --- failover


def test_the_shards_of_a_dead_node_are_served_again_at_once() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c", "d")
        victim = next(name for name in hall.nodes if hall.nodes[name] is not hall.leader)
        lost = {shard: r for shard, r in hall.records.items() if r.owner == victim}
        hall.kill(victim)
        await hall.eventually(hall.is_owned, within_s=SOON_S)
        for shard, before in lost.items():
            after = hall.records[shard]
            assert after.how is How.FAILOVER
            assert after.epoch == before.epoch + 1
            assert after.previous == before.session
            assert victim not in after.in_sync
            assert after.owner in before.in_sync, "F1"
        assert spread(hall) <= 1

    story(run)


def test_a_node_that_goes_silent_is_replaced_when_its_lease_is_over_also_if_it_led() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c", "d")
        leader = hall.leader
        hall.nodes.pop(leader.store).die()
        await asyncio.sleep(TTL_S / 2)
        assert hall.owners[leader.store] > 0, "O5: its session lives"
        await hall.eventually(hall.is_owned, within_s=TTL_S / 2 + 2 * SOON_S)
        await hall.eventually(lambda: hall.owners[leader.store] == 0, within_s=2 * TTL_S)
        assert hall.leader is not leader

    story(run)


def test_failovers_do_not_wait_for_a_plan_that_takes_long() -> None:
    thinking: list[Situation] = []

    async def think(situation: Situation, budgets: Budgets) -> tuple[Change, ...]:
        if D in situation.map.sessions:
            thinking.append(situation)
            await asyncio.sleep(1000)
        return await plan_here(situation, budgets)

    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        hall.join("d")
        await hall.eventually(lambda: bool(thinking))
        hall.kill("b" if hall.leader.store != B else "c")
        await hall.eventually(hall.is_owned, within_s=SOON_S)
        assert len(thinking) == 1

    story(run, planner=think)


def test_what_changed_while_a_plan_was_made_is_planned_for_at_once() -> None:
    async def think(situation: Situation, budgets: Budgets) -> tuple[Change, ...]:
        if D in situation.map.sessions:
            await asyncio.sleep(0.5)
        return await plan_here(situation, budgets)

    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        await asyncio.sleep(2)
        hall.join("d")
        await asyncio.sleep(0.2)
        hall.join("e")
        await hall.eventually(
            lambda: any("e" in wish.replicas for wish in hall.store.registry.wishes.values()),
            within_s=2,
        )

    story(run, planner=think, settings=ControllerSettings(look_every_s=1000))


def test_many_failovers_are_few_transactions() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        before, leader = hall.leader.requests["apply"], hall.leader
        hall.kill("b" if leader.store != B else "c")
        await hall.eventually(hall.is_owned, within_s=SOON_S)
        assert leader.requests["apply"] - before <= 2

    story(run, shards=512)


def test_one_shard_that_has_moved_on_does_not_hold_up_the_others() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        leader, victim = hall.leader, "b" if hall.leader.store != B else "c"
        leader.fates["apply"] = Fate(there_s=0.4)
        mine = [shard for shard, r in hall.records.items() if r.owner == victim]
        hall.kill(victim)
        await asyncio.sleep(0.2)  # the transaction is under way
        hall.put(mine[0], msgspec.structs.replace(hall.records[mine[0]], nonce=1))
        await asyncio.sleep(0.7)
        moved = [shard for shard in mine if hall.records[shard].owner != victim]
        assert moved == mine[1:], "one by one, before the next look"
        leader.fates.clear()
        await hall.eventually(hall.is_owned, within_s=SOON_S * 2)

    story(run)


# --- moves


def test_a_node_that_joins_gets_its_share_and_redundancy_never_falls() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        hall.history.clear()
        await hall.join_all("d")
        assert spread(hall) <= 1
        assert min(len(after.in_sync) for _, _, after in hall.history) == 3

    story(run)


def test_a_draining_node_ends_with_nothing() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c", "d")
        hall.nodes["d"].say(draining=True)
        await hall.eventually(lambda: all(D not in r.in_sync for r in hall.records.values()))
        await hall.eventually(hall.is_at_rest)
        assert all(len(r.in_sync) == 3 for r in hall.records.values())

    story(run)


def test_a_node_that_stays_away_is_replaced_after_its_grace_and_not_before() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c", "d")
        victim = "d" if hall.leader.store != D else "c"
        hall.kill(victim)
        await hall.eventually(hall.is_owned, within_s=SOON_S)
        wished = dict(hall.store.registry.wishes)
        await asyncio.sleep(50)
        assert hall.store.registry.wishes == wished
        await asyncio.sleep(15)
        assert all(len(r.in_sync) == 3 for r in hall.records.values())
        assert all(victim not in r.in_sync for r in hall.records.values())

    story(run)


def test_copies_begin_no_faster_than_their_bytes_are_allowed() -> None:
    settings = ControllerSettings(bytes_per_s=1000, budgets=Budgets(gain_min=0.01))

    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        hall.sizes = {ShardId(n): 2000 for n in range(24)}  # two seconds each
        loop = asyncio.get_running_loop()
        hall.join("d")
        await hall.are_here("d")
        starts: list[float] = []
        seen: set[ShardId] = set()
        while not hall.is_at_rest():
            wishes = hall.store.registry.wishes
            for shard in set(wishes) - seen:
                if wishes[shard].go and D in wishes[shard].replicas:
                    seen.add(shard)
                    starts.append(loop.time())
            await asyncio.sleep(0.05)
            assert loop.time() < 1_000_000
        assert len(starts) >= 12
        assert starts[-1] - starts[0] >= (len(starts) - 3) * 2

    story(run, settings=settings)


def test_at_rest_it_only_looks() -> None:
    plans: list[int] = []

    async def count(situation: Situation, budgets: Budgets) -> tuple[Change, ...]:
        plans.append(situation.map.revision)
        return await plan_here(situation, budgets)

    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        await asyncio.sleep(5)
        leader = hall.leader
        revision, made, reads = hall.store.registry.revision, len(plans), leader.requests["read"]
        await asyncio.sleep(100)
        assert hall.store.registry.revision == revision
        assert len(plans) == made
        assert leader.requests["read"] - reads <= 101

    story(run, planner=count)


# --- deposing


def test_a_node_that_holds_up_its_shards_is_deposed_and_others_take_over() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        victim = "b" if hall.leader.store != B else "c"
        others = tuple(name for name in hall.nodes if name != victim)
        before = hall.nodes[victim].session.session
        hall.nodes[victim].say(unreachable=others, stuck_on=others)
        for name in others:
            hall.nodes[name].say(unreachable=(victim,))
        await hall.eventually(lambda: hall.owners[victim] == 0, within_s=2)
        assert hall.is_owned()
        await hall.eventually(lambda: hall.nodes[victim].session.session != before)
        assert not hall.store.registry.deaths, "P6: it lives, and what was promised to it counts"

    story(run)


def test_others_have_time_to_say_what_they_see_before_the_next_one_is_deposed() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c", "d", "e")
        leader = hall.leader.store
        one, two, three, four = (name for name in hall.nodes if name != leader)
        loop = asyncio.get_running_loop()
        ended: dict[str, float] = {}
        before = {name: hall.nodes[name].session.session for name in hall.nodes}
        for stuck, member in ((one, two), (three, four)):
            hall.nodes[stuck].say(unreachable=(member,), stuck_on=(member,))
            hall.nodes[member].say(unreachable=(stuck,))
        while len(ended) < 2:
            await asyncio.sleep(0.01)
            for name, info in before.items():
                there = hall.store.registry.sessions.get(StoreId(name))
                if there is None or there.session != info:
                    ended.setdefault(name, loop.time())
        assert set(ended) == {one, three}
        assert abs(ended[one] - ended[three]) > 0.9

    story(run)


def test_a_deposed_node_is_replaced_at_once_though_hints_are_late() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        hall.leader.fates["hint"] = Fate(back_s=1000)
        await asyncio.sleep(5)
        victim, member = (name for name in hall.nodes if name != hall.leader.store)
        before = hall.nodes[victim].session.session
        hall.nodes[victim].say(unreachable=(member,), stuck_on=(member,))
        hall.nodes[member].say(unreachable=(victim,))
        await hall.eventually(lambda: victim not in hall.store.registry.sessions)
        assert hall.owners[victim] > 0
        await hall.eventually(lambda: hall.owners[victim] == 0, within_s=0.2)
        assert hall.nodes[victim].session.session == before, "it does not even know yet"

    story(run)


def test_a_node_that_is_cut_off_from_others_is_not_promoted_where_another_one_can_be() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c", "d")
        victim, cut, *others = sorted(hall.nodes, key=lambda name: name == hall.leader.store)
        hall.nodes[cut].say(unreachable=others)
        await asyncio.sleep(1)
        mine = [shard for shard, r in hall.records.items() if r.owner == victim]
        hall.kill(victim)
        await hall.eventually(hall.is_owned, within_s=SOON_S)
        assert {hall.records[shard].owner for shard in mine} == set(others)

    story(run)


# --- failures


@pytest.mark.parametrize("how", ["stop", "freeze"])
def test_after_an_outage_of_the_store_it_does_what_was_left_to_do(how: str) -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c", "d")
        victim = "d" if hall.leader.store != D else "c"
        getattr(hall.store, how)()
        hall.nodes.pop(victim).die()
        await asyncio.sleep(600)
        assert hall.owners[victim] > 0
        hall.store.resume()
        await hall.eventually(lambda: hall.owners[victim] == 0, within_s=TTL_S + 3)
        assert hall.is_owned()

    story(run)


def test_an_unanswered_failover_is_looked_at_again() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        leader, victim = hall.leader, "b" if hall.leader.store != B else "c"
        leader.fates["apply"] = Fate(answer_lost=True)
        hall.kill(victim)
        await hall.eventually(hall.is_owned, within_s=SOON_S)
        leader.fates["apply"] = Fate(request_lost=True)
        await asyncio.sleep(5)
        leader.fates.clear()
        assert hall.leaders == [leader.store]
        assert {r.epoch for r in hall.records.values()} == {1, 2}, "once each"

    story(run)


def deposed_while_acting(act: Callable[[TownHall], None], hall_check: str) -> None:
    """Its transaction is under way for five seconds; meanwhile its session ends and another one leads."""

    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c", "d")
        old = hall.leader
        await asyncio.sleep(1)
        old.fates["apply"] = Fate(there_s=5)
        act(hall)
        await asyncio.sleep(0.3)
        old.coordinator.is_cut = True
        hall.store.end_session(old.session.session)
        await hall.eventually(lambda: hall.store.registry.controller is not None, within_s=3)
        assert hall.leader is not old
        await asyncio.sleep(3)
        before = getattr(hall.store.registry, hall_check)
        there = dict(before)
        await asyncio.sleep(5)
        assert dict(getattr(hall.store.registry, hall_check)) == there, "it came late"

    story(run)


def test_what_a_deposed_controller_sends_late_promotes_nobody() -> None:
    def act(hall: TownHall) -> None:
        hall.kill(next(name for name in "abcd" if name != hall.leader.store))

    deposed_while_acting(act, "shards")


def test_what_a_deposed_controller_sends_late_wishes_nothing() -> None:
    def act(hall: TownHall) -> None:
        name = next(name for name in "abcd" if name != hall.leader.store)
        hall.nodes[name].say(draining=True)
        asyncio.get_running_loop().call_later(1, hall.nodes[name].say)

    deposed_while_acting(act, "wishes")


def test_it_stops_when_its_session_is_gone() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        old = hall.leader
        hall.store.end_session(old.session.session)
        await hall.eventually(lambda: not old.controller.is_leader, within_s=SOON_S)
        await hall.eventually(lambda: len(hall.leaders) == 1, within_s=SOON_S)
        await hall.eventually(hall.is_at_rest)

    story(run)


def test_it_stops_when_another_one_was_elected() -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        old = hall.leader
        await old.coordinator.resign(old.session.session)  # as an operator might, by hand
        await hall.eventually(lambda: not old.controller.is_leader, within_s=SOON_S)
        await hall.eventually(lambda: len(hall.leaders) == 1, within_s=3)

    story(run)


def test_one_that_fails_lets_another_one_try(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(situation: Situation, budgets: Budgets) -> tuple[Change, ...]:
        if asyncio.get_running_loop().time() < 1010:
            raise AssertionError("a plan that cannot be")
        return await plan_here(situation, budgets)

    async def run(hall: TownHall) -> None:
        led: set[str] = set()
        for name in "abc":
            hall.join(name)
        while not hall.is_owned():
            led.update(hall.leaders)
            await asyncio.sleep(0.01)
        assert len(led) > 1
        assert "the controller failed" in caplog.text

    story(run, planner=broken)


@pytest.mark.parametrize("leader_dies", [False, True])
def test_a_store_that_went_back_in_time_is_not_acted_on(
    leader_dies: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(hall: TownHall) -> None:
        await hall.join_all("a", "b", "c")
        backup = hall.store.backup()
        await hall.join_all("d")
        hall.kill("c" if hall.leader.store != C else "b")
        await hall.eventually(hall.is_owned)
        if leader_dies:  # the next one has read nothing newer, but been told of it
            hall.nodes.pop(hall.leader.store).die()
        hall.store.restore(backup)
        before = hall.changes_sent()
        with caplog.at_level(logging.CRITICAL):
            await asyncio.sleep(30)  # the sessions of the backup run out
        assert not hall.is_owned(), "there is something to do"
        assert hall.changes_sent() == before
        alarms = [r for r in caplog.records if "gone back in time" in r.message]
        assert len(alarms) == 1, "loudly, and once"
        config = hall.store.registry.config
        assert config is not None
        hall.store.registry.config = msgspec.structs.replace(config, generation=2)
        await hall.eventually(hall.is_owned)

    story(run)


@pytest.mark.parametrize("seed", range(8))
def test_in_any_weather_every_failover_is_legal_and_all_is_well_in_the_end(seed: int) -> None:
    async def run(hall: TownHall) -> None:
        random = Random(seed)
        for name in "abcde":
            hall.join(name, zone=f"z{ord(name) % 3}")
        await hall.eventually(hall.is_at_rest)
        bad = storm(random, late=0.3, lost=0.2, slow_s=1.0)
        for node in hall.nodes.values():
            node.weather = bad
        for _ in range(12):
            await asyncio.sleep(random.random() * 5)
            name = random.choice("abcde")
            what = random.choice(["restart", "end", "cut", "freeze", "break"])
            node = hall.nodes[name]
            if what == "restart":
                node.die()
                hall.join(name, zone=f"z{ord(name) % 3}").weather = bad
            elif what == "end":
                hall.store.end_session(node.session.session)
            elif what == "cut":
                node.coordinator.is_cut = not node.coordinator.is_cut
            elif what == "freeze":
                hall.store.freeze()
                asyncio.get_running_loop().call_later(random.random() * 8, hall.store.resume)
            else:
                hall.store.break_watches()
        for node in hall.nodes.values():
            node.weather, node.coordinator.is_cut = None, False
        await asyncio.sleep(8)  # until nothing is frozen
        await hall.eventually(hall.is_at_rest, within_s=120)
        await hall.eventually(lambda: len(hall.leaders) == 1, within_s=3)
        for _, before, after in hall.history:
            if before is not None and after.how is How.FAILOVER and after.epoch > before.epoch:
                assert after.owner in before.in_sync, "F1"

    story(run)
