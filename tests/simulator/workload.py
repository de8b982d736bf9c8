"""What a run's clients do: objects of several kinds, called in several ways, and what came back.

Every answer goes into the history of its object, to be checked when the run is over. Most calls wait as
long as it takes and may see no error at all. Some are in a hurry: they may fail, and then what the
error says of its effect is checked too: "no" must mean no.

Some requests come twice: the same request id, sent again by another client, over another router, up to
90 s later. They take effect once, and both get one answer. (A stream repeats nothing by itself.)
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import roost
from roost import DurableObject, method
from roost.cluster.ids import request_id as make_request_id
from simulator.checkers import Operation
from simulator.clients import Client
from simulator.havoc import Taste
from simulator.history import ViolationError
from simulator.whole import Whole

KEYS = "ab"
HURRY_S = 1.5


class Counter(DurableObject, idle_after=3.0):
    count: int = 0

    async def add(self) -> int:
        self.count += 1
        return self.count

    @method(read_only=True)
    async def get(self) -> int:
        return self.count

    @method(read_only=True)
    async def look(self, seconds: float) -> int:
        await asyncio.sleep(seconds)  # open for long: later calls of its stub finish before it
        return self.count

    async def add_and_tell(self, witness: str, number: int) -> int:
        """Tell an object that lives on another node, most likely."""
        told[number] = self.count
        self.count += 1
        await self.ctx.object(Witness, witness).see(number)
        return self.count


class Register(DurableObject, idle_after=3.0):
    value: int = 0

    async def swap(self, old: int, new: int) -> bool:
        if self.value != old:
            return False
        self.value = new
        return True

    @method(read_only=True)
    async def get(self) -> int:
        return self.value


class Journal(DurableObject, idle_after=3.0):
    """Its rows are its state: storage, not fields."""

    async def append(self, item: int) -> tuple[int, str]:
        length, digest = self._end()
        digest = link(digest, item)
        self.ctx.storage.put(f"{length:08}", item)
        self.ctx.storage.put("end", [length + 1, digest])
        return length + 1, digest

    @method(read_only=True)
    async def get(self) -> tuple[int, str]:
        return self._end()

    @method(read_only=True)
    async def items(self) -> list[int]:
        return [value for key, value in self.ctx.storage.list() if key != "end"]

    def _end(self) -> tuple[int, str]:
        return self.ctx.storage.get("end", (0, ""), type=tuple[int, str])


class Witness(DurableObject):
    seen: int = 0

    async def see(self, number: int) -> None:
        self.seen += 1

    @method(read_only=True)
    async def get(self) -> int:
        return self.seen


CLASSES: tuple[type[Any], ...] = (Counter, Register, Journal, Witness)
BY_NAME = {cls.__name__: cls for cls in CLASSES}
WRITES = ("add", "append", "tell")
"""These change something whenever they are carried out. Who changed nothing may be answered anew."""
NOTHING = "nothing happened"
told: dict[int, int] = {}
"""What each telling call had seen, beside its arguments: other arguments are another call."""


def link(digest: str, item: int) -> str:
    """A state that tells a whole list, and is short."""
    return hashlib.blake2b(f"{digest}{item}".encode(), digest_size=8).hexdigest()


def model(state: Any, request: Any) -> tuple[Any, Any]:
    """A state is what its object's `get` returns."""
    match request:
        case ("add",):
            return state + 1, state + 1
        case ("swap", old, new):
            return (new, True) if state == old else (state, False)
        case ("append", item):
            after = (state[0] + 1, link(state[1], item))
            return after, after
    return state, state


def initial(class_name: str) -> Any:
    return (0, "") if class_name == "Journal" else 0


def made(stub: Any, request: tuple[Any, ...]) -> Any:
    """That call, not awaited yet."""
    name, *arguments = request
    return getattr(stub, "add_and_tell" if name == "tell" else name)(*arguments)


