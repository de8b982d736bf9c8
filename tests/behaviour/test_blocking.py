"""The blocking client, against a real server: the same surface, without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import roost
from behaviour.conftest import serving
from roost import DurableObject


class Counter(DurableObject):
    count: int = 0

    async def increment(self, by: int = 1) -> int:
        self.count += by
        return self.count

    async def numbers(self, end: int) -> AsyncIterator[int]:
        for number in range(end):
            yield number

    async def hold(self) -> None:
        await asyncio.sleep(30)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    started = threading.Event()
    stop = asyncio.Event()
    found: list[tuple[asyncio.AbstractEventLoop, int]] = []

    async def serve() -> None:
        async with serving(tmp_path, Counter) as server:
            found.append((asyncio.get_running_loop(), server.port))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(20)
    loop, port = found[0]
    yield f"127.0.0.1:{port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join()


def test_calls_streams_options_outcome_and_the_catalog(address: str) -> None:
    with roost.sync.connect(address) as cluster:
        counter = cluster.object(Counter, "c")
        assert cluster.call(counter.increment, by=2) == 2
        assert cluster.object("Counter", "c").increment(by=1) == 3
        assert list(cluster.iterate(counter.numbers, 5)) == [0, 1, 2, 3, 4]
        rid = roost.new_request_id()
        assert cluster.outcome(counter, rid) == roost.Unknown()
        for _ in range(2):
            assert cluster.call(roost.options(counter, request_id=rid).increment) == 4
        assert cluster.outcome(counter, rid) == roost.Committed(4)
        with pytest.raises(roost.DeadlineExceededError) as caught:
            cluster.call(roost.options(counter, timeout=0.1).hold)
        assert caught.value.took_effect in ("no", "maybe")  # if its owner was too busy to say
        assert [info.key for info in cluster.objects(Counter)] == ["c"]
        untyped = cluster.object("Counter", "c")
        assert untyped.increment() == 5
        with pytest.raises(roost.UnknownMethodError):
            untyped.nothing()
        with pytest.raises(roost.InvalidArgumentError):
            untyped.increment(by="much")


def test_nothing_is_left_on_its_loop_when_it_is_closed(address: str) -> None:
    left: list[asyncio.Task[None]] = []
    with roost.sync.connect(address) as cluster:

        async def begin() -> None:
            left.append(asyncio.create_task(asyncio.sleep(3600)))

        cluster._run(begin())
    assert left[0].cancelled()


def test_it_can_be_shared_between_threads(address: str) -> None:
    with roost.sync.connect(address) as cluster:
        counter = cluster.object(Counter, "c")

        def work() -> None:
            for _ in range(20):
                cluster.call(counter.increment)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cluster.call(counter.increment, by=0) == 80


def test_it_refuses_to_stop_an_event_loop(address: str) -> None:
    async def inside() -> None:
        with pytest.raises(roost.RoostError, match="event loop"), roost.sync.connect(address):
            pass

    asyncio.run(inside())


def test_a_closed_client_says_so(address: str) -> None:
    with roost.sync.connect(address) as cluster:
        counter = cluster.object(Counter, "c")
        cluster.call(counter.increment)
    with pytest.raises(roost.UnavailableError, match="closed"):
        cluster.call(counter.increment)
