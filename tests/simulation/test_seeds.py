"""One node under every fault it must survive, by seed; and broken variants that must be caught.

`make sim SEEDS=20000` runs longer; `pytest tests/simulation --seed=N` replays one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import roost
from roost import DurableObject, method
from roost.cluster.ids import first_sent_ms
from roost_node.core.caller_order import Admission as Turn
from roost_node.core.caller_order import CallerOrder
from roost_node.core.dedup import minute_of
from roost_node.host.activation import Activation
from roost_node.host.call import ActiveCall, Output
from roost_node.host.children import Children
from roost_node.host.shard import Shard
from roost_node.storage import layout
from simulator.checkers import Operation, is_linearizable
from simulator.loop import simulate
from simulator.world import World, seeded

CALLERS = 4
CALLS = 12
seen_outside: list[tuple[str, int]] = []
"""What objects told each other, in order."""
telling: dict[int, int] = {}
"""What each telling call had seen."""
too_early: list[str] = []
"""A caller is held by its open call, so all that it has appended was there before the call."""
worlds: list[World] = []


class Cell(DurableObject, idle_after=0.5):
    value: int = 0
    told: list[int] = []

    async def add(self) -> int:
        self.value += 1
        return self.value

    async def swap(self, old: int, new: int) -> bool:
        if self.value != old:
            return False
        self.value = new
        return True

    @method(read_only=True)
    async def get(self) -> int:
        return self.value

    @method(read_only=True)
    async def look(self, seconds: float) -> int:
        await asyncio.sleep(seconds)  # open for long: later calls of its stub finish before it
        return self.value

    async def add_and_tell(self, other: str, number: int) -> int:
        # Of an earlier call: a child call must not show it before it is durable. It goes beside the
        # arguments: others may change the state before a retry, and other arguments are another call.
        telling[number] = self.value
        self.value += 1
        await self.ctx.object(Witness, other).see(type(self).__name__, self.ctx.key, number)
        return self.value

    async def fail(self) -> None:
        self.value += 1000
        raise ValueError("rolled back")


class Fragile(Cell, reset_on_error=True):
    """Loses its memory after each error."""


class Witness(DurableObject):
    count: int = 0

    async def see(self, teller: str, key: str, number: int) -> None:
        value = telling.get(number, 0)
        seen_outside.append((f"{teller}/{key}", value))
        host = worlds[-1].host
        shard = host.shard_of(teller, key, host.now_ms())
        if shard.log.group(layout.object_id(teller, key)) is not None:
            too_early.append(f"{teller}/{key} told {value} before it was durable")
        self.count += 1


def model(state: Any, request: Any) -> tuple[Any, Any]:
    match request:
        case ("add",) | ("tell",):
            return state + 1, state + 1
        case ("swap", old, new):
            return (new, True) if state == old else (state, False)
    return state, state


class ViolationError(Exception):
    """A promise was broken."""


async def run(seed: int) -> None:
    seen_outside.clear()
    telling.clear()
    too_early.clear()
    worlds.clear()
    world = World(seed, Cell, Fragile, Witness)
    worlds.append(world)
    rng, taste = world.rng, world.taste
    histories: dict[tuple[str, str], list[Operation]] = {}
    tells = 0
    done = False

    async def caller(cluster: roost.Cluster, number: int) -> None:
        nonlocal tells
        stubs: dict[tuple[Any, str], Any] = {}  # kept: the order of their calls is a promise too
        for _ in range(CALLS):
            cls: Any = rng.choice((Cell, Fragile))
            key = rng.choice("ab")
            stub = stubs.setdefault((cls, key), cluster.object(cls, key))
            if rng.random() < 0.3:
                await several(cls.__name__, key, stub)
                continue
            start = world.loop.time()
            request: tuple[Any, ...]
            match rng.randrange(10):
                case 0 | 1 | 2:
                    request, call = ("add",), stub.add()
                case 3 | 4:
                    old = rng.randrange(6)  # values only grow: so they tell who came first
                    request = ("swap", old, old + 1 + rng.randrange(3))
                    call = stub.swap(*request[1:])
                case 5 | 6:
                    request, call = ("get",), stub.get()
                case 7 | 8:
                    tells += 1
                    request, call = ("tell",), stub.add_and_tell(f"{cls.__name__}{key}", tells)
                case _:
                    request, call = ("fail",), stub.fail()
            try:
                result = await call
            except roost.ObjectError as error:
                if request != ("fail",):
                    raise ViolationError(f"{request}: {error}") from error
                continue
            except roost.RoostError as error:
                raise ViolationError(f"{request} reached its caller as {error!r}") from error
            history = histories.setdefault((cls.__name__, key), [])
            history.append(Operation(start, world.loop.time(), request, result))
            await asyncio.sleep(rng.random() * rng.choice((0, 0.01, 1, 70)))

    async def several(name: str, key: str, stub: Any) -> None:
        """Calls of one stub, on the way together: they start in the order in which they were made."""

        async def one(request: tuple[Any, ...], call: Any) -> int:
            start = world.loop.time()
            try:
                result = await call
            except roost.RoostError as error:
                raise ViolationError(f"{request} reached its caller as {error!r}") from error
            history = histories.setdefault((name, key), [])
            history.append(Operation(start, world.loop.time(), request, result))
            return int(result)

        adds = [one(("add",), stub.add()) for _ in range(rng.randint(1, 3))]
        looks = [one(("get",), stub.look(rng.random() * 3)) for _ in range(rng.randint(0, 2))]
        results = await asyncio.gather(*looks, *adds)
        added = results[len(looks) :]
        if added != sorted(added):  # (a read whose answer was lost is answered anew, so later)
            raise ViolationError(f"{name}/{key}: calls made in order gave {results}")

    async def nemesis() -> None:
        while not done:
            await asyncio.sleep(rng.random() * rng.choice((0.05, 1, 20)))
            if rng.random() < taste.crash and world.crashes < 6:
                await world.crash()
            elif rng.random() < taste.clock_step:
                world.step_clock()
            elif rng.random() < taste.reset:
                for activation in list(world.host.activations.values()):
                    if rng.random() < 0.5:
                        world.host.reset(activation, "the nemesis")
                    elif activation.may_leave:
                        world.host.deactivate(activation, "idle")

    await world.start()
    async with world.client() as one, world.client() as two:
        faults = world.loop.create_task(nemesis())
        await asyncio.gather(*(caller((one, two)[n % 2], n) for n in range(CALLERS)))
        done = True
        await faults  # it ends with a node that runs
        final: dict[tuple[str, str], int] = {}
        for (name, key), history in histories.items():
            start = world.loop.time()
            value = await one.object(name, key).get()
            final[name, key] = value
            history.append(Operation(start, world.loop.time(), ("get",), value))
            if not is_linearizable(history, model, 0):
                raise ViolationError(f"{name}/{key} is not linearizable: {history}")
        counted = 0
        for name in ("Cell", "Fragile"):
            for key in "ab":
                witness = one.object("Witness", f"{name}{key}")
                try:
                    await witness.see(name, key, 0)
                except roost.RoostError as error:
                    raise ViolationError(str(error)) from error
                detail = world.host.activations["Witness", f"{name}{key}"].instance
                counted += detail.count - 1  # type: ignore[attr-defined]
        if too_early:
            raise ViolationError(too_early[0])
        if counted != tells:
            raise ViolationError(f"{tells} calls told a witness once each, {counted} were counted")
    await world.stop()


def play(seed: int) -> None:
    """One run. Raises ViolationError."""
    import random

    with seeded(random.Random(seed + 1)):
        simulate(run(seed))


def test_every_promise_holds_under_every_fault(request: pytest.FixtureRequest) -> None:
    replay = request.config.getoption("--seed")
    count = request.config.getoption("--seeds")
    for seed in [replay] if replay is not None else range(count):
        try:
            play(seed)
        except Exception as error:
            raise AssertionError(f"replay with --seed={seed}") from error


def test_a_seed_replays_exactly() -> None:
    def trace(seed: int) -> list[tuple[str, int]]:
        play(seed)
        return list(seen_outside)

    assert [trace(seed) for seed in range(5)] == [trace(seed) for seed in range(5)]


# -- broken on purpose: each of these must be noticed ------------------------------------------


def reply_before_commit(patch: pytest.MonkeyPatch) -> None:
    """R1: output leaves although its entry is not durable."""

    def release(self: Shard, index: int, output: Output, *, own_entry: bool) -> None:
        output.leave()

    patch.setattr(Shard, "release", release)


def record_in_another_batch(patch: pytest.MonkeyPatch) -> None:
    """The record of a call is not in the call's entry, but in one of its own, a moment later."""
    commit = Activation.commit

    def late(
        self: Activation, active: ActiveCall | None, record: bytes | None, now_ms: int
    ) -> bool:
        wrote = commit(self, active, None, now_ms)
        if wrote and active is not None and record is not None:
            self.host.loop.call_later(0.004, self.commit_record, active, record, now_ms)
        return wrote

    patch.setattr(Activation, "commit", late)