class Workload:
    """What all callers of a run did."""

    def __init__(
        self, whole: Whole, rng: random.Random, taste: Taste, clients: list[Client]
    ) -> None:
        self.whole = whole
        self.rng = rng
        self.taste = taste
        self.clients = clients
        self.repeats: list[asyncio.Task[None]] = []
        self.histories: dict[tuple[str, str], list[Operation]] = {}
        self.tells: dict[str, int] = {}  # by witness
        self.calls = 0
        self.hurried = self.hurried_well = 0
        self.is_over = False
        self._numbers = iter(range(1, 10**9))
        told.clear()

    async def caller(self, client: Client, calls: int) -> None:
        """One user: calls, one after the other or several at once, until it is over."""
        stubs: dict[tuple[str, str], Any] = {}  # kept: the order of their calls is a promise too
        rng = self.rng
        for _ in range(calls):
            if self.is_over:
                return
            cls: Any = rng.choice((Counter, Counter, Register, Journal))
            target = cls.__name__, rng.choice(KEYS)
            stub = stubs.setdefault(target, client.cluster.object(cls, target[1]))
            if cls is Counter and rng.random() < 0.3:
                await self._several(client, target, stub)
            elif rng.random() < 0.15:
                await self._in_a_hurry(client, target, stub)
            else:
                await self._call_somehow(client, target, stub, self._request(cls))
            await asyncio.sleep(rng.random() * rng.choice(self.taste.pauses_s))

    def _request(self, cls: Any) -> tuple[Any, ...]:
        rng = self.rng
        if rng.random() < 0.3:
            return ("get",)
        if cls is Counter:
            return (
                ("tell", rng.choice(KEYS), next(self._numbers)) if rng.random() < 0.4 else ("add",)
            )
        if cls is Register:
            old = rng.randrange(6)
            return ("swap", old, rng.randrange(6))
        return ("append", next(self._numbers))

    async def _call_somehow(
        self, client: Client, target: tuple[str, str], stub: Any, request: tuple[Any, ...]
    ) -> None:
        if request[0] == "tell":
            self.tells[request[1]] = self.tells.get(request[1], 0) + 1
        if request[0] in WRITES and self.rng.random() < self.taste.repeats:
            request_id = self._request_id(client)
            answered: asyncio.Future[Any] = self.whole.loop.create_future()

            async def same(_: float, result: Any) -> None:
                if await answered != result:
                    raise ViolationError(
                        f"{request} of {target} was answered {answered.result()}, and then {result}"
                    )

            self._repeat(target, request, request_id, same)
            once = roost.options(stub, request_id=request_id)
            answered.set_result(await self._call(client, target, request, made(once, request)))
        else:
            await self._call(client, target, request, made(stub, request))

    def _request_id(self, client: Client) -> UUID:
        return UUID(bytes=make_request_id(client.cluster._now_ms(), self.rng.getrandbits(74)))

    def _repeat(
        self,
        target: tuple[str, str],
        request: tuple[Any, ...],
        request_id: UUID,
        told: Callable[[float, Any], Awaitable[None]],
    ) -> None:
        """The same request comes once more, later; `told` when it was sent, and what came of it."""
        client = self.rng.choice(self.clients)
        late_s = self.rng.random() * self.rng.choice(self.taste.repeats_late_s)

        async def again() -> None:
            await asyncio.sleep(late_s)
            start = self.whole.loop.time()
            stub = client.cluster.object(BY_NAME[target[0]], target[1])
            result = await self._asked_again(stub, target, request, request_id)
            self.whole.trace.note(f"{'/'.join(target)} {request} again -> {result}")
            await told(start, result)

        self.repeats.append(client.process.start(again()))

    async def _asked_again(
        self, stub: Any, target: tuple[str, str], request: tuple[Any, ...], request_id: UUID
    ) -> Any:
        try:
            return await made(roost.options(stub, request_id=request_id), request)
        except roost.RoostError as error:
            if isinstance(error, roost.DeadlineExceededError) and error.took_effect == "no":
                return NOTHING  # the first attempt's time was over: that is the one answer
            raise ViolationError(f"{request} of {target}, again: {error!r}") from error

    async def _call(
        self, client: Client, target: tuple[str, str], request: tuple[Any, ...], call: Any
    ) -> Any:
        start = self.whole.loop.time()
        try:
            result = await call
        except roost.RoostError as error:
            raise ViolationError(
                f"{request} of {target} reached its caller as {error!r}"
            ) from error
        self._record(client, target, request, start, result)
        return result

    def _record(
        self,
        client: Client,
        target: tuple[str, str],
        request: tuple[Any, ...],
        start: float,
        result: Any,
    ) -> None:
        whole = self.whole
        self.calls += 1
        end = whole.loop.time()
        whole.trace.note(f"{'/'.join(target)} {request} -> {result} after {end - start:.3f} s")
        kind = ("add",) if request[0] == "tell" else ("get",) if request[0] == "look" else request
        self.histories.setdefault(target, []).append(Operation(start, end, kind, result))

    async def _several(self, client: Client, target: tuple[str, str], stub: Any) -> None:
        """Calls of one stub, on the way together: they start in the order in which they were made."""
        rng = self.rng
        adds = [self._call(client, target, ("add",), stub.add()) for _ in range(rng.randint(1, 4))]
        looks = [
            self._call(client, target, ("look",), stub.look(rng.random() * 2))
            for _ in range(rng.randint(0, 1))
        ]
        results = await asyncio.gather(*looks, *adds)
        added = results[len(looks) :]
        if added != sorted(added):
            raise ViolationError(f"{target}: calls made in order gave {results}")

    async def _in_a_hurry(self, client: Client, target: tuple[str, str], stub: Any) -> None:
        request = self._request({"Counter": Counter, "Register": Register}.get(target[0], Journal))
        if request[0] == "tell":
            request = ("add",)
        start = self.whole.loop.time()
        self.hurried += 1
        request_id = self._request_id(client)
        try:
            result = await made(
                roost.options(stub, timeout=HURRY_S, request_id=request_id), request
            )
        except roost.RoostError as error:
            self.whole.trace.note(f"{'/'.join(target)} {request} failed: {error!r}")
            if error.took_effect == "yes":
                raise ViolationError(
                    f"{request} of {target} failed with an effect: {error!r}"
                ) from error
            history = self.histories.setdefault(target, [])
            if error.took_effect != "no" and request != ("get",):
                history.append(Operation(start, None, request, None))
            if request[0] in WRITES and self.rng.random() < self.taste.repeats:
                # Sent again it either takes effect, at last, or the first attempt surely did not.
                maybe = Operation(start, None, request, None)

                async def settled(sent: float, result: Any) -> None:
                    began = sent
                    if maybe in history:
                        history.remove(maybe)
                        began = start
                    if result is not NOTHING:
                        history.append(Operation(began, self.whole.loop.time(), request, result))

                self._repeat(target, request, request_id, settled)
            return
        self.hurried_well += 1
        self._record(client, target, request, start, result)
