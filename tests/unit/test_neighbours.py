"""The way to other nodes where it cannot be opened: the call is told so, and nothing else happens."""

from __future__ import annotations

import asyncio

import pytest

from roost.adapters.direct import Identity
from roost.wire.messages import Call, Reply, Status
from roost_node.host.call import Waiter
from roost_node.local_cluster import free_port
from roost_node.replication import neighbours
from roost_node.replication.neighbours import Neighbours

ME = Identity("127.0.0.1:1", b"")


async def ask(way: Neighbours) -> Reply:
    waiter = Waiter(asyncio.get_running_loop())
    await way.send(Call(1, "Counter", "key", "get", b"", bytes(16)), waiter)
    return await waiter.future


def test_a_node_that_knows_no_others_tells_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lost its session while the call ran: the call goes on, and may ask again when there is another."""
    monkeypatch.setattr(neighbours, "CONNECT_S", 0.01)

    async def story() -> None:
        asked = asyncio.create_task(ask(Neighbours(lambda: [], lambda: ME)))
        await asyncio.wait([asked])
        assert not asked.cancelled()
        assert asked.result().status == Status.UNAVAILABLE

    asyncio.run(story())


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_way_that_did_not_open_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    monkeypatch.setattr(neighbours, "CONNECT_S", 60.0 if is_cancelled else 0.01)

    async def story() -> None:
        nobody = f"127.0.0.1:{free_port()}"
        before = asyncio.all_tasks()
        asked = asyncio.create_task(ask(Neighbours(lambda: [nobody], lambda: ME)))
        if is_cancelled:
            while len(asyncio.all_tasks() - before) < 2:
                await asyncio.sleep(0)
            asked.cancel()
        await asyncio.wait([asked])
        assert asked.cancelled() == is_cancelled
        assert asyncio.all_tasks() == before

    asyncio.run(story())
