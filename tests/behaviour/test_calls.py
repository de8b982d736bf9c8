"""What a caller may rely on."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

import roost
from behaviour.conftest import Run
from roost import ApplicationError, DurableObject, method
from roost.wire.codec import encode_for_people

TRIES = 5  # of what a busy machine may spoil once


class TooPoorError(ApplicationError):
    pass


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Account(DurableObject):
    balance: int = 0
    notes: list[str] = []
    last: Point | None = None
    name: str

    async def deposit(self, amount: int, note: str = "") -> int:
        self.balance += amount
        if note:
            self.notes.append(note)
        return self.balance

    async def withdraw(self, amount: int) -> int:
        self.balance -= amount
        if self.balance < 0:
            raise TooPoorError("not enough", amount)
        return self.balance

    @method(read_only=True)
    async def get(self) -> int:
        return self.balance

    @method(read_only=True)
    async def read_notes(self) -> list[str]:
        return self.notes

    @method(read_only=True)
    async def naughty(self) -> None:
        self.balance = 7

    @method(read_only=True)
    async def sly(self) -> None:
        self.notes.append("written by a reader")

    async def move(self, to: Point) -> Point:
        self.last = to
        return Point(to.x + 1, to.y)

    async def wrong_field(self) -> None:
        self.balance = "a string"  # type: ignore[assignment]

    async def wrong_result(self) -> int:
        return "a string"  # type: ignore[return-value]

    async def fails_after_write(self) -> None:
        self.balance = 1000
        self.notes.append("never")
        raise ValueError("no")

    async def read_unset(self) -> str:
        return self.name

    async def slow(self, seconds: float) -> int:
        self.balance += 1
        await asyncio.sleep(seconds)
        return self.balance

    async def count_to(self, end: int) -> AsyncIterator[int]:
        for number in range(end):
            self.balance += 1
            yield number

    async def who(self) -> tuple[str, str]:
        return self.ctx.key, str(self.ctx.call.request_id)

    def helper(self) -> int:
        return self.balance

    async def _private(self) -> int:
        return self.balance


def test_a_call_changes_the_object_and_returns(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        assert await ann.deposit(5) == 5
        assert await ann.deposit(amount=2, note="gift") == 7
        assert await ann.deposit(1, note="more") == 8
        assert await ann.get() == 8
        assert await ann.read_notes() == ["gift", "more"]
        assert await cluster.object(Account, "bob").get() == 0
        assert await ann.move(Point(1, 2)) == Point(2, 2)

    run(scenario, Account)


def test_an_exception_rolls_everything_back(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        await ann.deposit(5, note="first")
        with pytest.raises(roost.ObjectError) as caught:
            await ann.fails_after_write()
        assert caught.value.type == "ValueError"
        assert caught.value.took_effect == "no"
        assert "ValueError: no" in caught.value.traceback
        assert await ann.get() == 5
        assert await ann.read_notes() == ["first"]

    run(scenario, Account)


def test_an_application_error_arrives_as_its_own_class(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        with pytest.raises(TooPoorError) as caught:
            await ann.withdraw(3)
        assert caught.value.args == ("not enough", 3)
        assert await ann.get() == 0

    run(scenario, Account)


def test_a_reader_cannot_write(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        await ann.deposit(1, note="x")
        for call in (ann.naughty, ann.sly):
            with pytest.raises(roost.ReadOnlyError):
                await call()
        assert await ann.get() == 1
        assert await ann.read_notes() == ["x"]

    run(scenario, Account)


def test_a_field_of_the_wrong_type_rolls_back_and_is_named(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        with pytest.raises(
            roost.ObjectError, match=r"Account\.balance holds a str, declared as int"
        ):
            await ann.wrong_field()
        assert await ann.get() == 0

    run(scenario, Account)


def test_a_result_of_the_wrong_type_is_refused(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        with pytest.raises(roost.ObjectError, match="returned str, but its annotation is int"):
            await cluster.object(Account, "ann").wrong_result()

    run(scenario, Account)


def test_a_field_without_default_must_be_assigned_first(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        with pytest.raises(roost.ObjectError, match="has no default") as caught:
            await cluster.object(Account, "ann").read_unset()
        assert caught.value.type == "FieldNotSetError"

    run(scenario, Account)


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((), {}, "'amount' is missing"),
        (("five",), {}, "'amount'"),
        ((1, "a", 3), {}, "takes 2 arguments"),
        ((), {"amount": 1, "colour": "red"}, "no argument 'colour'"),
        ((), {"amount": 1.5}, "'amount'"),
        ((1,), {"amount": 1}, "given twice"),
    ],
)
def test_arguments_are_checked_on_arrival(
    run: Run, arguments: tuple[object, ...], named: dict[str, object], message: str
) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        stub = cluster.object("Account", "ann")
        with pytest.raises(roost.InvalidArgumentError, match=message):
            await stub.deposit(*arguments, **named)

    run(scenario, Account)


def test_what_is_not_remote_cannot_be_called(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        untyped = cluster.object("Account", "ann")
        for name in ("helper", "on_activate", "balance", "nothing", "ctx", "mro"):
            with pytest.raises(roost.UnknownMethodError):
                await getattr(untyped, name)()
        with pytest.raises(AttributeError):
            untyped._private  # noqa: B018
        typed = cluster.object(Account, "ann")
        with pytest.raises(AttributeError, match="field"):
            typed.balance  # noqa: B018
        with pytest.raises(roost.UnknownMethodError):
            typed.nothing  # type: ignore[attr-defined]  # noqa: B018
        with pytest.raises(roost.UnknownClassError):
            await cluster.object("Nothing", "ann").get()

    run(scenario, Account)


def test_keys_have_limits(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        with pytest.raises(roost.TooLargeError):
            cluster.object(Account, "é" * 513)
        with pytest.raises(roost.InvalidArgumentError):
            cluster.object(Account, "")
        assert await cluster.object(Account, "é" * 512).deposit(1) == 1
        assert await cluster.object(Account, "a\0b/ü").deposit(1) == 1
        assert {info.key async for info in cluster.objects(Account)} == {"é" * 512, "a\0b/ü"}

    run(scenario, Account)


def test_a_stream_yields_and_keeps_what_it_wrote(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        assert [number async for number in ann.count_to(200)] == list(range(200))
        assert await ann.get() == 200

    run(scenario, Account)


def test_a_stream_that_is_closed_early_stops_in_the_object(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        stream = ann.count_to(1_000_000)
        async for number in stream:
            if number == 10:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        value = await ann.get()
        assert 11 <= value < 1000
        await asyncio.sleep(0.05)
        assert await ann.get() <= value + 64

    run(scenario, Account)


def test_a_deadline_cancels_the_call_and_rolls_it_back(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        told: set[str] = set()
        for _ in range(TRIES):
            with pytest.raises(roost.DeadlineExceededError) as caught:
                await roost.options(ann, timeout=0.1).slow(30)
            assert await ann.get() == 0
            told.add(caught.value.took_effect)
            if "no" in told:
                break
        # Where the owner's word comes late, on a busy machine, the client's own stands for it.
        assert "no" in told <= {"no", "maybe"}

    run(scenario, Account)


def test_a_call_that_waits_past_its_deadline_names_what_it_waited_for(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        slow = asyncio.ensure_future(ann.slow(0.5))
        await asyncio.sleep(0.05)
        with pytest.raises(roost.DeadlineExceededError, match=r"held by Account/ann\.slow"):
            await roost.options(cluster.object(Account, "ann"), timeout=0.1).deposit(1)
        assert await slow == 1
        assert await ann.get() == 1

    run(scenario, Account)


def test_a_cancelled_call_is_taken_back(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        call = asyncio.ensure_future(ann.slow(30))
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await ann.get() == 0
        assert await ann.deposit(1) == 1

    run(scenario, Account)


def test_one_request_id_takes_effect_once(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        rid = roost.new_request_id()
        answers = [await roost.options(ann, request_id=rid).deposit(5) for _ in range(3)]
        assert answers == [5, 5, 5]
        together = roost.new_request_id()
        answers = await asyncio.gather(
            *(
                roost.options(cluster.object(Account, "ann"), request_id=together).slow(0.05)
                for _ in range(4)
            )
        )
        assert answers == [6, 6, 6, 6]
        with pytest.raises(roost.InvalidArgumentError, match="request id reused"):
            await roost.options(ann, request_id=rid).deposit(6)
        assert await roost.options(cluster.object(Account, "bob"), request_id=rid).deposit(1) == 1

    run(scenario, Account)


def test_a_request_is_not_run_again_because_its_object_was_deleted(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        rid = roost.new_request_id()
        assert await roost.options(ann, request_id=rid).deposit(5) == 5
        assert await cluster.delete(Account, "ann")
        assert await roost.options(ann, request_id=rid).deposit(5) == 5
        assert await ann.get() == 0

    run(scenario, Account)


def test_a_failed_request_gets_the_same_error_again(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        rid = roost.new_request_id()
        for _ in range(2):
            with pytest.raises(TooPoorError):
                await roost.options(ann, request_id=rid).withdraw(5)
        await ann.deposit(10)
        with pytest.raises(TooPoorError):  # not run again, though it would succeed now
            await roost.options(ann, request_id=rid).withdraw(5)
        assert await ann.get() == 10

    run(scenario, Account)


def test_old_and_future_requests_are_refused(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        await ann.deposit(1)

        def shifted(seconds: int) -> UUID:
            raw = roost.new_request_id().bytes
            ms = int.from_bytes(raw[:6], "big") + seconds * 1000
            return UUID(bytes=ms.to_bytes(6, "big") + raw[6:])

        with pytest.raises(roost.ExpiredRequestError):
            await roost.options(ann, request_id=shifted(-601)).deposit(1)
        with pytest.raises(roost.RoostError) as caught:
            await roost.options(ann, request_id=shifted(70), timeout=1.0).deposit(1)
        # It is sent again until its deadline, which a busy machine may notice before the last refusal.
        if not isinstance(caught.value, roost.DeadlineExceededError):
            assert isinstance(caught.value, roost.UnavailableError)
            assert re.search(r"(69|70) s ahead", str(caught.value))
        assert await ann.deposit(1) == 2, "neither of them has run"
        assert await roost.outcome(ann, shifted(-601)) == roost.Expired()

    run(scenario, Account)


def test_outcome_tells_what_became_of_a_request(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        rid = roost.new_request_id()
        assert await roost.outcome(ann, rid) == roost.Unknown()
        call = asyncio.ensure_future(roost.options(ann, request_id=rid).slow(0.2))
        await asyncio.sleep(0.05)
        assert await roost.outcome(ann, rid) == roost.Running()
        await call
        assert await roost.outcome(ann, rid) == roost.Committed(1)
        failed = roost.new_request_id()
        with pytest.raises(TooPoorError):
            await roost.options(ann, request_id=failed).withdraw(100)
        found = await roost.outcome(ann, failed)
        assert isinstance(found, roost.Committed)
        with pytest.raises(TooPoorError):
            found.result  # noqa: B018

    run(scenario, Account)


def test_calls_of_one_stub_start_in_order(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        ann = cluster.object(Account, "ann")
        values = await asyncio.gather(*(ann.deposit(1) for _ in range(200)))
        assert values == list(range(1, 201))

    run(scenario, Account)


def test_a_full_mailbox_is_refused_and_retried_in_order(run: Run) -> None:
    class Narrow(DurableObject, mailbox_max=5):
        log: list[int] = []

        async def add(self, number: int) -> None:
            await asyncio.sleep(0.001)
            self.log.append(number)

        async def block(self) -> None:
            await asyncio.sleep(0.4)

        @method(read_only=True)
        async def get(self) -> list[int]:
            return self.log

    async def scenario(cluster: roost.Cluster) -> None:
        narrow = cluster.object(Narrow, "n")
        await asyncio.gather(*(narrow.add(number) for number in range(40)))
        assert await narrow.get() == list(range(40))
        blocker = asyncio.ensure_future(cluster.object(Narrow, "m").block())
        await asyncio.sleep(0.02)
        waiting = [asyncio.ensure_future(cluster.object(Narrow, "m").add(n)) for n in range(5)]
        await asyncio.sleep(0.02)
        with pytest.raises(roost.OverloadedError, match="mailbox_max") as caught:
            await roost.options(cluster.object(Narrow, "m"), timeout=0.15).add(9)
        assert caught.value.took_effect == "no"
        assert caught.value.retry_after_s > 0
        await asyncio.gather(blocker, *waiting)

    run(scenario, Narrow)


def test_a_call_knows_its_key_and_request(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        rid = roost.new_request_id()
        ann = roost.options(cluster.object(Account, "ann"), request_id=rid)
        assert await ann.who() == ("ann", str(rid))

    run(scenario, Account)


def test_state_and_records_survive_a_restart(tmp_path: Path) -> None:
    rid = roost.new_request_id()

    async def first() -> None:
        async with roost.local(Account, path=tmp_path) as cluster:
            ann = cluster.object(Account, "ann")
            await ann.deposit(5, "kept")
            assert await roost.options(ann, request_id=rid).deposit(2) == 7

    async def second() -> None:
        async with roost.local(Account, path=tmp_path) as cluster:
            ann = cluster.object(Account, "ann")
            assert await roost.options(ann, request_id=rid).deposit(2) == 7
            assert await ann.get() == 7
            assert await ann.read_notes() == ["kept"]

    asyncio.run(first())
    asyncio.run(second())


def test_an_object_can_be_listed_shown_and_deleted(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        await cluster.object(Account, "team-a").deposit(1, "x" * 3000)
        await cluster.object(Account, "team-b").deposit(2)
        await cluster.object(Account, "other").deposit(3)
        assert await cluster.object(Account, "only read").get() == 0
        keys = {info.key async for info in cluster.objects(Account, prefix="team-")}
        assert keys == {"team-a", "team-b"}
        detail = await cluster.show(Account, "team-a")
        assert detail is not None
        assert msgspec.json.decode(detail.fields_json) == {"balance": 1, "notes": ["x" * 3000]}
        assert await cluster.show(Account, "only read") is None
        assert await cluster.delete(Account, "team-a")
        assert not await cluster.delete(Account, "team-a")
        assert await cluster.object(Account, "team-a").get() == 0
        assert await cluster.object(Account, "team-a").read_notes() == []

    run(scenario, Account)


def test_fields_whose_keys_are_no_text_can_be_shown(run: Run) -> None:
    class Square(msgspec.Struct, frozen=True):
        file: str
        rank: int

    class Board(DurableObject):
        pieces: dict[tuple[int, int], str] = {}
        nested: list[dict[bool | None, int]] = []
        counts: dict[int, int] = {}
        moves: dict[Square, str] = {}

        async def fill(self) -> None:
            self.pieces = {(1, 2): "king"}
            self.nested = [{True: 1, None: 2}]
            self.counts = {5: 1}
            self.moves = {Square("e", 4): "pawn"}

    async def scenario(cluster: roost.Cluster) -> None:
        await cluster.object(Board, "b").fill()
        detail = await cluster.show(Board, "b")
        assert detail is not None
        fields = msgspec.json.decode(detail.fields_json)
        assert isinstance(fields.pop("moves"), str)  # its bytes: without the class nobody can say
        assert fields == {
            "pieces": {"[1,2]": "king"},
            "nested": [{"true": 1, "null": 2}],
            "counts": {"5": 1},
        }

    run(scenario, Board)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({(1, ("a",)): (1,), None: [True]}, '{"[1,[\\"a\\"]]":[1],"null":[true]}'),
        ({b"\xff": b"\xff"}, '{"/w==":"/w=="}'),
        (msgspec.msgpack.Ext(5, b"a"), '{"type":5,"data":"YQ=="}'),
    ],
)
def test_any_value_can_be_shown_as_json(value: Any, shown: str) -> None:
    assert encode_for_people(value).decode() == shown


def test_too_large_arguments_and_results_are_typed_errors(run: Run) -> None:
    class Echo(DurableObject):
        async def echo(self, text: str) -> str:
            return text

        async def make(self, size: int) -> str:
            return "x" * size

    async def scenario(cluster: roost.Cluster) -> None:
        echo = cluster.object(Echo, "e")
        assert len(await echo.echo("x" * 1_000_000)) == 1_000_000
        with pytest.raises(roost.TooLargeError):
            await echo.echo("x" * 5_000_000)
        with pytest.raises(roost.TooLargeError):
            await echo.make(5_000_000)
        assert await echo.echo("still here") == "still here"

    run(scenario, Echo)


def test_other_clients_go_on_while_one_waits(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        slow = asyncio.ensure_future(cluster.object(Account, "slow").slow(0.3))
        started = time.perf_counter()
        for _ in range(20):
            await cluster.object(Account, "fast").deposit(1)
        assert time.perf_counter() - started < 0.3 or slow.done()
        await slow

    run(scenario, Account)
