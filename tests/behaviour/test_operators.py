"""What operators are told by a node that is alone, directly and through a router."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import NoReturn

import grpc.aio
import pytest

import roost
from behaviour.conftest import routing, serving
from roost import DurableObject
from roost.adapters.operators import ask
from roost.errors import InvalidArgumentError, OutcomeUnknownError, UnavailableError
from roost.v1 import admin_pb2, admin_pb2_grpc
from roost_node.admin import Admin
from roost_node.core.moves import Moves
from roost_node.local_cluster import free_port
from roost_node.node import Node
from roost_node.ownership.coordinator import CoordinatorDownError
from roost_node.storage.memory import MemoryStore
from roost_node.view import Alone
from roost_router import links
from roost_router import server as router_server
from roost_router.router import NO_NODE


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


def test_a_router_that_reaches_no_node_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "SILENT_S", 0.1)
    monkeypatch.setattr(router_server, "READY_S", 0.1)
    node = f"127.0.0.1:{free_port()}"

    def warnings() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]

    async def story() -> None:
        async with routing(node) as router:
            at = f"127.0.0.1:{router.port}"
            with pytest.raises(UnavailableError, match=NO_NODE) as told:
                await roost.connect(at, connect_timeout=1.0).__aenter__()
            assert "no server answers" not in str(told.value)
            with pytest.raises(UnavailableError, match=NO_NODE):
                await ask([at], 1, status)
            while not warnings():
                await asyncio.sleep(0.01)
            assert warnings() == ["no node answers yet"]  # once
            assert caplog.records[-1].nodes == node  # type: ignore[attr-defined]  # its field

    asyncio.run(asyncio.wait_for(story(), 60))


def status(stub: admin_pb2_grpc.AdminStub, left_s: float) -> Awaitable[admin_pb2.StatusReply]:
    return stub.Status(admin_pb2.StatusRequest(), timeout=left_s)


@contextlib.asynccontextmanager
async def answering(admin: admin_pb2_grpc.AdminServicer) -> AsyncIterator[str]:
    server = grpc.aio.server()
    admin_pb2_grpc.add_AdminServicer_to_server(admin, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


class Silent(admin_pb2_grpc.AdminServicer):
    """Takes questions and orders, and never answers."""

    async def Status(  # noqa: N802
        self, request: object, context: object
    ) -> admin_pb2.StatusReply:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never

    async def Drain(  # noqa: N802
        self, request: object, context: object
    ) -> admin_pb2.DrainReply:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never


def test_a_question_without_an_answer_changed_nothing_and_an_order_may_have() -> None:
    async def story() -> None:
        async with answering(Silent()) as at:  # type: ignore[abstract]  # it needs no more
            with pytest.raises(UnavailableError, match=f"{at} has not answered in time"):
                await ask([at], 0.3, status)
            with pytest.raises(OutcomeUnknownError, match="has not answered in time"):
                await ask([at], 0.3, lambda s, t: s.Drain(admin_pb2.DrainRequest(), timeout=t))

    asyncio.run(asyncio.wait_for(story(), 60))


def test_an_operator_is_told_that_etcd_is_down_and_that_objects_go_on(tmp_path: Path) -> None:
    class Down(Alone):
        async def read(self) -> NoReturn:
            raise CoordinatorDownError("no connection to etcd at pluto:2379: nothing was sent")

    async def story() -> None:
        node = Node(tmp_path, {}, lambda error: None, store=MemoryStore())
        async with node, answering(Admin(node, Down(node, str), dict, Moves())) as at:
            request = admin_pb2.ClusterStatusRequest()
            with pytest.raises(
                UnavailableError, match=r"etcd does not answer; objects go on .*pluto"
            ):
                await ask([at], 0.3, lambda s, t: s.ClusterStatus(request, timeout=t))

    asyncio.run(asyncio.wait_for(story(), 60))
