"""Chains of calls over several nodes: who waits for whom is known at every step."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import pytest

import roost
from cluster.app import Ring
from cluster.processes import Processes, running_cluster
from cluster.test_processes import connected
from roost.adapters.channel import SECRET, SESSION_METHOD
from roost.v1 import objects_pb2, types_pb2

RINGS = 16  # with three nodes: that none of them spans two has a chance of 1 in 40 million


async def rings_are_found(cluster: roost.Cluster) -> None:
    async def ring(number: int) -> roost.DeadlockError:
        a, b = f"a{number}", f"b{number}"
        with pytest.raises(roost.DeadlockError) as found:
            await cluster.object(Ring, a).ask([b, a])
        return found.value

    for number, error in enumerate(await asyncio.gather(*map(ring, range(RINGS)))):
        names = tuple(f"Ring/{key}{number}.ask" for key in "aba")
        assert error.chain == names
        assert f"{names[2]} would wait for {names[0]}" in str(error)


async def chains_that_wait_for_each_other_end(cluster: roost.Cluster) -> None:
    """By their deadlines, with nothing done. Of so many pairs some meet, whoever is quicker."""

    async def one(key: str, other: str) -> BaseException | None:
        call = roost.options(cluster.object(Ring, key), timeout=2.0).ask([other])
        (ended,) = await asyncio.gather(call, return_exceptions=True)
        return ended if isinstance(ended, BaseException) else None

    pairs = [(f"a{number}", f"b{number}") for number in range(RINGS)]
    ended = await asyncio.gather(*(one(*p) for pair in pairs for p in (pair, pair[::-1])))
    errors = [error for error in ended if error is not None]
    assert {type(error) for error in errors} == {roost.DeadlineExceededError}
    # Where an answer came late on a busy machine, the client's own word stands for the owner's.
    told = [error for error in errors if "while it waited for Ring/" in str(error)]
    assert told
    assert {error.took_effect for error in told if isinstance(error, roost.RoostError)} == {"no"}
    assert await cluster.object(Ring, "a0").ask(["b0"]) == 2


async def reentrant_methods_come_back(cluster: roost.Cluster) -> None:
    async def ring(number: int) -> int:
        a, b = f"a{number}", f"b{number}"
        return await cluster.object(Ring, a).look([b, a, b])

    assert set(await asyncio.gather(*map(ring, range(RINGS)))) == {4}


async def a_client_is_not_believed(processes: Processes) -> None:
    """With the chain of somebody else a call would be told of a deadlock that there is not."""
    for said in ((), ((SECRET, "00" * 32),)):
        async with grpc.aio.insecure_channel(processes.address("a")) as channel:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                SESSION_METHOD
            )
            stream = method(metadata=said)
            await stream.write(
                objects_pb2.ClientFrame(hello=objects_pb2.Hello()).SerializeToString()
            )
            await stream.read()
            frame = objects_pb2.ClientFrame()
            for number in range(RINGS):
                call = frame.calls.add(
                    id=number + 1,
                    class_name="Ring",
                    key=f"c{number}",
                    method="ask",
                    arguments=msgspec.msgpack.encode([[]]),
                    request_id=roost.new_request_id().bytes,
                )
                for _ in range(40):  # more than a chain may have
                    call.chain.add(class_name="Ring", key="x", method="ask", request_id=b"r" * 16)
            await stream.write(frame.SerializeToString())
            answers: dict[int, int] = {}
            while len(answers) < RINGS:
                raw = await stream.read()
                assert isinstance(raw, bytes)
                for reply in objects_pb2.ServerFrame.FromString(raw).replies:
                    answers[reply.id] = reply.status
            assert 0 in answers.values()  # those of its own shards
            assert types_pb2.DEADLOCK not in answers.values()


def test_chains_know_their_way_over_several_nodes(tmp_path: Path) -> None:
    async def story(processes: Processes) -> None:
        async with connected(processes, "router") as cluster:
            await reentrant_methods_come_back(cluster)
            await rings_are_found(cluster)
            await chains_that_wait_for_each_other_end(cluster)
            await a_client_is_not_believed(processes)

    with running_cluster(tmp_path, "a", "b", "c") as processes:
        processes.start_router("router", "a", "b", "c")
        asyncio.run(asyncio.wait_for(story(processes), 120))
