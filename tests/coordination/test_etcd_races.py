"""What happens between the two halves of a method that reads and then writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from coordination.etcd_process import Etcd
from coordination.places import until
from coordination.proxy import proxy_to
from coordination.test_contract import CONFIG, TTL_S, A, B, info
from coordination.test_etcd_faults import connected, run
from roost_node.ownership.coordinator import (
    CoordinatorDownError,
    CoordinatorRefusedError,
    UnansweredError,
)
from roost_node.ownership.etcd import EtcdCoordinator


def before_writing(node: EtcdCoordinator, do: Callable[[], Awaitable[object]]) -> None:
    """Do something between the next read and write of this node, once."""
    write: Any = node._write

    async def first_do(*args: Any, **kwargs: Any) -> Any:
        node._write = write  # type: ignore[method-assign]
        await do()
        return await write(*args, **kwargs)

    node._write = first_do  # type: ignore[method-assign]


def test_the_format_level_does_not_rise_over_a_node_that_comes_at_that_moment(etcd: Etcd) -> None:
    async def story() -> None:
        prefix = "/roost/race-1"
        async with connected(etcd.endpoint, prefix=prefix) as node:
            await node.create(CONFIG)
            before_writing(node, lambda: node.open_session(info(B, format_level=1), TTL_S))
            with pytest.raises(CoordinatorDownError, match="came or went"):
                await node.raise_format_level(2)
            assert (await node.read()).config.format_level == 1

    run(story())


def test_nor_does_a_node_join_under_a_level_that_rises_at_that_moment(etcd: Etcd) -> None:
    async def story() -> None:
        prefix = "/roost/race-2"
        async with connected(etcd.endpoint, prefix=prefix) as node:
            await node.create(CONFIG)
            before_writing(node, lambda: node.raise_format_level(2))
            with pytest.raises(CoordinatorRefusedError, match="newer build"):
                await node.open_session(info(A, format_level=1), TTL_S)
            assert (await node.read()).sessions == {}

    run(story())


def test_a_registration_that_arrives_late_replaces_nobody(etcd: Etcd) -> None:
    async def story() -> None:
        prefix = "/roost/race-3"
        async with (
            proxy_to(etcd.port) as proxy,
            connected(proxy.endpoint, prefix=prefix, request_s=1.0) as lost,
            connected(etcd.endpoint, prefix=prefix) as node,
        ):
            await lost.create(CONFIG)

            async def hold() -> None:
                proxy.is_held = True

            before_writing(lost, hold)
            async with asyncio.TaskGroup() as tasks:
                sent = tasks.create_task(unanswered(lost))

                async def has_left() -> bool:
                    return proxy.held_bytes > 200

                await until(has_left)
                count = proxy.held_count
            assert sent.done()
            session = await node.open_session(info(A), TTL_S)
            start = (await node.read()).revision
            proxy.release(count)
            for _ in range(100):  # that it was refused cannot be seen: give it time to show
                assert await node.keep_alive(session)
            assert (await node.read()).revision == start

    run(story())


async def unanswered(node: EtcdCoordinator) -> None:
    with pytest.raises(UnansweredError):
        await node.open_session(info(A), TTL_S)


def test_two_runs_of_one_store_that_register_at_once_leave_one(etcd: Etcd) -> None:
    async def story() -> None:
        prefix = "/roost/race-4"
        async with (
            connected(etcd.endpoint, prefix=prefix) as one,
            connected(etcd.endpoint, prefix=prefix) as two,
        ):
            await one.create(CONFIG)
            sessions = await asyncio.gather(
                *(node.open_session(info(A), TTL_S) for node in (one, two, one, two))
            )
            holder = (await one.read()).sessions[A].session
            assert holder in sessions
            alive = [
                await node.keep_alive(s) for node, s in zip((one, two) * 2, sessions, strict=True)
            ]
            assert alive.count(True) == 1

    run(story())
