"""Classes: what is accepted, what is refused, with which words."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

import msgspec
import pytest

from roost import DurableObject, InvalidArgumentError, ObjectError, method, migrate
from roost.errors import StateMismatchError
from roost.object import spec_of
from roost.wire.codec import encode_arguments
from roost.wire.messages import JSON, MSGPACK


class Point(msgspec.Struct, frozen=True):
    x: int


class Mixin:
    async def mixed(self) -> int:
        return 1


class Thing(DurableObject, Mixin, idle_after=5, version=3, mailbox_max=7):
    number: int = 1
    names: list[str] = []
    point: Point | None = None
    shared: ClassVar[int] = 3
    _memory: int = 0

    async def plain(self, a: int, b: str = "b", c: list[int] = [1]) -> Point:  # noqa: B006
        return Point(a)

    @method(read_only=True, timeout=2.5)
    async def read(self) -> int:
        return self.number

    def helper(self) -> None: ...

    async def _private(self) -> None: ...


def test_a_class_is_described() -> None:
    spec = spec_of(Thing)
    assert spec.name == "Thing"
    assert set(spec.fields) == {"number", "names", "point"}
    assert set(spec.methods) == {"plain", "read", "mixed"}
    assert (spec.idle_after_s, spec.version, spec.mailbox_max) == (5, 3, 7)
    assert spec.methods["read"].read_only
    assert spec.methods["read"].timeout_s == 2.5
    assert spec.fields["number"].immutable
    assert spec.fields["point"].immutable
    assert not spec.fields["names"].immutable


def test_a_subclass_has_its_own_description_and_inherits_fields_and_methods() -> None:
    class More(Thing):
        extra: str = ""

    assert set(spec_of(More).fields) == {"number", "names", "point", "extra"}
    assert "plain" in spec_of(More).methods
    assert spec_of(More).version == 1  # a version counts the states of one class
    assert set(spec_of(Thing).fields) == {"number", "names", "point"}


def test_an_object_of_no_node_is_an_ordinary_object() -> None:
    spec_of(Thing)
    thing = Thing()
    thing.number += 1
    thing.names.append("x")
    assert (thing.number, thing.names, Thing().names) == (2, ["x"], [])
    with pytest.raises(RuntimeError, match="runs nowhere"):
        thing.ctx  # noqa: B018


def refuse(message: str, **body: Any) -> None:
    annotations = body.pop("annotations", {})
    with pytest.raises(TypeError, match=message):
        spec_of(type("Bad", (DurableObject,), {"__annotations__": annotations, **body}))


async def coroutine(self: Any) -> None: ...


async def surplus(self: Any, *args: int) -> None: ...


def test_what_cannot_be_served_is_refused_with_a_better_way() -> None:
    refuse("use on_activate", __init__=lambda self: None)
    refuse("belongs to Roost", ctx=1)
    refuse("belongs to Roost", annotations={"ctx": int})
    refuse("is a hook of Roost", annotations={"on_activate": int})
    refuse("is a hook of Roost", on_deactivate=lambda self: None)
    refuse("no such hook yet", on_alarm=coroutine)
    refuse("plain named parameters", call=surplus)
    refuse(
        "cannot be a durable field", annotations={"stream": memoryview | int | bytearray | bytes}
    )
    refuse("its default does not fit", annotations={"number": int}, number="one")
    refuse("cannot be resolved", annotations={"number": "Nothing"})
    with pytest.raises(TypeError, match="drop interleave"):
        method(read_only=True, interleave=True)
    with pytest.raises(TypeError, match="async def"):
        method(lambda self: None)

    class Old(DurableObject):
        @migrate(from_version=1)
        @staticmethod
        def _m(state: dict[str, Any]) -> dict[str, Any]:
            return state

    with pytest.raises(TypeError, match="raise the class's version"):
        spec_of(Old)


def test_a_class_inside_a_function_may_name_what_is_there() -> None:
    class Local(msgspec.Struct):
        x: int

    class Holder(DurableObject):
        value: Local | None = None

        async def put(self, value: Local) -> Local:
            return value

    spec = spec_of(Holder)
    raw = encode_arguments((Local(3),), {})
    assert list(spec.methods["put"].decode_arguments(raw, MSGPACK)) == [Local(3)]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1,), {}),
        ((1, "x"), {}),
        ((), {"a": 1, "c": [2]}),
        ((1,), {"b": "x", "c": []}),
        ((1, "x", [3]), {}),
    ],
)
def test_arguments_travel_in_every_form(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    decode = spec_of(Thing).methods["plain"].decode_arguments
    full = (
        dict(zip("abc", (1, "b", [1]), strict=True)) | dict(zip("abc", args, strict=False)) | kwargs
    )
    assert list(decode(encode_arguments(args, kwargs), MSGPACK)) == list(full.values())
    if not args:
        assert list(decode(msgspec.json.encode(kwargs), JSON)) == list(full.values())
    if not kwargs:
        assert list(decode(msgspec.json.encode(args), JSON)) == list(full.values())


@pytest.mark.parametrize(
    ("raw", "encoding", "message"),
    [
        (b"\xc1", MSGPACK, "malformed|Expected"),
        (b"\xff\xff", MSGPACK, "malformed|Expected"),
        (b"\x91", MSGPACK, "malformed"),
        (b"{", JSON, "malformed"),
        (b'{"": 5}', JSON, "must hold an array"),
        (b'{"": [1,2,3,4]}', JSON, "4 were given"),
        (b"7", JSON, "Expected"),
        (b'{"a": 1, "a": "x"}', JSON, "'a'"),
        (b"[" * 5000, JSON, "malformed|Expected"),
        (b"\x91" * 5000, MSGPACK, "malformed|Expected"),
        (b'{"a": "\xff"}', JSON, "malformed|'a'"),
    ],
)
def test_hostile_arguments_are_invalid_arguments(raw: bytes, encoding: int, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        spec_of(Thing).methods["plain"].decode_arguments(raw, encoding)


def test_results_are_checked() -> None:
    plain = spec_of(Thing).methods["plain"]
    assert plain.decode_result(plain.encode_result(Point(3))) == Point(3)
    with pytest.raises(ObjectError, match="annotation is Point"):
        plain.encode_result({"y": 1})
    with pytest.raises(ObjectError, match="cannot be encoded"):
        plain.encode_result(object())
    with pytest.raises(ObjectError):
        spec_of(Thing).methods["read"].encode_result(2**70)


def test_a_migration_must_fit_the_class() -> None:
    class Grown(DurableObject, version=2):
        number: int = 0

        @migrate(from_version=1)
        @staticmethod
        def _m(state: dict[str, Any]) -> dict[str, Any]:
            return {"number": "many", "when": datetime(2026, 1, 1)}

    with pytest.raises(StateMismatchError, match=r"Grown\.number is stored as str"):
        spec_of(Grown).migrate({}, 1)
