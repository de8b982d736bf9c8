"""Every bound answers with its typed error, in process and through the wire, and nothing happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import roost
from behaviour.conftest import Run
from roost import DurableObject, method
from roost.client import Cluster


class Box(DurableObject):
    value: int = 0
    text: str = ""

    async def add(self, data: bytes = b"") -> int:
        self.value += 1
        return self.value

    @method(read_only=True)
    async def get(self) -> int:
        return self.value

    async def hold(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return self.value

    async def block_and_call(self, seconds: float) -> int:
        time.sleep(seconds)  # noqa: ASYNC251  # code that stops the loop is what the bound is for
        return await roost.options(self.ctx.object(Box, "more"), timeout=0.02).add()

    async def write_field(self, size: int) -> None:
        self.value = 99
        self.text = "x" * size

    async def write_rows(self, count: int, size: int, result: int = 0) -> bytes:
        self.value = 99
        for number in range(count):
            self.ctx.storage.put(f"{number}", b"x" * size)
        return b"x" * result

    async def write_row(self, key: str, size: int) -> None:
        self.ctx.storage.put(key, b"x" * size)

    async def read_row(self, key: str) -> int:
        return len(self.ctx.storage.get(key))

    async def unencodable(self) -> Any:
        self.value = 99
        return object()

    @method(timeout=0.1)
    async def impatient(self) -> None:
        self.value = 99
        await asyncio.sleep(30)

    async def raises(self, name: str) -> None:
        self.value = 99
        raise getattr(roost, name)("raised inside")

    async def numbers(self, end: int) -> AsyncIterator[int]:
        for number in range(end):
            yield number

    async def chain(self) -> list[str]:
        return [*self.ctx.call.chain]

    async def ask_chain(self, key: str) -> list[str]:
        return await self.ctx.object(Box, key).chain()


def test_too_many_open_calls(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        held = [asyncio.ensure_future(cluster.object(Box, f"{n}").hold(0.6)) for n in range(3)]
        while (await cluster.status()).calls_running < 3:
            await asyncio.sleep(0.01)
        with pytest.raises(roost.OverloadedError, match="3 open calls, at most 3") as caught:
            await roost.options(cluster.object(Box, "more"), timeout=0.1).add()
        assert (caught.value.took_effect, caught.value.retryable) == ("no", True)
        assert caught.value.retry_after_s > 0
        await asyncio.gather(*held)
        assert await cluster.object(Box, "more").add() == 1

    run(scenario, Box, open_calls_max=3)


def test_too_many_open_bytes(run: Run) -> None:
    class Slow(DurableObject):
        async def take(self, data: bytes, seconds: float) -> int:
            await asyncio.sleep(seconds)
            return len(data)

    async def scenario(cluster: Cluster) -> None:
        held = asyncio.ensure_future(cluster.object(Slow, "a").take(b"x" * 900_000, 2.0))
        while not (await cluster.status()).calls_running:
            await asyncio.sleep(0.01)
        with pytest.raises(roost.OverloadedError, match="bytes, at most 1048576") as caught:
            await roost.options(cluster.object(Slow, "b"), timeout=0.8).take(b"x" * 900_000, 0)
        assert caught.value.took_effect == "no"
        assert await cluster.object(Slow, "c").take(b"small", 0) == 5
        assert await held == 900_000

    run(scenario, Slow, open_bytes_max=2**20)


def test_calls_that_cannot_run_for_long_stop_more_from_coming(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        busy = [cluster.object(Box, f"{n}").block_and_call(0.1) for n in range(5)]
        errors = await asyncio.gather(*busy, return_exceptions=True)
        assert isinstance(errors[0], roost.ObjectError), errors
        assert errors[0].type == "OverloadedError"
        assert "oldest ready call has waited" in str(errors[0])
        assert await cluster.object(Box, "more").add() >= 1

    run(scenario, Box, ready_wait_ms_max=30)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda box: box.add(b"x" * 3_000_000), "arguments take 3000"),
        (lambda box: box.write_field(70_000), r"Box\.text would take 7000\d bytes, at most 65536"),
        (lambda box: box.write_rows(3, 900_000), "write less in one call"),
        (lambda box: box.write_rows(1, 1_000_000, 1_500_000), "wrote 250.* at most 2097152"),
        (lambda box: box.write_rows(0, 0, 2_500_000), "returned 250.* at most 2097152"),
        (lambda box: box.write_row("é" * 513, 1), "storage key has 1026 bytes"),
        (lambda box: box.write_row("k", 1_100_000), "split it over several keys"),
    ],
    ids=["arguments", "field", "rows", "rows and result", "result", "row key", "row value"],
)
def test_what_is_too_large_is_rolled_back(run: Run, call: Any, message: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        box = cluster.object(Box, "b")
        assert await box.add() == 1
        with pytest.raises(roost.TooLargeError, match=message) as caught:
            await call(box)
        assert (caught.value.took_effect, caught.value.retryable) == ("no", False)
        assert await box.get() == 1

    run(scenario, Box)


def test_an_object_holds_no_more_than_its_bound(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        box = cluster.object(Box, "b")
        await box.write_row("a", 40_000)
        with pytest.raises(roost.TooLargeError, match=r"would hold .* at most 65536"):
            await box.write_row("b", 40_000)
        await box.write_row("a", 10)  # less is always allowed
        await box.write_row("b", 40_000)

    run(scenario, Box, object_bytes_max=65_536)


def test_an_empty_storage_key_is_a_key(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        box = cluster.object(Box, "b")
        await box.write_row("", 7)
        assert await box.read_row("") == 7

    run(scenario, Box)


def test_a_result_that_cannot_be_encoded_is_rolled_back(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        box = cluster.object(Box, "b")
        assert await box.add() == 1
        with pytest.raises(roost.ObjectError, match="cannot be encoded") as caught:
            await box.unencodable()
        assert caught.value.took_effect == "no"
        assert await box.get() == 1

    run(scenario, Box)


def test_a_method_has_its_own_bound_on_time(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        box = cluster.object(Box, "b")
        started = time.perf_counter()
        with pytest.raises(roost.DeadlineExceededError) as caught:
            await box.impatient()
        assert caught.value.took_effect == "no"
        assert time.perf_counter() - started < 20  # far below the caller's 30 s
        assert await box.get() == 0

    run(scenario, Box)


@pytest.mark.parametrize(
    ("name", "arrives"),
    [
        ("ReadOnlyError", "ReadOnlyError"),
        ("TooLargeError", "TooLargeError"),
        ("DeadlockError", "DeadlockError"),
        ("DeadlineExceededError", "DeadlineExceededError"),
        ("InvalidArgumentError", "ObjectError"),
        ("UnknownMethodError", "ObjectError"),
        ("UnavailableError", "ObjectError"),
        ("OverloadedError", "ObjectError"),
        ("OutcomeUnknownError", "ObjectError"),
        ("StaleCallError", "ObjectError"),
        ("StoreError", "ObjectError"),
    ],
)
def test_a_roost_error_raised_inside_is_the_objects_error_but_for_four(
    run: Run, name: str, arrives: str
) -> None:
    async def scenario(cluster: Cluster) -> None:
        box = cluster.object(Box, "b")
        with pytest.raises(roost.RoostError, match="raised inside") as caught:
            await box.raises(name)
        assert type(caught.value).__name__ == arrives
        if isinstance(caught.value, roost.ObjectError):
            assert caught.value.type == name
        assert await box.get() == 0

    run(scenario, Box)


def test_an_object_knows_the_chain_of_calls_that_led_to_it(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        assert await cluster.object(Box, "a").chain() == []
        assert await cluster.object(Box, "a").ask_chain("b") == ["Box/a.ask_chain"]

    run(scenario, Box)


def test_options_share_the_order_of_their_stub(run: Run) -> None:
    async def scenario(cluster: Cluster) -> None:
        box = cluster.object(Box, "b")
        stubs = [box, roost.options(box, timeout=5.0), roost.options(box, timeout=6.0)]
        calls = [stubs[number % 3].add() for number in range(30)]
        assert await asyncio.gather(*calls) == list(range(1, 31))

    run(scenario, Box)