def record_filed_by_log_time(patch: pytest.MonkeyPatch) -> None:
    """L5: the record goes under the minute of the entry, not of the request."""

    def record_key(self: Activation, request_id: bytes) -> bytes:
        minute = minute_of(self.shard.log.time_ms(self.host.now_ms()))
        return layout.dedup_key(self.shard.id, minute, self.group, request_id)

    patch.setattr(Activation, "record_key", record_key)


def reset_forgets_appended_entries(patch: pytest.MonkeyPatch) -> None:
    """L4: an activation is loaded from the state alone."""
    patch.setattr(Shard, "get", lambda self, group, key: self._store.get(key))


def child_call_before_earlier_entries(patch: pytest.MonkeyPatch) -> None:
    """R3: a child call leaves although what it tells is not durable."""

    async def at_once(self: Children, parent: ActiveCall) -> None:
        return None

    patch.setattr(Children, "_may_leave", at_once)


def no_record_at_all(patch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of a call."""
    patch.setattr(Activation, "record_at", lambda self, key: None)


def child_ids_at_random(patch: pytest.MonkeyPatch) -> None:
    """A parent that runs again makes other calls."""
    import roost_node.host.children as module
    from roost.cluster.ids import request_id

    count = iter(range(10**9))

    def fresh(parent: bytes, target: bytes, number: int) -> bytes:
        return request_id(first_sent_ms(parent), next(count))

    patch.setattr(module, "child_request_id", fresh)


def calls_of_one_stub_in_any_order(patch: pytest.MonkeyPatch) -> None:
    """Whoever arrives first starts first."""
    patch.setattr(CallerOrder, "arrive", lambda self, item, sequence, oldest: Turn.START)


VARIANTS: list[Callable[[pytest.MonkeyPatch], None]] = [
    reply_before_commit,
    record_in_another_batch,
    record_filed_by_log_time,
    reset_forgets_appended_entries,
    child_call_before_earlier_entries,
    no_record_at_all,
    child_ids_at_random,
    calls_of_one_stub_in_any_order,
]


LIKELY = {"child_ids_at_random": 224}
"""Where a hunt from 0 found it, which takes long: begin there, and look at all others if it moved."""

SEEDS_MAX = 400


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)
def test_a_broken_variant_is_caught(
    variant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    variant(monkeypatch)
    first = LIKELY.get(variant.__name__, 0)
    for seed in (*range(first, SEEDS_MAX), *range(first)):
        try:
            play(seed)
        except ViolationError as violation:
            print(f"{variant.__name__}: caught by seed {seed}: {str(violation)[:200]}")
            return
    pytest.fail(f"{variant.__name__} was not caught: the simulation is not good enough")
