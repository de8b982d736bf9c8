"""What nothing on this machine can beat: a flush, a stream's round trip, the engine alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc
import grpc.aio
import uvloop

from roost.v1 import objects_pb2, objects_pb2_grpc
from roost_node.storage.rocks import RocksStore


def flush_s(folder: Path, count: int = 300) -> float:
    """Median seconds of a 4 KiB write and fdatasync."""
    took: list[float] = []
    handle = os.open(folder / "floor", os.O_RDWR | os.O_CREAT)
    try:
        for number in range(count):
            started = time.perf_counter()
            os.pwrite(handle, b"x" * 4096, number * 4096)
            os.fdatasync(handle)
            took.append(time.perf_counter() - started)
    finally:
        os.close(handle)
    return sorted(took)[count // 2]


def engine_puts_per_s(folder: Path, batch: int = 128, rounds: int = 200) -> float:
    """Calls a second if a call were nothing but its two puts, in flushed batches."""
    store = RocksStore.open(Path(tempfile.mkdtemp(prefix="engine-", dir=folder)))
    rows = [(os.urandom(40), os.urandom(90)) for _ in range(2 * batch)]
    started = time.perf_counter()
    for _ in range(rounds):
        store.write(rows)
        store.sync()
    elapsed = time.perf_counter() - started
    store.close()
    return batch * rounds / elapsed


class Echo(objects_pb2_grpc.ObjectsServicer):
    """Answers each frame with as many replies as it has calls."""

    async def Session(  # type: ignore[override]  # noqa: N802  # it writes through its context
        self,
        request_iterator: AsyncIterator[objects_pb2.ClientFrame],
        context: grpc.aio.ServicerContext[objects_pb2.ClientFrame, objects_pb2.ServerFrame],
    ) -> None:
        """Echo."""
        while True:
            frame = await context.read()
            if not isinstance(frame, objects_pb2.ClientFrame):
                return
            replies = [objects_pb2.Reply(id=call.id, payload=b"\x01") for call in frame.calls]
            await context.write(objects_pb2.ServerFrame(replies=replies))

    async def Invoke(  # noqa: N802
        self,
        request: objects_pb2.InvokeRequest,
        context: grpc.aio.ServicerContext[
            objects_pb2.InvokeRequest, Awaitable[objects_pb2.InvokeReply]
        ],
    ) -> objects_pb2.InvokeReply:
        """Not measured."""
        return objects_pb2.InvokeReply()


async def _serve() -> None:
    server = grpc.aio.server()
    objects_pb2_grpc.add_ObjectsServicer_to_server(Echo(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def _echo(port: int, callers: int, seconds: float) -> tuple[float, float]:
    """Calls a second and median round trip in seconds, `callers` calls in each frame."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = objects_pb2_grpc.ObjectsStub(channel).Session()
        calls = [
            objects_pb2.Call(
                id=n, class_name="Counter", key=f"key-{n}", method="increment", arguments=b"\x90",
                request_id=bytes(16), deadline_ms=1_700_000_000_000, stub_id=2**60 + n, sequence=n, oldest=n,
            )
            for n in range(1, callers + 1)
        ]  # fmt: skip
        took: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            await stream.write(objects_pb2.ClientFrame(calls=calls))
            await stream.read()
            took.append(time.perf_counter() - started)
        await stream.done_writing()
    return callers * len(took) / sum(took), sorted(took)[len(took) // 2]


def echo(callers: int, seconds: float = 1.5) -> tuple[float, float]:
    """The floor of a call over the same kind of stream, in the same batches, with no work done."""
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.floors"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        return uvloop.run(_echo(port, callers, seconds))
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


class Floors:
    """All of them, measured at one time."""

    def __init__(self, flush_us: float, echo_us: float, echo_128: float, engine: float) -> None:
        self.flush_us = flush_us
        self.echo_us = echo_us  # a round trip
        self.echo_128 = echo_128  # calls a second
        self.engine = engine  # likewise

    def best(self, other: Floors) -> Floors:
        """Of two measurements: whatever made the other one slower is no floor."""
        return Floors(
            min(self.flush_us, other.flush_us),
            min(self.echo_us, other.echo_us),
            max(self.echo_128, other.echo_128),
            max(self.engine, other.engine),
        )


def measure(folder: Path) -> Floors:
    """Takes some seconds."""
    return Floors(flush_s(folder) * 1e6, echo(1)[1] * 1e6, echo(128)[0], engine_puts_per_s(folder))


def folder() -> tempfile.TemporaryDirectory[str]:
    """Where floors and benchmarks write: the same disk for all."""
    return tempfile.TemporaryDirectory(prefix="roost-bench-", dir=Path.cwd())


if __name__ == "__main__":
    uvloop.run(_serve())
