"""Clients that send rubbish, too much, or never read: the node stays up, others go on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import roost
from roost.cluster.ids import request_id
from roost.v1 import objects_pb2, objects_pb2_grpc
from roost_node.local_cluster import free_port

APP = """
from collections.abc import AsyncIterator

from roost import DurableObject

class Counter(DurableObject):
    count: int = 0

    async def increment(self, by: int = 1) -> int:
        self.count += by
        return self.count

    async def big(self) -> bytes:
        return b"x" * 1_000_000

    async def endless(self, size: int = 0) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * size

    async def endless_writes(self) -> AsyncIterator[int]:
        while True:
            self.count += 1
            yield self.count
"""
ENDLESS = 2**32 - 1  # items for which a reader says that it has room
PAGE = 4096


class Server:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        app = folder / "app.py"
        app.write_text(APP)
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "roost_node", "node", str(app), "--data", str(folder / "data"),
                "--port", str(self.port), "--sessions-max", "3000", "--session-bytes-max", "4000000",
            ]
        )  # fmt: skip

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def resident(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE

    async def answers(self) -> float:
        """It still serves; the median latency of some calls, in seconds."""
        took: list[float] = []
        async with roost.connect(self.address, connect_timeout=20.0) as cluster:
            counter = cluster.object("Counter", "witness")
            for _ in range(40):
                started = time.perf_counter()
                await counter.increment()
                took.append(time.perf_counter() - started)
        return sorted(took)[len(took) // 2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("hostile"))
    asyncio.run(server.answers())
    yield server
    assert server.process.poll() is None, "the node did not survive"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=30) == 0


def call(number: int, **fields: object) -> objects_pb2.Call:
    now_ms = time.time_ns() // 1_000_000
    message = objects_pb2.Call(
        id=number,
        class_name="Counter",
        key="k",
        method="increment",
        request_id=request_id(now_ms, random.getrandbits(74)),
        deadline_ms=now_ms + 10_000,
    )
    for name, value in fields.items():
        setattr(message, name, value)
    return message


HELLO = objects_pb2.ClientFrame(hello=objects_pb2.Hello(client="hostile", wire_version=1))


def test_rubbish_on_the_wire_ends_that_stream_alone(server: Server) -> None:
    async def scenario() -> None:
        rng = random.Random(1)
        async with grpc.aio.insecure_channel(server.address) as channel:
            raw: Any = channel.stream_stream("/roost.v1.Objects/Session")
            for number in range(60):
                good = HELLO.SerializeToString()
                frames = [good, rng.randbytes(rng.randrange(1, 2000))]
                if number % 3 == 0:
                    frames = [good[: len(good) // 2], b""]
                if number % 3 == 1:
                    whole = objects_pb2.ClientFrame(
                        calls=[call(n) for n in range(20)]
                    ).SerializeToString()
                    frames = [good, whole[: rng.randrange(len(whole))]]

                async def requests(frames: list[bytes] = frames) -> AsyncIterator[bytes]:
                    for frame in frames:
                        yield frame

                stream = raw(requests(), timeout=5)
                with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError):
                    async for _ in stream:
                        pass
        await server.answers()

    asyncio.run(scenario())


def test_calls_that_make_no_sense_get_typed_answers(server: Server) -> None:
    cases: list[tuple[dict[str, object], int]] = [
        ({"class_name": "Nothing"}, 1),
        ({"class_name": ""}, 1),
        ({"method": "__init__"}, 2),
        ({"method": "_private"}, 2),
        ({"method": "on_activate"}, 2),
        ({"method": "mro"}, 2),
        ({"method": ""}, 2),
        ({"key": ""}, 3),
        ({"key": "x" * 1025}, 4),
        ({"arguments": b"\xc1"}, 3),
        ({"arguments": b"\x81\xa2by\xa1x"}, 3),
        ({"request_id": b"short"}, 3),
        ({"request_id": bytes(16)}, 3),
        ({"stub_id": 5}, 3),
        ({"stub_id": 5, "sequence": 1, "oldest": 2}, 3),
        ({"deadline_ms": 1}, 49),
        ({"request_id": request_id(1000, 5)}, 8),
    ]

    async def scenario() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stream = objects_pb2_grpc.ObjectsStub(channel).Session()
            await stream.write(HELLO)
            await stream.read()
            calls = [call(number, **fields) for number, (fields, _) in enumerate(cases)]
            await stream.write(objects_pb2.ClientFrame(calls=calls))
            found: dict[int, int] = {}
            while len(found) < len(cases):
                frame = await stream.read()
                assert isinstance(frame, objects_pb2.ServerFrame)
                for reply in frame.replies:
                    found[reply.id] = reply.status
                    assert reply.error.message
            for number, (fields, status) in enumerate(cases):
                assert found[number] == status, fields
            await stream.done_writing()

    asyncio.run(scenario())


def test_a_stream_without_a_hello_and_a_huge_frame_are_refused(server: Server) -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = objects_pb2_grpc.ObjectsStub(channel)
            stream = stub.Session()
            await stream.write(objects_pb2.ClientFrame(calls=[call(1)]))
            with pytest.raises(grpc.aio.AioRpcError, match="hello"):
                await stream.read()
            stream = stub.Session()
            await stream.write(HELLO)
            await stream.read()
            huge = objects_pb2.ClientFrame(calls=[call(1, arguments=b"x" * 30_000_000)])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.write(huge)
                await stream.read()
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await server.answers()

    asyncio.run(scenario())


def test_thousands_of_half_open_streams_are_bounded(server: Server) -> None:
    async def scenario() -> None:
        before = server.resident()
        quiet = await server.answers()
        channels = [
            grpc.aio.insecure_channel(
                server.address, options=(("grpc.use_local_subchannel_pool", 1),)
            )
            for _ in range(2)
        ]
        streams = []
        for number in range(2000):
            stream = objects_pb2_grpc.ObjectsStub(channels[number % 2]).Session()
            await stream.write(HELLO)
            streams.append(stream)
        loaded = await server.answers()
        assert server.resident() - before < 300 * 2**20
        assert loaded < max(2 * quiet, quiet + 0.005), (quiet, loaded)
        for stream in streams:
            stream.cancel()
        for channel in channels:
            await channel.close()

    asyncio.run(scenario())


def test_a_reader_that_never_reads_fills_nothing(server: Server) -> None:
    async def scenario() -> None:
        before = server.resident()
        async with grpc.aio.insecure_channel(server.address) as channel:
            stream = objects_pb2_grpc.ObjectsStub(channel).Session()
            await stream.write(HELLO)
            for number in range(60):
                big = [call(number * 10 + n, method="big", key=f"{n}") for n in range(10)]
                try:
                    await asyncio.wait_for(stream.write(objects_pb2.ClientFrame(calls=big)), 0.2)
                except (TimeoutError, asyncio.CancelledError, grpc.aio.AioRpcError):
                    break  # the node has stopped reading from us
            await server.answers()
            assert server.resident() - before < 200 * 2**20
            stream.cancel()

    asyncio.run(scenario())


@contextlib.asynccontextmanager
async def streaming(server: Server, *calls: objects_pb2.Call) -> AsyncIterator[Any]:
    """A session with these calls; whether it is read is up to the test."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        stream = objects_pb2_grpc.ObjectsStub(channel).Session()
        await stream.write(HELLO)
        await stream.read()
        await stream.write(objects_pb2.ClientFrame(calls=calls))
        yield stream
        stream.cancel()


