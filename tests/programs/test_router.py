"""Routers as real processes between real clients and a real node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import roost
from roost.cluster.ids import request_id
from roost.options import DEADLINE_S
from roost.v1 import objects_pb2, objects_pb2_grpc, shard_map_pb2, shard_map_pb2_grpc
from roost_node.local_cluster import free_port

APP = """
import asyncio
from roost import DurableObject, method

class Counter(DurableObject):
    count: int = 0

    async def add(self) -> int:
        self.count += 1
        return self.count

    async def get(self) -> int:
        return self.count

    async def big(self) -> bytes:
        return b"x" * 1_000_000

    async def slow(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        self.count += 1
        return self.count

class Log(DurableObject):
    lines: list[str] = []

    async def post(self, line: str) -> int:
        self.lines = [*self.lines, line]
        return len(self.lines)

    async def all(self) -> list[str]:
        return self.lines

    async def tail(self, end: int):
        for number in range(end):
            yield number
            await asyncio.sleep(0)
"""
PAGE = 4096
HELLO = objects_pb2.ClientFrame(hello=objects_pb2.Hello(client="raw", wire_version=1))


class Process:
    """A node or a router, on a port that it keeps over restarts."""

    def __init__(self, *command: str) -> None:
        self.port = free_port()
        self._command = [sys.executable, "-m", *command, "--port", str(self.port)]
        self._command += ["--log-level", "warning"]
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(self._command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)

    def resident(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE


class Cluster:
    """One node, some routers."""

    def __init__(self, folder: Path) -> None:
        app = folder / "app.py"
        app.write_text(APP)
        self.node = Process("roost_node", "node", str(app), "--data", str(folder / "data"))
        self.routers: list[Process] = []

    def router(self, *flags: str) -> Process:
        router = Process("roost_router", "router", "--nodes", self.node.address, *flags)
        self.routers.append(router)
        return router

    def connect(self, *routers: Process, timeout: float = 60.0) -> Any:
        addresses = [router.address for router in routers or self.routers]
        return roost.connect(*addresses, timeout=timeout, connect_timeout=30.0)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        yield cluster
    finally:
        for process in (*cluster.routers, cluster.node):
            if process.process.poll() is None:
                process.kill()


class Load:
    """Callers that count and post, a few calls at once, until told to stop."""

    def __init__(self, client: roost.Cluster) -> None:
        self._client = client
        self._stop = False
        self.counted: list[int] = []
        self.posted: dict[str, int] = {}

    async def count(self) -> None:
        stub = self._client.object("Counter", "shared")
        while not self._stop:
            self.counted += await asyncio.gather(stub.add(), stub.add(), stub.add())

    async def post(self, name: str) -> None:
        stub = self._client.object("Log", "shared")
        count = 0
        while not self._stop:
            lines = [f"{name} {count + n}" for n in range(3)]
            count += 3
            self.posted.update(
                zip(lines, await asyncio.gather(*(stub.post(line) for line in lines)), strict=True)
            )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(self.count())
            for name in ("ann", "bob"):
                tasks.create_task(self.post(name))
            yield
            self._stop = True

    async def more(self, answers: int = 60) -> None:
        """Until so many more answers have come."""
        end = len(self.counted) + answers
        while len(self.counted) < end:
            await asyncio.sleep(0.005)

    async def check(self) -> None:
        """Once each, and in the order of each caller."""
        assert sorted(self.counted) == list(range(1, len(self.counted) + 1))
        assert await self._client.object("Counter", "shared").get() == len(self.counted)
        lines = await self._client.object("Log", "shared").all()
        assert {line: at for at, line in enumerate(lines, 1)} == self.posted
        for name in ("ann", "bob"):
            numbers = [int(line.split()[1]) for line in lines if line.startswith(name)]
            assert numbers == list(range(len(numbers)))


def play(story: Any) -> None:
    asyncio.run(asyncio.wait_for(story, 150))


def test_calls_lists_and_streams_go_through_every_router(cluster: Cluster) -> None:
    first, second = cluster.router(), cluster.router("--metrics-port", "0")

    async def story() -> None:
        async with cluster.connect(first) as one, cluster.connect(second) as two:
            for number in range(30):
                client = (one, two)[number % 2]
                assert await client.object("Counter", f"c{number}").add() == 1
            assert [n async for n in one.object("Log", "t").tail(end=300)] == list(range(300))
            keys = [info.key async for info in two.objects("Counter")]
            assert sorted(keys) == sorted(f"c{number}" for number in range(30))
            detail = await one.show("Counter", "c7")
            assert detail is not None
            assert json.loads(detail.fields_json) == {"count": 1}
            assert await two.delete("Counter", "c7")
            assert await one.show("Counter", "c7") is None
            status = await one.status()
            assert status.classes == ("Counter", "Log")
            rid = roost.new_request_id()
            stub = one.object("Counter", "o")
            assert await roost.options(stub, request_id=rid).add() == 1
            found = await roost.outcome(two.object("Counter", "o"), rid)
            assert isinstance(found, roost.Committed)
            assert found.result == 1

    play(story())
    assert first.stop() == 0
    assert second.stop() == 0


def test_kill_9_of_a_router_under_load_is_no_error(cluster: Cluster) -> None:
    routers = cluster.router(), cluster.router()

    async def story() -> None:
        async with cluster.connect() as client:
            load = Load(client)
            async with load.running():
                for round_ in range(4):
                    await load.more()
                    await asyncio.to_thread(routers[round_ % 2].kill)
                    await load.more()
                    routers[round_ % 2].start()
            await load.check()

    play(story())


def test_a_router_told_to_stop_answers_what_it_has_and_its_clients_move_on(
    cluster: Cluster,
) -> None:
    # Longer than the test waits: it must not be the end of the grace period that moves them.
    first, second = cluster.router("--grace-s", "600"), cluster.router()

    async def story() -> None:
        async with cluster.connect(first, second) as client:
            load = Load(client)
            async with load.running():
                await load.more()
                slow = asyncio.ensure_future(client.object("Counter", "slow").slow(seconds=0.5))
                await asyncio.sleep(0.1)
                first.process.send_signal(signal.SIGTERM)
                assert await slow == 1
                await load.more()
            assert await asyncio.to_thread(first.process.wait, 40) == 0
            await load.check()

    play(story())


def test_a_frozen_router_is_left_for_another_long_before_a_calls_deadline(cluster: Cluster) -> None:
    routers = cluster.router(), cluster.router()

    async def story() -> None:
        async with cluster.connect(timeout=DEADLINE_S) as client:
            load = Load(client)
            async with load.running():
                for router in routers:
                    await load.more()
                    router.process.send_signal(signal.SIGSTOP)
                    await load.more()
                    router.process.send_signal(signal.SIGCONT)
            await load.check()

    play(story())


def test_a_restart_of_the_node_behind_a_router_is_latency_not_an_error(cluster: Cluster) -> None:
    cluster.router()

    async def story() -> None:
        async with cluster.connect() as client:
            load = Load(client)
            async with load.running():
                for end in (cluster.node.kill, cluster.node.stop, cluster.node.kill):
                    await load.more()
                    await asyncio.to_thread(end)
                    cluster.node.start()
                await load.more()
            await load.check()

    play(story())


def test_a_restart_of_the_node_is_no_error_to_a_direct_client(cluster: Cluster) -> None:
    async def story() -> None:
        direct = roost.connect(
            cluster.node.address, timeout=60.0, connect_timeout=30.0, direct=True
        )
        async with direct as client:
            load = Load(client)
            async with load.running():
                for end in (cluster.node.kill, cluster.node.stop):
                    await load.more()
                    await asyncio.to_thread(end)
                    cluster.node.start()
                await load.more()
            await load.check()

    play(story())


def test_a_router_may_be_there_before_its_node(tmp_path: Path) -> None:
    port = free_port()
    router = Process("roost_router", "router", "--nodes", f"127.0.0.1:{port}")
    try:

        async def serving() -> str:
            async with grpc.aio.insecure_channel(router.address) as channel:
                raw: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
                return str((await raw(b"", wait_for_ready=True, timeout=30)).hex())

        assert asyncio.run(serving()) == "0802"  # NOT_SERVING
        cluster = Cluster(tmp_path)
        cluster.node.kill()
        cluster.node.port = port
        cluster.node._command[cluster.node._command.index("--port") + 1] = str(port)
        cluster.node.start()

        async def story() -> None:
            async with roost.connect(router.address, connect_timeout=60.0) as client:
                assert await client.object("Counter", "a").add() == 1
            assert await serving() == "0801"

        play(story())
        cluster.node.kill()
    finally:
        router.kill()


def call(number: int, method: str, key: str = "k", **fields: object) -> objects_pb2.Call:
    now_ms = time.time_ns() // 1_000_000
    message = objects_pb2.Call(
        id=number,
        class_name="Counter",
        key=key,
        method=method,
        request_id=request_id(now_ms, random.getrandbits(74)),
        deadline_ms=now_ms + 20_000,
    )
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def test_a_client_that_does_not_read_slows_nobody_and_fills_nothing(cluster: Cluster) -> None:
    router = cluster.router("--session-unread-max", "8000000")

    async def latency(client: roost.Cluster) -> float:
        took = []
        for number in range(60):
            started = time.perf_counter()
            await client.object("Counter", f"w{number}").add()
            took.append(time.perf_counter() - started)
        return sorted(took)[30]

    async def story() -> None:
        async with cluster.connect() as client:
            quiet = await latency(client)
            before = router.resident()
            async with grpc.aio.insecure_channel(router.address) as channel:
                stream = objects_pb2_grpc.ObjectsStub(channel).Session()
                await stream.write(HELLO)
                for number in range(30):
                    big = [call(number * 10 + n, "big", f"b{n}") for n in range(10)]
                    try:
                        frame = objects_pb2.ClientFrame(calls=big)
                        await asyncio.wait_for(stream.write(frame), 0.3)
                    except (TimeoutError, asyncio.CancelledError, grpc.aio.AioRpcError):
                        break  # it is not read from, or was hung up on
                assert await latency(client) < max(20 * quiet, quiet + 0.5)
                assert router.resident() - before < 150 * 2**20
                stream.cancel()
            assert await client.object("Counter", "after").add() == 1

    play(story())


def test_too_many_calls_are_refused_with_a_time_to_come_again(cluster: Cluster) -> None:
    router = cluster.router("--open-calls-max", "20")

    async def story() -> None:
        async with cluster.connect(router, timeout=1.5) as greedy, cluster.connect(router) as other:
            slow = [
                asyncio.ensure_future(greedy.object("Counter", f"s{n}").slow(seconds=1.2))
                for n in range(60)
            ]
            await asyncio.sleep(0.3)
            assert await other.object("Counter", "x").add() == 1  # there is room for others
            ended = await asyncio.gather(*slow, return_exceptions=True)
            refused = [e for e in ended if isinstance(e, roost.OverloadedError)]
            assert refused
            assert all(0 < error.retry_after_s <= 5 for error in refused)
            assert sum(isinstance(e, int) for e in ended) >= 10

    play(story())


def test_rubbish_ends_the_stream_that_sent_it_and_no_other(cluster: Cluster) -> None:
    router = cluster.router()

    async def story() -> None:
        rng = random.Random(1)
        async with cluster.connect() as client:
            assert await client.object("Counter", "w").add() == 1
            async with grpc.aio.insecure_channel(router.address) as channel:
                raw: Any = channel.stream_stream("/roost.v1.Objects/Session")
                good = HELLO.SerializeToString()
                calls = [call(n, "add", key=f"r{n}") for n in range(20)]
                whole = objects_pb2.ClientFrame(calls=calls).SerializeToString()
                for number in range(60):
                    frames = (
                        [good[: len(good) // 2], b""],
                        [good, whole[: rng.randrange(1, len(whole))]],
                        [good, rng.randbytes(rng.randrange(1, 2000))],
                        [good, whole.replace(b"add", b"\xff\xfe\xfd", 1)],
                        [whole],
                    )[number % 5]

                    async def requests(frames: list[bytes] = frames) -> AsyncIterator[bytes]:
                        for frame in frames:
                            yield frame

                    with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError):
                        async for _ in raw(requests(), timeout=5):
                            pass
            for number in range(2, 40):
                assert await client.object("Counter", "w").add() == number

    play(story())
    assert router.stop() == 0


def test_calls_that_make_no_sense_get_the_nodes_typed_answers(cluster: Cluster) -> None:
    router = cluster.router()
    cases: list[tuple[dict[str, object], int]] = [
        ({"class_name": "Nothing"}, 1),
        ({"method": "__init__"}, 2),
        ({"key": ""}, 3),
        ({"key": "x" * 1025}, 4),
        ({"request_id": b"short"}, 3),
        ({"stub_id": 5, "sequence": 1, "oldest": 2}, 3),
        ({"deadline_ms": 1}, 49),
        ({"request_id": request_id(1000, 5)}, 8),
    ]

    async def story() -> None:
        async with cluster.connect():
            pass  # the router has found the node
        async with grpc.aio.insecure_channel(router.address) as channel:
            stream = objects_pb2_grpc.ObjectsStub(channel).Session(wait_for_ready=True)
            await stream.write(HELLO)
            await stream.read()
            calls = [call(n, **{"method": "add", **fields}) for n, (fields, _) in enumerate(cases)]  # type: ignore[arg-type]
            await stream.write(objects_pb2.ClientFrame(calls=calls))
            found: dict[int, int] = {}
            while len(found) < len(cases):
                frame = await stream.read()
                assert isinstance(frame, objects_pb2.ServerFrame)
                found.update((reply.id, reply.status) for reply in frame.replies)
            assert found == {number: status for number, (_, status) in enumerate(cases)}
            await stream.done_writing()

    play(story())


def test_the_map_is_passed_on_and_invoke_works(cluster: Cluster) -> None:
    router = cluster.router()

    async def story() -> None:
        async with grpc.aio.insecure_channel(router.address) as channel:
            watch = shard_map_pb2_grpc.MapStub(channel).Watch(
                shard_map_pb2.WatchRequest(), wait_for_ready=True
            )
            update = await watch.read()
            assert isinstance(update, shard_map_pb2.MapUpdate)
            assert len(update.shards) == update.shape.shard_count
            assert {record.address for record in update.shards} == {cluster.node.address}
            watch.cancel()
            stub = objects_pb2_grpc.ObjectsStub(channel)
            request = objects_pb2.InvokeRequest(class_name="Counter", key="i", method="add")
            assert (await stub.Invoke(request)).json == "1"
            request.method = "nothing"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Invoke(request)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    play(story())


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "roost_router", "router", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, **environment},
    )


def test_settings_are_checked_and_strangers_are_kept_out_by_default(tmp_path: Path) -> None:
    stranger = run("--host", "0.0.0.0", "--port", "0")
    assert stranger.returncode == 1
    assert "--insecure" in stranger.stderr
    assert run("--nodes", " , ").returncode == 2
    assert run("--open-calls-max", "0").returncode == 2
    assert run(ROOST_OPEN_CALLS_MAX="0").returncode == 2
    (tmp_path / "router.toml").write_text("no_such_knob = 1")
    wrong = run("--config", str(tmp_path / "router.toml"))
    assert wrong.returncode == 2
    assert "no_such_knob" in wrong.stderr
    assert "ROOST_NODES" in run("--help").stdout


def test_metrics_tell_what_goes_through(cluster: Cluster) -> None:
    port = free_port()
    cluster.router("--metrics-port", str(port))

    async def story() -> None:
        async with cluster.connect() as client:
            for _ in range(5):
                await client.object("Counter", "m").add()
        with await asyncio.to_thread(
            urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics"
        ) as page:
            text = page.read().decode()
        assert "roost_router_calls_total 5.0" in text
        assert "roost_router_links_open 1.0" in text

    play(story())
