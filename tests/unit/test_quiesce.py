"""Calls of a shard come to rest before it is handed over (H1)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

import roost
from roost import DurableObject
from roost.errors import NotOwnerError
from roost.wire.messages import Call, Link, Status
from roost_node.core.output_gate import OutputGate
from roost_node.host.call import Waiter
from roost_node.host.loader import specs_of
from roost_node.node import Node
from roost_node.replication.handoff import quiesce
from roost_node.storage.rocks import RocksStore

GATES: list[asyncio.Event] = []


class Patient(DurableObject):
    async def wait(self) -> None:
        await GATES[-1].wait()

    async def answer(self) -> int:
        return 1


def test_a_shard_is_at_rest_only_when_its_answers_have_left() -> None:
    async def story() -> None:
        gate: OutputGate[str] = OutputGate(4)
        assert not gate.offer(5, "an answer", own_entry=False)
        host: Any = SimpleNamespace(
            objects=SimpleNamespace(live={}),
            loop=asyncio.get_running_loop(),
            limits=SimpleNamespace(grace_s=0, cancel_s=0, hook_s=0),
        )
        shard: Any = SimpleNamespace(id=3, gate=gate)
        resting = asyncio.create_task(quiesce(host, shard))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not resting.done()
        assert gate.on_committed(5) == ["an answer"]
        await resting

    asyncio.run(story())


def test_while_a_shard_comes_to_rest_it_takes_what_its_own_calls_wait_for_and_nothing_else(
    tmp_path: Path,
) -> None:
    """Or calls from objects elsewhere, each with a chain of its own, would keep it busy for ever."""

    def fatal(error: BaseException) -> None:
        raise error

    def call(key: str, method: str, *chain: Link) -> Call:
        rid = roost.new_request_id().bytes
        return Call(1, "Patient", key, method, msgspec.msgpack.encode([]), rid, chain=chain)

    async def story() -> None:
        GATES.append(asyncio.Event())
        store = RocksStore.open(tmp_path / "one", shards=1)
        async with Node(tmp_path, specs_of([Patient]), fatal, store=store) as node:
            host = node.host
            running = call("a", "wait")
            waiting = Waiter(host.loop)
            host.submit(running, waiting)
            first = Waiter(host.loop)
            host.submit(call("b", "answer"), first)
            await first.future
            shard = host.activations["Patient", "a"].shard
            shard.refusal = NotOwnerError("it is being handed to another node")
            ours = Link("Patient", "a", "wait", running.request_id)
            theirs = Link("Patient", "elsewhere", "wait", roost.new_request_id().bytes)
            for key in ("b", "one that is not live"):
                for chain, expected in (
                    ((), Status.NOT_OWNER),
                    ((theirs,), Status.NOT_OWNER),
                    ((theirs, ours), 0),
                ):
                    answered = Waiter(host.loop)
                    host.submit(call(key, "answer", *chain), answered)
                    assert (await answered.future).status == expected
            GATES[-1].set()
            assert (await waiting.future).status == 0
            shard.refusal = None

    asyncio.run(story())
