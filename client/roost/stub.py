"""Typed references to objects: `await cluster.object(Counter, "page-42").increment()`.

A stub costs nothing and contacts nobody. Type checkers see the object's class, so methods and their
arguments are checked; at run time it knows only names, and hands each call to its caller: the client,
or the node for calls from object to object.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from uuid import UUID

from roost.cluster.ids import check_key
from roost.errors import InvalidArgumentError, UnknownMethodError

if TYPE_CHECKING:
    from roost.object import ClassSpec

T = TypeVar("T")

_random = random.SystemRandom()


class Order:
    """The calls of one stub, in the order in which they were made."""

    __slots__ = ("_next", "_open", "stub_id")

    def __init__(self) -> None:
        self.stub_id = _random.getrandbits(63) | 1
        self._next = 1
        self._open: dict[int, None] = {}  # sequences that are not finished; lowest first

    def begin(self) -> int:
        """The sequence of one more call."""
        sequence = self._next
        self._next = sequence + 1
        self._open[sequence] = None
        return sequence

    def end(self, sequence: int) -> None:
        """That call is finished, for its caller."""
        self._open.pop(sequence, None)

    def oldest(self) -> int:
        """The lowest sequence that is not finished."""
        return next(iter(self._open), self._next)

    def finished_before(self, sequence: int) -> range:
        """The sequences right below that one that are finished, down to one that is not."""
        first, oldest = sequence, self.oldest()
        while first > oldest and first - 1 not in self._open:
            first -= 1
        return range(first, sequence)


class Caller(Protocol):
    """Who carries a stub's calls."""

    def invoke(
        self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Coroutine[Any, Any, Any]:
        """One call; it is made at the coroutine's first step."""

    def stream(
        self, stub: Stub, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """One streaming call."""


class Stub:
    """A reference to one object. All that belongs to it is private: public names are the object's."""

    _caller: Caller
    _class_name: str
    _key: str
    _spec: ClassSpec | None
    _order: Order
    _timeout_s: float | None
    _request_id: bytes | None
    _asked: str

    __slots__ = (
        "__dict__", "_asked", "_caller", "_class_name", "_key", "_order", "_request_id", "_spec",
        "_timeout_s",
    )  # fmt: skip

    def __init__(
        self,
        caller: Caller,
        class_name: str,
        key: str,
        spec: ClassSpec | None,
        order: Order,
        timeout_s: float | None = None,
        request_id: bytes | None = None,
    ) -> None:
        for name, value in (
            ("_caller", caller), ("_class_name", class_name), ("_key", key), ("_spec", spec),
            ("_order", order), ("_timeout_s", timeout_s), ("_request_id", request_id),
            ("_asked", ""),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        """The remote method of that name. Raises AttributeError for anything else."""
        spec = self._spec
        streams = None
        if name.startswith("_"):
            raise AttributeError(f"{self._class_name} objects have no remote {name!r}")
        if spec is not None:
            method = spec.methods.get(name)
            if method is None:
                if name in spec.fields:
                    raise AttributeError(
                        f"{name!r} is a field of {spec.name}: fields are read in the object, give it "
                        f"a method that returns it"
                    )
                raise UnknownRemoteAttributeError(
                    f"{spec.name} has no remote method {name!r}: it has "
                    f"{', '.join(sorted(spec.methods)) or 'none'}"
                )
            streams = method.streams
        remote = RemoteMethod(self, name, streams)
        # Kept from the second time on: kept at once, each stub that is used for one call would be a
        # cycle, which only the garbage collector frees, and late. Of 100,000 some always lay about.
        if self._asked == name:
            self.__dict__[name] = remote
        else:
            object.__setattr__(self, "_asked", name)
        return remote

    def _take_request_id(self) -> bytes | None:
        """The id that `options` gave it, if any: it serves one call."""
        rid = self._request_id
        if rid is not None:
            object.__setattr__(self, "_request_id", None)
        return rid

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{self!r} is a reference: fields are written in the object")

    def __repr__(self) -> str:
        return f"<stub {self._class_name}/{self._key}>"

    def __reduce__(self) -> Any:
        raise TypeError("a stub belongs to its client: send class name and key instead")


class UnknownRemoteAttributeError(AttributeError, UnknownMethodError):
    """Both: an attribute that is not there, and a method that the class does not have."""


class RemoteMethod:
    """One method of one object; calling it gives a coroutine, or an async iterator if it streams."""

    __slots__ = ("_invoke", "_name", "_streams", "_stub")

    def __init__(self, stub: Stub, name: str, streams: bool | None) -> None:
        self._stub = stub
        self._name = name
        self._streams = streams
        self._invoke = stub._caller.invoke

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the call (when it is awaited, iterated, or at once: as its caller does)."""
        if self._streams:
            return self._stub._caller.stream(self._stub, self._name, args, kwargs)
        if self._streams is None and not getattr(self._stub._caller, "blocking", False):
            return Unknown(self._stub, self._name, args, kwargs)
        return self._invoke(self._stub, self._name, args, kwargs)

    def iterate(self, *args: Any, **kwargs: Any) -> Any:
        """Read it as a stream."""
        return self._stub._caller.stream(self._stub, self._name, args, kwargs)

    def __repr__(self) -> str:
        return f"<remote method {self._stub._class_name}/{self._stub._key}.{self._name}>"


class Unknown:
    """A call of a method of which only the name is known: await it, or iterate it."""

    __slots__ = ("_args", "_kwargs", "_name", "_stub")

    def __init__(
        self, stub: Stub, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._stub, self._name, self._args, self._kwargs = stub, name, args, kwargs

    def __await__(self) -> Any:
        stub = self._stub
        return stub._caller.invoke(stub, self._name, self._args, self._kwargs).__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        stub = self._stub
        return stub._caller.stream(stub, self._name, self._args, self._kwargs)


def make_stub(caller: Caller, cls: type[Any] | str, key: str) -> Any:
    """A stub for an object of `cls`, a class or its name."""
    if not isinstance(key, str):
        raise InvalidArgumentError(f"an object's key is a str, not {type(key).__name__}")
    check_key(key)
    if isinstance(cls, str):
        return Stub(caller, cls, key, None, Order())
    from roost.object import spec_of  # the model's base class stands on this module

    spec = spec_of(cls)
    return Stub(caller, spec.name, key, spec, Order())


def options(stub: T, *, timeout: float | None = None, request_id: UUID | None = None) -> T:
    """The same object, called with other settings; order is shared with `stub`.

    `timeout`: seconds until the deadline. `request_id`: of the one call made through the result.
    """
    if not isinstance(stub, Stub):
        raise InvalidArgumentError("options takes a stub, as `cluster.object` makes them")
    if timeout is not None and not timeout > 0:
        raise InvalidArgumentError("timeout is a number of seconds above 0")
    if request_id is not None and request_id.version != 7:
        raise InvalidArgumentError("a request id is a UUID of version 7: see new_request_id")
    changed = Stub(
        stub._caller,
        stub._class_name,
        stub._key,
        stub._spec,
        stub._order,
        timeout if timeout is not None else stub._timeout_s,
        request_id.bytes if request_id is not None else None,
    )
    return cast(T, changed)


def stub_of(value: object) -> Stub:
    """The stub itself, behind the type that checkers see."""
    if not isinstance(value, Stub):
        raise InvalidArgumentError(f"{value!r} is not a stub, as `cluster.object` makes them")
    return value