def endless_calls() -> list[objects_pb2.Call]:
    sizes = [b"\x81\xa4size" + size for size in (b"\x00", b"\xce\x00\x01\x86\xa0")]
    calls = [
        call(number, method="endless", key=f"{number}", credit=ENDLESS, arguments=size)
        for number, size in enumerate(sizes, 1)
    ]
    return [*calls, call(3, method="endless_writes", key="3", credit=ENDLESS)]


def test_credit_without_end_fills_nothing_and_starves_nobody(server: Server) -> None:
    async def scenario() -> None:
        await server.answers()
        before = server.resident()
        async with streaming(server, *endless_calls()) as stream:
            for _ in range(5):
                await server.answers()
            assert server.resident() - before < 200 * 2**20
            got: dict[int, int] = {}
            while len(got) < 3 or min(got.values()) < 100:  # who reads, goes on getting
                for item in (await stream.read()).items:
                    got[item.id] = got.get(item.id, 0) + 1
        await server.answers()

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_others_go_on_beside_slow_readers(server: Server) -> None:
    async def beside_them() -> float:
        async def read_slowly(stream: Any) -> None:
            while True:
                await stream.read()
                await asyncio.sleep(0.1)

        big = [call(number, method="big", key=f"{number % 50}") for number in range(200)]
        async with (
            streaming(server, *big),  # never read
            streaming(server, *endless_calls()) as slow,
        ):
            reader = asyncio.ensure_future(read_slowly(slow))
            await server.answers()  # until then the node has sent what it could
            took = await server.answers()
            reader.cancel()
        return took

    async def scenario() -> None:
        ratios: list[float] = []
        for _ in range(6):  # other programs disturb one measurement, not all
            alone = await server.answers()
            took = await beside_them()
            alone = max(alone, await server.answers())
            ratios.append(took / alone)
            if ratios[-1] < 2:
                return
        raise AssertionError(f"latency beside slow readers, relative to without: {ratios}")

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_one_frame_of_calls_with_large_answers_fills_nothing(server: Server) -> None:
    async def scenario() -> None:
        await server.answers()
        before = server.resident()
        async with grpc.aio.insecure_channel(server.address) as channel:
            stream = objects_pb2_grpc.ObjectsStub(channel).Session()
            await stream.write(HELLO)
            big = [call(number, method="big", key=f"{number % 50}") for number in range(1200)]
            await stream.write(objects_pb2.ClientFrame(calls=big))
            await server.answers()
            await asyncio.sleep(1.0)  # time enough to run all of them, were they taken
            assert server.resident() - before < 400 * 2**20
            stream.cancel()
        await server.answers()

    asyncio.run(scenario())


def test_a_timeout_that_is_not_a_number_is_refused(server: Server) -> None:
    async def scenario() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = objects_pb2_grpc.ObjectsStub(channel)
            request = objects_pb2.InvokeRequest(
                class_name="Counter", key="k", method="increment", timeout_s=float("nan")
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Invoke(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(scenario())
