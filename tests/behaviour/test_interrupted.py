"""Calls that a crash cuts in the middle: what is run again, and what is not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

import roost
from behaviour.conftest import routing, serving
from behaviour.hosting import Inbox, a_call, hosting, play, until
from roost import DurableObject, method
from roost.wire.messages import Call, Status
from roost.wire.status import to_error
from roost_node.storage.memory import MemoryStore

first_life: list[bool] = []
"""Not empty: the process that will crash."""


class Job(DurableObject):
    steps: int = 0

    @method(interleave=True)
    async def in_stretches(self) -> int:
        self.steps += 1
        await asyncio.sleep(30)  # until the crash: the first stretch is committed here
        self.steps += 1
        return self.steps

    async def in_one(self) -> int:
        self.steps += 1
        if first_life:
            await asyncio.sleep(30)  # until the crash: nothing is committed
        return self.steps

    @method(read_only=True)
    async def get(self) -> int:
        return self.steps


def cut(name: str) -> None:
    """Crash while `name` runs, start again, send the same request again."""

    async def scenario() -> None:
        store = MemoryStore()
        first_life.append(True)
        call: Call
        async with hosting(Job, store=store, grace_s=0.0) as host:
            inbox = Inbox()
            call = a_call(host, 1, "Job", "j", name)
            host.submit(msgspec.structs.replace(call), inbox)
            await until(lambda: host.activations["Job", "j"].instance.steps == 1)  # type: ignore[attr-defined]
            await host.committer.drained()
            after = store.crash()
        first_life.clear()
        async with hosting(Job, store=after, grace_s=0.0) as host:
            inbox = Inbox()
            host.submit(a_call(host, 2, "Job", "j", "get"), inbox)
            before = msgspec.msgpack.decode((await inbox.reply(2)).payload)
            host.submit(msgspec.structs.replace(call, id=3), inbox)
            reply = await inbox.reply(3)
            if name == "in_stretches":
                assert before == 1  # the stretch before the await is kept
                assert reply.status == Status.OUTCOME_UNKNOWN
                assert to_error(reply.status, reply.error).took_effect == "maybe"
            else:
                assert before == 0
                assert (reply.status, msgspec.msgpack.decode(reply.payload)) == (0, 1)

    play(scenario())


def test_an_interleaving_call_that_was_cut_is_not_run_again() -> None:
    cut("in_stretches")


def test_a_serial_call_that_was_cut_left_nothing_and_is_run_again() -> None:
    cut("in_one")


@pytest.mark.parametrize("routed", [False, True], ids=["grpc", "router"])
def test_an_interleaving_call_that_a_shutdown_cuts_is_told_at_once(
    tmp_path: Path, routed: bool
) -> None:
    @contextlib.asynccontextmanager
    async def connected(port: int) -> AsyncIterator[roost.Cluster]:
        async with contextlib.AsyncExitStack() as stack:
            if routed:
                router = await stack.enter_async_context(routing(f"127.0.0.1:{port}"))
                port = router.port
            yield await stack.enter_async_context(roost.connect(f"127.0.0.1:{port}", timeout=300.0))

    async def scenario() -> None:
        rid = roost.new_request_id()
        async with contextlib.AsyncExitStack() as first:
            server = await first.enter_async_context(serving(tmp_path, Job, grace_s=0.05))
            async with connected(server.port) as cluster:
                job = cluster.object(Job, "j")
                call = asyncio.ensure_future(roost.options(job, request_id=rid).in_stretches())
                while await job.get() != 1:
                    await asyncio.sleep(0.01)
                await first.aclose()  # as after SIGTERM: it drains, then hangs up
                # Far below its deadline: nothing that anybody could still do would tell more.
                with pytest.raises(roost.OutcomeUnknownError, match="shutdown") as caught:
                    await asyncio.wait_for(call, 20)
                assert (caught.value.retryable, caught.value.took_effect) == (False, "maybe")
        async with serving(tmp_path, Job) as server, connected(server.port) as cluster:
            job = cluster.object(Job, "j")
            with pytest.raises(roost.OutcomeUnknownError, match="shutdown") as caught:
                await asyncio.wait_for(roost.options(job, request_id=rid).in_stretches(), 20)
            assert not caught.value.retryable
            assert await job.get() == 1

    play(scenario())
