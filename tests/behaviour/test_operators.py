"""What operators are told by a node that is alone, directly and through a router."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import roost
from behaviour.conftest import routing, serving
from roost import DurableObject
from roost.adapters.operators import ask
from roost.errors import InvalidArgumentError, UnavailableError
from roost.v1 import admin_pb2


class Gate(DurableObject):
    async def hold(self, other: str) -> None:
        await self.ctx.object(Lock, other).take()


class Lock(DurableObject):
    opened = asyncio.Event()

    async def take(self) -> None:
        await Lock.opened.wait()


@pytest.fixture(autouse=True)
def _closed() -> None:
    Lock.opened = asyncio.Event()


async def explained(port: int, class_name: str, key: str) -> admin_pb2.ExplainReply:
    request = admin_pb2.ExplainRequest(class_name=class_name, key=key)
    return await ask([f"127.0.0.1:{port}"], 10, lambda s, t: s.Explain(request, timeout=t))


def test_what_calls_wait_for_is_explained(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            serving(tmp_path / "data", Gate, Lock) as server,
            routing(f"127.0.0.1:{server.port}") as router,
            roost.connect(f"127.0.0.1:{router.port}") as cluster,
            asyncio.TaskGroup() as tasks,
        ):
            nothing = await explained(router.port, "Gate", "g")
            assert (nothing.local, nothing.live, nothing.queued) == (True, False, 0)
            for _ in range(3):
                tasks.create_task(cluster.object(Gate, "g").hold("l"))
            for port in (server.port, router.port):
                while (found := await explained(port, "Gate", "g")).queued < 2:
                    await asyncio.sleep(0.01)
                while not (found := await explained(port, "Gate", "g")).calls[0].waits_for:
                    await asyncio.sleep(0.01)
                assert found.local
                assert found.live
                assert [call.method for call in found.calls] == ["hold"] * 3
                assert found.awake_because == "3 open calls"
                first, *others = found.calls
                assert (first.stage, first.waits_for) == ("running", "Lock/l.take")
                assert {call.stage for call in others} == {"queued"}
                assert {c.waits_for for c in others} == {"Gate/g.hold, which holds the object"}
                inner = await explained(port, "Lock", "l")
                assert [(call.method, call.stage) for call in inner.calls] == [("take", "running")]
            Lock.opened.set()
            while (found := await explained(server.port, "Gate", "g")).calls:
                await asyncio.sleep(0.01)
            assert found.awake_because.startswith("idle for ")
            assert found.awake_because.endswith("of 60 s (idle_after)")
        with pytest.raises(UnavailableError):
            await ask(
                [f"127.0.0.1:{server.port}"],
                0.3,
                lambda s, t: s.Explain(admin_pb2.ExplainRequest(key="g"), timeout=t),
            )

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_node_alone_answers_for_itself_and_takes_no_orders(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            serving(tmp_path / "data", Gate, Lock) as server,
            routing(f"127.0.0.1:{server.port}") as router,
        ):
            for port in (server.port, router.port):
                at = [f"127.0.0.1:{port}"]
                status = await ask(
                    at,
                    10,
                    lambda s, t: s.ClusterStatus(admin_pb2.ClusterStatusRequest(), timeout=t),
                )
                (node,) = status.nodes
                assert dict(status.states) == {"in sync": status.shards}
                assert (node.owners, node.standing) == (status.shards, "live")
                assert node.address == f"127.0.0.1:{server.port}"
                plan = await ask(at, 10, lambda s, t: s.Plan(admin_pb2.PlanRequest(), timeout=t))
                assert not plan.moves
                for order in (
                    lambda s, t: s.Drain(
                        admin_pb2.DrainRequest(store_id=node.store_id),  # noqa: B023
                        timeout=t,
                    ),
                    lambda s, t: s.Move(
                        admin_pb2.MoveRequest(store_id=node.store_id),  # noqa: B023
                        timeout=t,
                    ),
                ):
                    with pytest.raises(InvalidArgumentError, match="in no cluster"):
                        await ask(at, 10, order)

    asyncio.run(asyncio.wait_for(story(), 60))
