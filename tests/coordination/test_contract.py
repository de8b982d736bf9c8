"""What every coordination store must do, told to both of ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from coordination.places import Place, until
from roost.cluster.ids import HASH_NAME, ShardId
from roost_node.core.record import (
    NO_SESSION,
    OPERATIONS_MAX,
    ClusterConfig,
    DeathRecord,
    Epoch,
    Event,
    Guard,
    How,
    Leader,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Swap,
    Transaction,
    Versioned,
    Wish,
    batches,
)
from roost_node.ownership.coordinator import (
    Changed,
    Coordinator,
    CoordinatorRefusedError,
    ForeignClusterError,
    Hint,
    Relist,
    SessionGoneError,
)

A, B, C = StoreId("a"), StoreId("b"), StoreId("c")
SEVEN, EIGHT = ShardId(7), ShardId(8)
CONFIG = ClusterConfig("one", shards=1024, seed=b"\x00seed\xff", hash_name=HASH_NAME)
TTL_S = 5


def info(store: StoreId, session: SessionId = NO_SESSION, **more: object) -> SessionInfo:
    return SessionInfo(store, session, f"{store}:7400", **more)  # type: ignore[arg-type]


def record(epoch: int, owner: StoreId = A, nonce: int = 0) -> ShardRecord:
    return ShardRecord(Epoch(epoch), owner, SessionId(2**62), How.CREATED, (owner, B), nonce=nonce)


def swap(shard: ShardId, revision: int, epoch: int, owner: StoreId = A) -> Swap:
    return Swap(shard, revision, record(epoch, owner))


async def a_cluster(place: Place) -> Coordinator:
    coordinator = place.connect()
    await coordinator.create(CONFIG)
    return coordinator


# --- the cluster


def test_the_first_config_wins_and_a_foreign_one_is_refused(place: Place) -> None:
    async def story() -> None:
        first, second = place.connect(), place.connect()
        assert await first.create(CONFIG) == CONFIG
        other = ClusterConfig("two", 1024, CONFIG.seed, HASH_NAME, replicas=5)
        assert await second.create(other) == CONFIG, "what may differ is taken over"
        for wrong in (
            ClusterConfig("two", 2048, CONFIG.seed, HASH_NAME),
            ClusterConfig("two", 1024, b"other", HASH_NAME),
            ClusterConfig("two", 1024, CONFIG.seed, "md5"),
        ):
            with pytest.raises(ForeignClusterError, match="can never join"):
                await second.create(wrong)

    place.run(story())


def test_of_many_who_create_at_once_one_wins(place: Place) -> None:
    async def story() -> None:
        proposals = [ClusterConfig(f"c{n}", 1024, b"", HASH_NAME) for n in range(5)]
        got = await asyncio.gather(*(place.connect().create(p) for p in proposals))
        assert len({config.cluster_id for config in got}) == 1

    place.run(story())


# --- sessions


def test_a_session_is_seen_by_all_until_it_is_closed(place: Place) -> None:
    async def story() -> None:
        node, other = await a_cluster(place), place.connect()
        session = await node.open_session(info(A, zone="east", weight=50), TTL_S)
        seen = (await other.read()).sessions
        assert seen == {A: info(A, session, zone="east", weight=50)}
        assert await node.keep_alive(session)
        await node.close_session(session)
        assert (await other.read()).sessions == {}
        assert not await node.keep_alive(session)
        await node.close_session(session)  # twice is no error

    place.run(story())


def test_a_session_that_is_not_kept_alive_runs_out(place: Place) -> None:
    async def story() -> None:
        node, other = await a_cluster(place), place.connect()
        session = await node.open_session(info(A), 1)
        kept = await other.open_session(info(B), 1)

        async def is_gone() -> bool:
            assert await other.keep_alive(kept)
            return A not in (await other.read()).sessions

        await until(is_gone)
        assert not await node.keep_alive(session)
        assert set((await other.read()).sessions) == {B}

    place.run(story())


def test_a_new_session_of_a_store_ends_the_old_one(place: Place) -> None:
    async def story() -> None:
        old_run, new_run = await a_cluster(place), place.connect()
        old = await old_run.open_session(info(A), TTL_S)
        new = await new_run.open_session(info(A), TTL_S)
        assert not await old_run.keep_alive(old), "its lease lives, its key does not"
        assert not await old_run.update_session(info(A, old, draining=True))
        await old_run.close_session(old)
        assert (await new_run.read()).sessions == {A: info(A, new)}
        assert await new_run.keep_alive(new)

    place.run(story())


def test_a_session_can_say_something_new(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        session = await node.open_session(info(A), TTL_S)
        news = info(A, session, draining=True, unreachable=(B, C))
        assert await node.update_session(news)
        assert (await node.read()).sessions[A] == news
        await place.end_session(session)
        assert not await node.update_session(news), "and not when it is gone"
        assert (await node.read()).sessions == {}

    place.run(story())


# --- transactions


def test_a_swap_compares_the_revision_of_its_key(place: Place) -> None:
    async def story() -> None:
        node, other = await a_cluster(place), place.connect()
        first = await node.apply(Transaction((swap(SEVEN, 0, 1),)))
        assert first.succeeded
        assert (await other.read()).shards == {SEVEN: Versioned(first.revision, record(1))}
        again = await other.apply(Transaction((swap(SEVEN, 0, 2, B),)))
        assert not again.succeeded
        second = await other.apply(Transaction((swap(SEVEN, first.revision, 2, B),)))
        assert second.succeeded
        assert second.revision > first.revision
        late = await node.apply(Transaction((swap(SEVEN, first.revision, 3),)))
        assert not late.succeeded
        assert late.revision >= second.revision
        shards = await node.read_shards([SEVEN, EIGHT])
        assert shards == {SEVEN: Versioned(second.revision, record(2, B))}

    place.run(story())


def test_of_many_who_swap_at_once_one_wins(place: Place) -> None:
    async def story() -> None:
        nodes = [await a_cluster(place) for _ in range(5)]
        revision = 0
        for epoch in range(1, 6):
            got = await asyncio.gather(
                *(
                    node.apply(Transaction((swap(SEVEN, revision, epoch, StoreId(str(n))),)))
                    for n, node in enumerate(nodes)
                )
            )
            winners = [n for n, applied in enumerate(got) if applied.succeeded]
            assert len(winners) == 1
            now = (await nodes[0].read_shards([SEVEN]))[SEVEN]
            assert now.record.owner == str(winners[0])
            assert now.revision == got[winners[0]].revision > revision
            revision = now.revision

    place.run(story())


def test_a_transaction_happens_whole_or_not_at_all(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        await node.apply(Transaction((swap(SEVEN, 0, 1),)))
        both = Transaction((swap(EIGHT, 0, 1), swap(SEVEN, 0, 2)))
        assert not (await node.apply(both)).succeeded
        assert EIGHT not in (await node.read()).shards

    place.run(story())


def test_a_rewrite_with_another_nonce_settles_what_was_open(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        first = await node.apply(Transaction((swap(SEVEN, 0, 1),)))
        touched = Transaction((Swap(SEVEN, first.revision, record(1, nonce=1)),))
        assert (await node.apply(touched)).succeeded
        lost = Transaction((swap(SEVEN, first.revision, 2),))  # O2: arrives now, and cannot win
        assert not (await node.apply(lost)).succeeded

    place.run(story())


def test_guards_tell_a_living_session_from_one_that_is_gone(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        a = await node.open_session(info(A), TTL_S)
        old_b = await node.open_session(info(B), TTL_S)
        new_b = await node.open_session(info(B), TTL_S)
        never = SessionId(12345)
        for guard, holds in (
            (Guard(A, a, alive=True), True),
            (Guard(A, a, alive=False), False),
            (Guard(A, never, alive=True), False),
            (Guard(B, old_b, alive=False), True),  # O5: holds another session
            (Guard(B, old_b, alive=True), False),
            (Guard(B, new_b, alive=True), True),
            (Guard(C, never, alive=False), True),  # O5: absent
            (Guard(C, never, alive=True), False),
        ):
            before = (await node.read_shards([SEVEN])).get(SEVEN)
            revision = before.revision if before else 0
            wanted = Transaction((swap(SEVEN, revision, 1),), (guard,))
            assert (await node.apply(wanted)).succeeded is holds, guard

    place.run(story())


def test_as_many_swaps_as_a_transaction_takes_and_no_more(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        session = await node.open_session(info(A), TTL_S)
        swaps = [swap(ShardId(n), 0, 1) for n in range(300)]
        parts = batches(swaps, [Guard(A, session, alive=True)])
        assert len(parts) == 3
        assert max(part.operations for part in parts) == OPERATIONS_MAX
        for part in parts:
            assert (await node.apply(part)).succeeded
        assert len((await node.read()).shards) == 300
        some = [ShardId(n) for n in range(0, 1024, 2)]
        assert set(await node.read_shards(some)) == set(some[:150])
        with pytest.raises(AssertionError):
            await node.apply(Transaction(tuple(swaps[: OPERATIONS_MAX + 1])))

    place.run(story())


def test_wishes_are_put_whatever_was_there(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        session = await node.open_session(info(A), TTL_S)
        start = (await node.read()).revision
        leads = Guard(A, session, alive=True)
        before, after = Wish(A, (A, B)), Wish(B, (B, C), go=True)
        for wish in (before, after):
            wanted = Transaction(guards=(leads,), wishes=((SEVEN, wish), (EIGHT, before)))
            assert (await node.apply(wanted)).succeeded
        assert (await node.read()).wishes == {SEVEN: after, EIGHT: before}
        assert (await node.read()).shards == {}, "a wish is no fact"
        hint = await first(node.changes(start), lambda h: isinstance(h, Changed))
        assert isinstance(hint, Changed)
        assert set(hint.wishes) == {SEVEN, EIGHT}

    place.run(story())


# --- what operators want


def test_a_drain_by_order_outlives_sessions_and_makes_them_say_so(place: Place) -> None:
    async def story() -> None:
        node, other = await a_cluster(place), place.connect()
        session = await node.open_session(info(A), TTL_S)
        start = (await node.read()).revision
        await other.drain(A, wanted=True)
        await other.drain(A, wanted=True)
        hint = await first(node.changes(start), lambda h: isinstance(h, Changed))
        assert isinstance(hint, Changed)
        assert hint.sessions == (A,)
        found = await node.read()
        assert found.drains == {A}
        assert found.sessions[A].draining
        assert found.sessions[A].session == session
        assert await node.update_session(info(A, session)), "its own word is another thing"
        await node.close_session(session)
        assert (await node.read()).drains == {A}
        await node.open_session(info(A), TTL_S)
        assert (await node.read()).sessions[A].draining
        await other.drain(A, wanted=False)
        found = await node.read()
        assert (found.drains, found.sessions[A].draining) == (frozenset(), False)

    place.run(story())


def test_a_shard_can_be_pinned_to_a_store_and_released(place: Place) -> None:
    async def story() -> None:
        node, other = await a_cluster(place), place.connect()
        start = (await node.read()).revision
        await other.pin(SEVEN, A)
        hint = await first(node.changes(start), lambda h: isinstance(h, Changed))
        assert isinstance(hint, Changed)
        assert hint.wishes == (SEVEN,)
        await other.pin(SEVEN, B)
        await other.pin(EIGHT, A)
        assert (await node.read()).pins == {SEVEN: B, EIGHT: A}
        await other.pin(SEVEN, None)
        await other.pin(SEVEN, None)
        assert (await node.read()).pins == {EIGHT: A}

    place.run(story())


# --- deaths


def test_reaping_writes_the_death_with_the_end_of_that_very_session(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        old = await node.open_session(info(A), TTL_S)
        new = await node.open_session(info(A), TTL_S)
        late = Transaction(reap=info(A, old), death=DeathRecord(A, old))
        assert not (await node.apply(late)).succeeded, "it was replaced already"
        await node.campaign(new)
        wanted = Transaction((swap(SEVEN, 0, 1, B),), reap=info(A, new), death=DeathRecord(A, new))
        assert (await node.apply(wanted)).succeeded
        assert await node.leader() is None, "or nobody would lead until its lease is over"
        after = await node.read()
        assert after.sessions == {}
        assert after.deaths == {new: DeathRecord(A, new)}
        assert after.shards[SEVEN].record.owner == B
        assert not await node.keep_alive(new)

    place.run(story())


def test_the_largest_transaction_may_reap_too(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        session = await node.open_session(info(A), TTL_S)
        death = DeathRecord(A, session)
        wanted = Transaction(
            tuple(swap(ShardId(n), 0, 1) for n in range(OPERATIONS_MAX - 4)),
            reap=info(A, session),
            death=death,
        )
        assert wanted.operations == OPERATIONS_MAX
        assert (await node.apply(wanted)).succeeded
        assert (await node.read()).deaths == {session: death}

    place.run(story())


def test_a_revoked_session_is_gone_without_being_called_dead(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        session = await node.open_session(info(A), TTL_S)
        assert (await node.apply(Transaction(reap=info(A, session)))).succeeded  # F2
        after = await node.read()
        assert (after.sessions, after.deaths) == ({}, {})
        assert not await node.keep_alive(session)

    place.run(story())


def test_a_death_can_be_written_whether_the_key_is_there_or_not(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        old = await node.open_session(info(A), TTL_S)
        await place.end_session(old)
        new = await node.open_session(info(A), TTL_S)
        await node.write_death(DeathRecord(A, old))
        assert set((await node.read()).sessions) == {A}, "the new run lives"
        await node.write_death(DeathRecord(A, new))
        await node.write_death(DeathRecord(A, new))  # repeated after a lost answer
        after = await node.read()
        assert after.sessions == {}
        assert set(after.deaths) == {old, new}

    place.run(story())


# --- hints


async def first(
    hints: AsyncIterator[Hint], wanted: Callable[[Hint], bool], within_s: float = 20
) -> Hint:
    async with asyncio.timeout(within_s):
        async for hint in hints:
            if wanted(hint):
                return hint
    raise AssertionError("changes never end")


def test_changes_name_what_has_changed(place: Place) -> None:
    async def story() -> None:
        node, other = await a_cluster(place), place.connect()
        start = (await other.read()).revision
        async with contextlib.aclosing(other.changes(start)) as hints:  # type: ignore[type-var]
            session = await node.open_session(info(A), TTL_S)
            await first(hints, lambda h: isinstance(h, Changed) and h.sessions == (A,))
            applied = await node.apply(Transaction((swap(SEVEN, 0, 1), swap(EIGHT, 0, 1))))
            hint = await first(hints, lambda h: isinstance(h, Changed) and bool(h.shards))
            assert isinstance(hint, Changed)
            assert set(hint.shards) == {SEVEN, EIGHT}
            assert hint.revision == applied.revision
            assert await node.campaign(session) == Leader(A, session)
            await first(hints, lambda h: isinstance(h, Changed) and h.controller)
            await node.write_death(DeathRecord(A, session))
            hint = await first(hints, lambda h: isinstance(h, Changed) and bool(h.deaths))
            assert isinstance(hint, Changed)
            assert (hint.sessions, hint.deaths) == ((A,), (session,))
            assert hint.controller
            await node.raise_format_level(2)
            await first(hints, lambda h: isinstance(h, Changed) and h.config)

    place.run(story())


def test_changes_begin_after_the_revision_that_was_read(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        await node.apply(Transaction((swap(SEVEN, 0, 1),)))
        start = (await node.read()).revision
        await node.apply(Transaction((swap(EIGHT, 0, 1),)))
        hints = node.changes(start)
        hint = await first(hints, lambda h: isinstance(h, Changed))
        assert isinstance(hint, Changed)
        assert hint.shards == (EIGHT,)

    place.run(story())


def test_what_was_compacted_away_must_be_listed_again(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        start = (await node.read()).revision
        for n in range(3):
            await node.apply(Transaction((swap(ShardId(n), 0, 1),)))
        await place.compact()
        hints = node.changes(start)
        assert await first(hints, lambda _: True) == Relist("compacted")
        await node.apply(Transaction((swap(EIGHT, 0, 1),)))
        await first(hints, lambda h: isinstance(h, Changed) and h.shards == (EIGHT,))

    place.run(story())


# --- the election


def test_one_leads_and_the_next_follows_when_it_ends(place: Place) -> None:
    async def story() -> None:
        a, b = await a_cluster(place), place.connect()
        assert await a.leader() is None
        of_a = await a.open_session(info(A), TTL_S)
        of_b = await b.open_session(info(B), TTL_S)
        assert await a.campaign(of_a) == Leader(A, of_a)
        assert await b.leader() == Leader(A, of_a)
        assert await a.campaign(of_a) == Leader(A, of_a), "again is no news"
        async with asyncio.TaskGroup() as tasks:
            waits = tasks.create_task(b.campaign(of_b))
            await asyncio.sleep(0.2)
            assert not waits.done()
            await b.resign(of_b)  # of what it does not have
            assert await b.leader() == Leader(A, of_a)
            await a.resign(of_a)
        assert waits.result() == Leader(B, of_b)
        async with asyncio.TaskGroup() as tasks:
            waits = tasks.create_task(a.campaign(of_a))
            await place.end_session(of_b)
        assert await b.leader() == Leader(A, of_a)
        async with asyncio.TaskGroup() as tasks:
            new_b = await b.open_session(info(B), TTL_S)
            waits = tasks.create_task(b.campaign(new_b))
            await b.write_death(DeathRecord(A, of_a))  # a proven death must not wait for a lease
        assert waits.result() == Leader(B, new_b)

    place.run(story())


def test_a_session_that_is_gone_cannot_lead(place: Place) -> None:
    async def story() -> None:
        a, b = await a_cluster(place), place.connect()
        of_a, of_b = await a.open_session(info(A), TTL_S), await b.open_session(info(B), TTL_S)
        await place.end_session(of_a)
        with pytest.raises(SessionGoneError):
            await a.campaign(of_a)
        replaced = await a.open_session(info(A), TTL_S)
        await a.open_session(info(A), TTL_S)
        with pytest.raises(SessionGoneError):
            await a.campaign(replaced)
        assert await b.leader() is None
        await b.campaign(of_b)
        assert await b.leader() == Leader(B, of_b)

    place.run(story())


# --- formats


def test_the_format_level_rises_when_every_node_can_write_it(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        new = await node.open_session(info(A, format_level=2), TTL_S)
        old = await node.open_session(info(B, format_level=1), TTL_S)
        with pytest.raises(CoordinatorRefusedError, match=r"cannot|can write: b"):
            await node.raise_format_level(2)
        await node.close_session(old)
        assert (await node.raise_format_level(2)).format_level == 2
        assert (await node.raise_format_level(1)).format_level == 2, "it never falls"
        assert (await node.read()).config.format_level == 2
        with pytest.raises(CoordinatorRefusedError, match="newer build"):
            await node.open_session(info(B, format_level=1), TTL_S)
        assert await node.keep_alive(new)

    place.run(story())


# --- what cannot be undone


def event(name: str, generation: int = 0) -> Event:
    return Event(name, 1, "something", A, generation, (SEVEN,), (B,))


def test_a_generation_begins_once_and_leaves_an_event(place: Place) -> None:
    async def story() -> None:
        node, other = await a_cluster(place), place.connect()
        assert (await node.raise_generation(event("0-a", 3))).generation == 3
        assert (await other.raise_generation(event("1-b", 3))).generation == 3
        assert (await other.raise_generation(event("2-c", 2))).generation == 3, "never down"
        assert (await other.read()).config.generation == 3
        assert await other.events() == [event("0-a", 3)]

    place.run(story())


def test_an_event_is_written_with_the_change_that_it_tells_of_or_not_at_all(place: Place) -> None:
    async def story() -> None:
        node = await a_cluster(place)
        done = Transaction((swap(SEVEN, 0, 1),), event=event("5-a"))
        assert (await node.apply(done)).succeeded
        assert not (
            await node.apply(Transaction((swap(SEVEN, 0, 2),), event=event("6-b")))
        ).succeeded
        assert (await node.apply(Transaction((swap(EIGHT, 0, 1),), event=event("4-c")))).succeeded
        assert await node.events() == [event("4-c"), event("5-a")], "by their time"

    place.run(story())
