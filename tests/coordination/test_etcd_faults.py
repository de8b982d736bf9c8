"""What becomes of us when a real etcd dies, freezes, changes its leader or goes back in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from coordination.etcd_process import Etcd, cluster, leader_of
from coordination.places import Story, until
from coordination.proxy import proxy_to
from coordination.test_contract import CONFIG, EIGHT, SEVEN, TTL_S, A, first, info, record, swap
from roost_node.core.record import Swap, Transaction
from roost_node.ownership.coordinator import (
    Changed,
    CoordinatorDownError,
    Hint,
    Relist,
    Restored,
    UnansweredError,
)
from roost_node.ownership.etcd import EtcdCoordinator
from roost_node.ownership.etcd_link import EtcdOptions

PREFIX = "/roost/faults"


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[Etcd]:
    member = Etcd(tmp_path).start()
    try:
        yield member
    finally:
        member.kill()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Etcd]]:
    members = cluster(tmp_path)
    try:
        yield members
    finally:
        for member in members:
            member.kill()


@contextlib.asynccontextmanager
async def connected(
    *endpoints: str, request_s: float = 2.0, prefix: str = PREFIX
) -> AsyncIterator[EtcdCoordinator]:
    coordinator = EtcdCoordinator(EtcdOptions(endpoints, prefix=prefix, request_s=request_s))
    try:
        yield coordinator
    finally:
        await coordinator.close()


def run(story: Story) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(90):
            await story

    asyncio.run(bounded())


async def settle(node: EtcdCoordinator, nonce: int) -> int:
    """O2: after an unanswered swap, write the record that is there again; its revision then."""
    while True:
        try:
            there = (await node.read_shards([SEVEN]))[SEVEN]
            renewed = record(there.record.epoch, nonce=nonce)
            applied = await node.apply(Transaction((Swap(SEVEN, there.revision, renewed),)))
        except (CoordinatorDownError, UnansweredError):
            continue
        if applied.succeeded:
            return applied.revision


def test_killed_and_restarted_it_loses_nothing_and_the_watch_says_that_it_may_have(
    own_etcd: Etcd,
) -> None:
    async def story() -> None:
        async with connected(own_etcd.endpoint, request_s=0.5) as node:
            await node.create(CONFIG)
            session = await node.open_session(info(A), TTL_S)
            applied = await node.apply(Transaction((swap(SEVEN, 0, 1),)))
            hints = node.changes(applied.revision)
            async with asyncio.TaskGroup() as tasks:
                told = tasks.create_task(first(hints, lambda _: True))
                await node.read()
                own_etcd.kill()

                async def is_down() -> bool:
                    try:
                        await node.apply(Transaction((swap(EIGHT, 0, 1),)))
                    except UnansweredError:
                        return False  # the connection broke under it
                    except CoordinatorDownError:
                        return True
                    raise AssertionError("nobody can have answered")

                await until(is_down)
                with pytest.raises(CoordinatorDownError, match="nothing was sent"):
                    await node.read()
                await asyncio.to_thread(own_etcd.start)
            assert told.result() == Relist("reconnected")
            after = await node.read()
            assert after.shards[SEVEN].record == record(1)
            assert EIGHT not in after.shards
            assert await node.keep_alive(session), "its lease began anew"
            await node.apply(Transaction((swap(EIGHT, 0, 1),)))
            await first(hints, lambda h: isinstance(h, Changed) and h.shards == (EIGHT,))
            assert node.restored is None

    run(story())


def test_frozen_it_leaves_a_swap_open_until_it_is_written_again(own_etcd: Etcd) -> None:
    async def story() -> None:
        async with connected(own_etcd.endpoint, request_s=0.5) as node:
            await node.create(CONFIG)
            revision = (await node.apply(Transaction((swap(SEVEN, 0, 1),)))).revision
            own_etcd.freeze()
            with pytest.raises(UnansweredError):
                await node.apply(Transaction((swap(SEVEN, revision, 2),)))
            with pytest.raises(CoordinatorDownError):
                await node.read()
            own_etcd.thaw()
            moved = await settle(node, nonce=1)
            late = await node.apply(Transaction((swap(SEVEN, revision, 2),)))
            assert not late.succeeded
            there = (await node.read_shards([SEVEN]))[SEVEN]
            assert there.revision == moved > revision

    run(story())


def test_a_request_that_timed_out_here_is_applied_there_later(own_etcd: Etcd) -> None:
    async def story() -> None:
        async with (
            proxy_to(own_etcd.port) as proxy,
            connected(proxy.endpoint, request_s=1.0) as node,
            connected(own_etcd.endpoint) as other,
        ):
            await node.create(CONFIG)
            proxy.is_held = True
            async with asyncio.TaskGroup() as tasks:
                sent = tasks.create_task(unanswered(node, Transaction((swap(SEVEN, 0, 1),))))

                async def has_left() -> bool:
                    return proxy.held_bytes > len(str(record(1)))

                await until(has_left)
                count = proxy.held_count  # the request, without the news that we gave up
            assert sent.done()
            assert SEVEN not in (await other.read()).shards, "a read proves nothing (O2)"
            proxy.release(count)

            async def is_applied() -> bool:
                return SEVEN in (await other.read()).shards

            await until(is_applied)

    run(story())


async def unanswered(node: EtcdCoordinator, wanted: Transaction) -> None:
    with pytest.raises(UnansweredError):
        await node.apply(wanted)


def test_a_chain_of_swaps_over_the_deaths_of_leaders_has_no_gap_and_no_fork(
    three: list[Etcd],
) -> None:
    async def story() -> None:
        leader = leader_of(three)
        names = [leader.endpoint, *(m.endpoint for m in three if m is not leader)]
        async with connected(*names) as node, connected(*names[1:]) as watcher:
            await node.create(CONFIG)
            session = await node.open_session(info(A), 10)
            start = (await node.read()).revision
            revision, epoch, lost = 0, 0, 0
            stories: list[Hint] = []

            async def watch() -> None:
                async for hint in watcher.changes(start):
                    stories.append(hint)

            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(watch())
                for step in range(120):
                    if step == 20:
                        leader.kill()  # the one that we are connected to
                    if step == 60:
                        await asyncio.to_thread(leader.start)
                    if step == 80:
                        leader = leader_of(three)
                        leader.freeze()
                    if step == 100:
                        leader.thaw()
                    try:
                        wanted = Transaction((swap(SEVEN, revision, epoch + 1),))
                        applied = await node.apply(wanted)
                    except CoordinatorDownError:
                        continue  # certainly not applied: the same again
                    except UnansweredError:
                        lost += 1
                        revision = await settle(node, nonce=step)
                        now = (await node.read_shards([SEVEN]))[SEVEN].record.epoch
                        assert now in (epoch, epoch + 1)
                        epoch = now
                        continue
                    assert applied.succeeded, "nobody else writes"
                    revision, epoch = applied.revision, epoch + 1
                assert epoch >= 100
                assert await node.keep_alive(session)

                async def has_seen() -> bool:
                    last = stories[-1] if stories else None
                    return isinstance(last, Changed) and last.revision >= revision

                await until(has_seen)
                watching.cancel()
            assert node.restored is None
            assert watcher.restored is None
            print(f"{epoch} swaps, {lost} unanswered")

    run(story())


def test_a_frozen_member_is_left_for_another(three: list[Etcd]) -> None:
    async def story() -> None:
        follower = next(m for m in three if m is not leader_of(three))
        others = [m.endpoint for m in three if m is not follower]
        async with connected(follower.endpoint, *others) as node:
            await node.create(CONFIG)
            follower.freeze()
            assert (await node.read()).config == CONFIG
            assert (await node.apply(Transaction((swap(SEVEN, 0, 1),)))).succeeded

    run(story())


def test_without_a_majority_nothing_is_changed_and_nothing_is_believed(three: list[Etcd]) -> None:
    async def story() -> None:
        leader = leader_of(three)
        async with connected(leader.endpoint, request_s=1.0) as node:
            await node.create(CONFIG)
            for member in three:
                if member is not leader:
                    member.kill()
            with pytest.raises((UnansweredError, CoordinatorDownError)):
                await node.apply(Transaction((swap(SEVEN, 0, 1),)))
            with pytest.raises(CoordinatorDownError):
                await node.read()  # it would be stale

    run(story())


def test_restored_from_an_old_backup_it_is_noticed_by_reads_and_watches(
    own_etcd: Etcd, tmp_path: Path
) -> None:
    async def story() -> None:
        snapshot = tmp_path / "snapshot"
        async with (
            connected(own_etcd.endpoint) as node,
            connected(own_etcd.endpoint) as newcomer,
        ):
            await node.create(CONFIG)
            await node.apply(Transaction((swap(EIGHT, 0, 1),)))
            await asyncio.to_thread(own_etcd.ctl, "snapshot", "save", str(snapshot))
            revision = 0
            for epoch in range(1, 10):
                applied = await node.apply(Transaction((swap(SEVEN, revision, epoch),)))
                revision = applied.revision
            hints = node.changes(revision)
            async with asyncio.TaskGroup() as tasks:
                told = tasks.create_task(first(hints, lambda h: h == Relist("restored")))
                await node.read()
                own_etcd.kill()
                await asyncio.to_thread(own_etcd.restore, snapshot)
                await asyncio.to_thread(own_etcd.start)
            assert told.done()
            after = await node.read()
            assert set(after.shards) == {EIGHT}, "the answer is what the store says"
            assert after.revision < revision
            assert node.restored == Restored(revision, node.restored.now if node.restored else 0)
            await newcomer.read()
            assert newcomer.restored is None, "it had seen nothing newer"
            await node.apply(Transaction((swap(SEVEN, 0, 1),)))
            await first(hints, lambda h: isinstance(h, Changed) and h.shards == (SEVEN,))

    run(story())
