"""Objects whose own code misbehaves: their callers are told, everybody else goes on."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import msgspec
import pytest

import roost
from behaviour.conftest import Run
from behaviour.hosting import Inbox, a_call, hosting, play, until
from roost import ApplicationError, DurableObject, method, migrate
from roost.wire.messages import Status
from roost_node.storage.memory import MemoryStore


class Checked(msgspec.Struct):
    x: int = 0

    def __post_init__(self) -> None:
        if self.x < 0:
            raise RuntimeError("negative")


class SilentError(ApplicationError):
    def __init__(self, have: int) -> None:  # it does not call super().__init__
        self.have = have


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class HugeError(ApplicationError):
    pass


class Odd(DurableObject):
    count: int = 0
    checked: Checked = Checked()

    async def add(self) -> int:
        self.count += 1
        return self.count

    async def take(self, checked: Checked) -> int:
        return checked.x

    async def silent(self) -> None:
        raise SilentError(3)

    async def unprintable(self) -> None:
        raise UnprintableError

    async def huge(self) -> None:
        raise HugeError("x" * 9_000_000, b"y" * 9_000_000)

    @method(read_only=True)
    async def spoil(self) -> None:
        self.checked.x = -1  # can be encoded, cannot be decoded


def test_an_argument_whose_type_raises_is_the_callers_fault(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        odd = cluster.object("Odd", "o")
        with pytest.raises(roost.InvalidArgumentError, match="negative"):
            await odd.take({"x": -1})
        assert await odd.add() == 1

    run(scenario, Odd)


def test_an_error_without_its_base_constructor_arrives(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        odd = cluster.object(Odd, "o")
        with pytest.raises(SilentError) as caught:
            await odd.silent()
        assert caught.value.have == 3
        with pytest.raises(roost.ObjectError, match="UnprintableError"):
            await odd.unprintable()
        assert await odd.add() == 1

    run(scenario, Odd)


def test_an_error_of_many_megabytes_does_not_break_the_link(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        odd = cluster.object(Odd, "o")
        with pytest.raises(HugeError) as caught:
            await odd.huge()
        assert len(str(caught.value)) < 100_000
        assert await odd.add() == 1

    run(scenario, Odd)


def test_a_reader_that_spoils_a_value_is_told_and_the_value_is_put_back(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        odd = cluster.object(Odd, "o")
        with pytest.raises(roost.ReadOnlyError):
            await odd.spoil()
        assert await odd.add() == 1

    run(scenario, Odd)


def test_a_migration_that_raises_answers_its_calls_and_is_tried_again() -> None:
    def make(version: int) -> type[Any]:
        class Old(DurableObject):
            value: int = 0

            async def add(self) -> int:
                self.value += 1
                return self.value

        class New(DurableObject, version=2):
            value: int = 0
            tries = 0

            @migrate(from_version=1)
            @staticmethod
            def _up(state: dict[str, Any]) -> dict[str, Any]:
                New.tries += 1
                if New.tries == 1:
                    raise KeyError("missing")
                return {"value": state["value"] + 10}

            async def add(self) -> int:
                self.value += 1
                return self.value

        chosen: type[Any] = Old if version == 1 else New
        chosen.__name__ = "Thing"
        return chosen

    async def scenario() -> None:
        store = MemoryStore()
        async with hosting(make(1), store=store) as host:
            inbox = Inbox()
            host.submit(a_call(host, 1, "Thing", "t", "add"), inbox)
            assert (await inbox.reply(1)).status == 0
        async with hosting(make(2), store=store) as host:
            inbox = Inbox()
            host.submit(a_call(host, 1, "Thing", "t", "add"), inbox)
            refused = await inbox.reply(1)
            assert refused.status == Status.OBJECT_ERROR
            assert refused.error is not None
            assert "missing" in refused.error.message
            host.submit(a_call(host, 2, "Thing", "t", "add"), inbox)
            assert msgspec.msgpack.decode((await inbox.reply(2)).payload) == 12

    play(scenario())


def test_a_stretch_that_cannot_be_kept_says_why(run: Run) -> None:
    class Between(DurableObject):
        value: int = 0

        @method(interleave=True)
        async def spoil(self) -> None:
            self.value = "text"  # type: ignore[assignment]  # on purpose
            await asyncio.sleep(0.01)

        async def get(self) -> int:
            return self.value

    async def scenario(cluster: roost.Cluster) -> None:
        between = cluster.object(Between, "b")
        with pytest.raises(roost.ObjectError, match="declared as int"):
            await roost.options(between, timeout=5.0).spoil()
        assert await between.get() == 0

    run(scenario, Between)


variable: ContextVar[str] = ContextVar("variable", default="nothing")


class Contextual(DurableObject):
    async def call(self, other: str, value: str) -> str:
        variable.set(value)
        await asyncio.sleep(0.001)  # no worker is awake when the child call is made
        return await self.ctx.object(Contextual, other).get()

    async def get(self) -> str:
        return variable.get()


def test_context_variables_never_leak_into_other_calls(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        for number in range(20):
            a = cluster.object(Contextual, f"a{number}")
            assert await a.call(f"b{number}", "secret") == "nothing"
            assert await cluster.object(Contextual, f"c{number}").get() == "nothing"

    run(scenario, Contextual)


class Reckless(DurableObject):
    async def cancel_its_task(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)

    async def work(self) -> int:
        total = 0
        for number in range(20_000):
            total += number
        return total


def test_a_call_that_cancels_its_own_task_later_stops_nobody() -> None:
    async def scenario() -> None:
        async with hosting(Reckless) as host:
            inbox = Inbox()
            for number in range(1, 600):
                name = "cancel_its_task" if number % 7 == 0 else "work"
                host.submit(a_call(host, number, "Reckless", f"{number % 50}", name), inbox)
                if number % 40 == 0:
                    await asyncio.sleep(0)
            await until(lambda: len(inbox.replies) == 599)

    play(scenario())


def test_child_calls_hold_nothing_of_their_arguments() -> None:
    class Sender(DurableObject):
        @method(interleave=True)
        async def send(self, count: int) -> int:
            for number in range(count):
                await self.ctx.object(Sender, "sink").take(b"%d" % number + b"x" * 100_000)
            held = next(iter(self._host().activations["Sender", "source"].calls.values()))
            return sum(map(len, held.child_counts))

        def _host(self) -> Any:
            return self.ctx._port._activation.host  # type: ignore[attr-defined]

        @method(read_only=True)
        async def take(self, data: bytes) -> None: ...

    async def scenario() -> None:
        async with hosting(Sender) as host:
            inbox = Inbox()
            host.submit(a_call(host, 1, "Sender", "source", "send", 50), inbox)
            reply = await inbox.reply(1)
            assert msgspec.msgpack.decode(reply.payload) < 50 * 100

    play(scenario())
