"""Coming into memory, leaving it, changing shape."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

import roost
from behaviour.conftest import Run
from roost import DeactivationReason, DurableObject, method, migrate
from roost_node.host.loader import specs_of
from roost_node.node import Node


class Session(DurableObject, idle_after=0.05):
    woken: int = 0
    left: str = ""
    _memory: int = 0

    async def on_activate(self) -> None:
        self.woken += 1

    async def on_deactivate(self, reason: DeactivationReason) -> None:
        self.left = reason.value

    async def touch(self) -> tuple[int, str, int]:
        self._memory = getattr(self, "_memory", 0) + 1
        return self.woken, self.left, self._memory


def test_an_idle_object_leaves_memory_and_comes_back(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        session = cluster.object(Session, "s")
        assert await session.touch() == (1, "", 1)
        assert await session.touch() == (1, "", 2)
        for _ in range(100):
            if (await cluster.status()).activations == 0:
                break
            await asyncio.sleep(0.05)
        assert await session.touch() == (2, "idle", 1)

    run(scenario, Session)


def test_shutdown_runs_on_deactivate_and_keeps_what_it_wrote(tmp_path: Path) -> None:
    async def once() -> tuple[int, str, int]:
        async with roost.local(Session, path=tmp_path) as cluster:
            return await cluster.object(Session, "s").touch()

    assert asyncio.run(once()) == (1, "", 1)
    assert asyncio.run(once()) == (2, "shutdown", 1)


def test_on_deactivate_has_a_bound_on_its_time(run: Run) -> None:
    class Clinging(DurableObject, idle_after=0.02):
        value: int = 0

        async def add(self) -> int:
            self.value += 1
            return self.value

        async def on_deactivate(self, reason: DeactivationReason) -> None:
            self.value += 100
            await asyncio.sleep(60)

    async def scenario(cluster: roost.Cluster) -> None:
        clinging = cluster.object(Clinging, "c")
        assert await clinging.add() == 1
        while (await cluster.status()).activations:
            await asyncio.sleep(0.02)
        assert await clinging.add() == 2  # what the hook wrote went with it

    run(scenario, Clinging, hook_s=0.1)


def test_calls_and_deletes_that_come_while_an_object_leaves_wait_for_it(run: Run) -> None:
    class Slow(DurableObject, idle_after=0.02):
        value: int = 0
        leaving = 0

        async def add(self) -> int:
            self.value += 1
            return self.value

        async def on_deactivate(self, reason: DeactivationReason) -> None:
            Slow.leaving += 1
            await asyncio.sleep(0.2)
            Slow.leaving -= 1

    async def scenario(cluster: roost.Cluster) -> None:
        slow = cluster.object(Slow, "s")
        assert await slow.add() == 1
        while not Slow.leaving:
            await asyncio.sleep(0.01)
        assert await slow.add() == 2
        while not Slow.leaving:
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(cluster.delete(Slow, "s"), 10)
        assert await slow.add() == 1

    run(scenario, Slow)


def test_a_delete_that_waits_for_a_failing_activation_is_told(run: Run) -> None:
    class Never(DurableObject):
        waking = False

        async def on_activate(self) -> None:
            Never.waking = True
            await asyncio.sleep(0.1)
            raise ValueError("never")

        async def get(self) -> int:
            return 1

    async def scenario(cluster: roost.Cluster) -> None:
        call = asyncio.ensure_future(cluster.object(Never, "n").get())
        while not Never.waking:
            await asyncio.sleep(0.01)
        with pytest.raises(roost.RoostError, match="never"):
            await asyncio.wait_for(cluster.delete(Never, "n"), 10)
        with pytest.raises(roost.ObjectError, match="never"):
            await call

    run(scenario, Never)


def test_an_activation_that_fails_answers_its_calls_and_is_tried_again(run: Run) -> None:
    class Moody(DurableObject):
        ready: int = 0
        tries = 0

        async def on_activate(self) -> None:
            type(self).tries += 1
            self.ready += 1
            if type(self).tries < 3:
                raise ValueError("not yet")

        async def get(self) -> int:
            return self.ready

    async def scenario(cluster: roost.Cluster) -> None:
        moody = cluster.object(Moody, "m")
        for _ in range(2):
            with pytest.raises(roost.ObjectError, match="not yet"):
                await moody.get()
        assert await moody.get() == 1

    run(scenario, Moody)


def test_objects_over_the_limit_leave_coldest_first(run: Run) -> None:
    class Small(DurableObject):
        value: int = 0

        async def add(self) -> int:
            self.value += 1
            return self.value

    async def scenario(cluster: roost.Cluster) -> None:
        for round_ in range(2):
            for number in range(50):
                assert await cluster.object(Small, f"{number}").add() == round_ + 1
        assert (await cluster.status()).activations <= 10

    run(scenario, Small, activations_max=10)


def make(version: int) -> Any:
    if version == 1:

        class Person(DurableObject):
            name: str = ""
            born: str = ""

            async def rename(self, name: str) -> None:
                self.name = name
                self.born = "1980"

        return Person

    class Person2(DurableObject, version=3):
        first: str = ""
        last: str = ""
        born: int = 0

        @migrate(from_version=1)
        @staticmethod
        def _split(state: dict[str, Any]) -> dict[str, Any]:
            first, _, last = state["name"].partition(" ")
            return {"first": first, "last": last, "born": state["born"]}

        @migrate(from_version=2)
        @staticmethod
        def _year(state: dict[str, Any]) -> dict[str, Any]:
            return {**state, "born": int(state["born"])}

        async def rename(self, first: str, last: str) -> None:
            self.first, self.last = first, last

        async def show(self) -> list[object]:
            return [self.first, self.last, self.born]

    Person2.__name__ = "Person"
    return Person2


def test_stored_state_is_migrated_step_by_step(tmp_path: Path) -> None:
    async def old() -> None:
        async with roost.local(make(1), path=tmp_path) as cluster:
            await cluster.object("Person", "p").rename("Ada Lovelace")

    async def new() -> list[object]:
        async with roost.local(make(2), path=tmp_path) as cluster:
            await cluster.object("Person", "p").show()
            detail = await cluster.show("Person", "p")
            assert detail is not None
            assert detail.info.version == 3
            assert "name" not in detail.fields_json
            result: list[object] = await cluster.object("Person", "p").show()
            return result

    asyncio.run(old())
    assert asyncio.run(new()) == ["Ada", "Lovelace", 1980]
    with pytest.raises(roost.StateMismatchError, match="version 3"):
        asyncio.run(old())


def test_a_migration_that_raises_is_told_to_the_caller_and_tried_again(tmp_path: Path) -> None:
    class Old(DurableObject):
        value: int = 0

        async def add(self) -> int:
            self.value += 1
            return self.value

    class New(DurableObject, version=2):
        value: int = 0
        total: int = 0
        broken = True

        @migrate(from_version=1)
        @staticmethod
        def _rename(state: dict[str, Any]) -> dict[str, Any]:
            return {"total": state["nothing" if New.broken else "value"]}

        async def get(self) -> int:
            return self.total

    Old.__name__ = New.__name__ = "Thing"

    async def old() -> None:
        async with roost.local(Old, path=tmp_path) as cluster:
            assert await cluster.object("Thing", "t").add() == 1

    async def new() -> None:
        async with roost.local(New, path=tmp_path) as cluster:
            for _ in range(2):
                with pytest.raises(
                    roost.ObjectError, match="a @migrate of Thing/t raised KeyError"
                ) as caught:
                    await cluster.object("Thing", "t").get()
                assert caught.value.type == "KeyError"
            with pytest.raises(roost.OverloadedError, match="2 times in a row"):  # it backs off
                await roost.options(cluster.object("Thing", "t"), timeout=0.05).get()
            New.broken = False
            assert await cluster.object("Thing", "t").get() == 1

    asyncio.run(old())
    asyncio.run(new())


def test_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async def write() -> None:
        async with roost.local(make(2), path=tmp_path) as cluster:
            await cluster.object("Person", "p").rename("Ada", "Lovelace")

    async def read() -> None:
        async with roost.local(make(1), path=tmp_path) as cluster:
            with pytest.raises(roost.StateMismatchError, match=r"by version 3 .* has version 1"):
                await cluster.object("Person", "p").rename("Ada")

    asyncio.run(write())
    asyncio.run(read())


def test_bytes_of_a_removed_field_stay_until_a_migration_drops_them(tmp_path: Path) -> None:
    def version(number: int) -> Any:
        if number == 1:

            class Thing(DurableObject):
                kept: int = 0
                removed: str = ""

                async def put(self) -> None:
                    self.kept, self.removed = 1, "still here"

            return Thing

        class Later(DurableObject, version=number - 1):
            kept: int = 0

            @migrate(from_version=1)
            @staticmethod
            def _drop(state: dict[str, Any]) -> dict[str, Any]:
                return {"kept": state["kept"]}

            async def put(self) -> None:
                self.kept += 1

        class Same(DurableObject):
            kept: int = 0

            async def put(self) -> None:
                self.kept += 1

        chosen: Any = Later if number == 3 else Same
        chosen.__name__ = "Thing"
        return chosen

    async def put(number: int) -> dict[str, Any]:
        async with roost.local(version(number), path=tmp_path) as cluster:
            await cluster.object("Thing", "t").put()
            detail = await cluster.show("Thing", "t")
            assert detail is not None
            fields: dict[str, Any] = msgspec.json.decode(detail.fields_json)
            return fields

    assert asyncio.run(put(1)) == {"kept": 1, "removed": "still here"}
    assert asyncio.run(put(2)) == {"kept": 2, "removed": "still here"}
    assert asyncio.run(put(3)) == {"kept": 3}


def test_a_field_whose_stored_type_does_not_fit_says_what_to_do(tmp_path: Path) -> None:
    def version(annotation: type) -> Any:
        class Thing(DurableObject):
            __annotations__ = {"value": annotation}

            async def put(self) -> None:
                self.value = annotation("7")

            async def get(self) -> str:
                return str(self.value)

        return Thing

    async def put() -> None:
        async with roost.local(version(str), path=tmp_path) as cluster:
            await cluster.object("Thing", "t").put()

    async def get() -> None:
        async with roost.local(version(int), path=tmp_path) as cluster:
            with pytest.raises(
                roost.StateMismatchError, match=r"Thing\.value is stored as str, declared as int"
            ):
                await cluster.object("Thing", "t").get()

    asyncio.run(put())
    asyncio.run(get())


def test_reset_on_error_drops_the_instance(run: Run) -> None:
    class Strict(DurableObject, reset_on_error=True):
        value: int = 0
        _seen: int = 0

        async def step(self, fail: bool) -> int:
            self._seen = getattr(self, "_seen", 0) + 1
            self.value += 1
            if fail:
                raise ValueError("no")
            return self._seen

        @method(read_only=True)
        async def get(self) -> int:
            return self.value

    async def scenario(cluster: roost.Cluster) -> None:
        strict = cluster.object(Strict, "s")
        assert await strict.step(False) == 1
        assert await strict.step(False) == 2
        with pytest.raises(roost.ObjectError):
            await strict.step(True)
        assert await strict.step(False) == 1
        assert await strict.get() == 3

    run(scenario, Strict)


def test_new_code_runs_with_the_old_state_and_open_calls_are_answered(tmp_path: Path) -> None:
    def code(step: int) -> Any:
        class Counter(DurableObject):
            value: int = 0
            left: str = ""

            async def add(self, seconds: float = 0.0) -> int:
                await asyncio.sleep(seconds)
                self.value += step
                return self.value

            async def on_deactivate(self, reason: DeactivationReason) -> None:
                self.left = reason.value

            async def why(self) -> str:
                return self.left

        return Counter

    async def scenario() -> None:
        from roost.client import Cluster
        from roost_node.embedded import Embedded

        link = Embedded(None)
        link.node = Node(tmp_path, specs_of([code(1)]), link.on_fatal)
        await link.node.__aenter__()
        async with Cluster(link) as cluster:
            counter = cluster.object("Counter", "c")
            assert await counter.add() == 1
            running = asyncio.ensure_future(cluster.object("Counter", "c").add(seconds=0.1))
            await asyncio.sleep(0.02)
            reloading = asyncio.ensure_future(link.node.reload(specs_of([code(10)])))
            await asyncio.sleep(0.02)
            waiting = asyncio.ensure_future(counter.add())
            assert await running == 2  # it ended under the old code
            await reloading
            assert await waiting == 12
            assert await counter.why() == "reload"

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_calls_that_wait_for_a_reload_are_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        from roost.client import Cluster
        from roost_node.config import Limits
        from roost_node.embedded import Embedded

        link = Embedded(None)
        limits = Limits(open_calls_max=3)
        link.node = Node(tmp_path, specs_of([Notes]), link.on_fatal, limits=limits)
        await link.node.__aenter__()
        async with Cluster(link) as cluster:
            running = asyncio.ensure_future(cluster.object(Notes, "n").wait(0.3))
            while link.node.host.admission.open_calls == 0:
                await asyncio.sleep(0.005)
            reloading = asyncio.ensure_future(link.node.reload(specs_of([Notes])))
            await asyncio.sleep(0.02)
            stubs = [roost.options(cluster.object(Notes, f"{n}"), timeout=0.15) for n in range(8)]
            answers = await asyncio.gather(*(s.keys() for s in stubs), return_exceptions=True)
            refused = [a for a in answers if isinstance(a, roost.OverloadedError)]
            assert len(refused) == 5
            assert "wait for a reload" in str(refused[0])
            await running
            await reloading
            assert await cluster.object(Notes, "n").keys() == []

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_check_effects_shows_what_differs_between_two_runs(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    class Dice(DurableObject):
        value: float = 0
        total: int = 0
        _memory: int = 0

        async def steady(self, by: int) -> int:
            self.total += by
            await self.ctx.object(Dice, "other").note()
            return self.total

        async def note(self) -> int:
            self.total += 1
            return self.total

        async def roll(self) -> None:
            self.value = random.random()

        @method(check_effects=False)
        async def roll_quietly(self) -> None:
            self.value = random.random()

    async def scenario(cluster: roost.Cluster) -> None:
        dice = cluster.object(Dice, "d")
        assert await dice.steady(2) == 2
        assert await cluster.object(Dice, "other").note() == 2
        await dice.roll_quietly()
        assert not caplog.records
        await dice.roll()
        assert "field 'value'" in caplog.text
        assert "did two things" in caplog.text

    with caplog.at_level(logging.WARNING):
        run(scenario, Dice, check_effects=True)


class Notes(DurableObject):
    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def fill(self, count: int) -> None:
        self.ctx.storage.put_many({f"{number:04}": number for number in range(count)})

    async def keys(
        self, prefix: str = "", reverse: bool = False, limit: int | None = None
    ) -> list[str]:
        return [k for k, _ in self.ctx.storage.list(prefix=prefix, reverse=reverse, limit=limit)]

    async def replace_all(self) -> list[str]:
        storage = self.ctx.storage
        storage.put("0001", "new")
        storage.delete_all()
        storage.put("a", 1)
        assert storage.get("0001") is None
        assert storage.get("a") == 1
        return [key for key, _ in storage.list()]

    async def spoil(self) -> None:
        self.ctx.storage.delete("0001")
        self.ctx.storage.put("zzz", 1)
        raise ValueError("no")

    async def delete(self, key: str) -> bool:
        return self.ctx.storage.delete(key)

    async def huge(self) -> None:
        for number in range(4):
            self.ctx.storage.put(f"{number}", b"x" * 900_000)

    @method(read_only=True)
    async def sneak(self) -> None:
        self.ctx.storage.put("x", 1)


def test_storage_is_ordered_and_part_of_the_call(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        notes = cluster.object(Notes, "n")
        await notes.fill(300)
        assert await notes.keys(prefix="000") == [f"000{n}" for n in range(10)]
        assert await notes.keys(reverse=True, limit=2) == ["0299", "0298"]
        assert await notes.delete("0000")
        assert not await notes.delete("0000")
        with pytest.raises(roost.ObjectError):
            await notes.spoil()
        assert (await notes.keys(limit=1)) == ["0001"]
        with pytest.raises(roost.TooLargeError):
            await notes.huge()
        with pytest.raises(roost.ReadOnlyError):
            await notes.sneak()
        assert await notes.replace_all() == ["a"]
        assert await notes.keys() == ["a"]

    run(scenario, Notes)
