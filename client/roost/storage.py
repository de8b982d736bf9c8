"""The storage that an object programs against: ordered keys, typed values, plain calls.

The owner of an object holds its data, so nothing here waits. What a call writes it reads back at
once; it becomes durable with the rest of the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec

from roost.errors import InvalidArgumentError, StateMismatchError, TooLargeError

if TYPE_CHECKING:
    from roost.context import StoragePort

T = TypeVar("T")
D = TypeVar("D")

STORAGE_KEY_BYTES_MAX = 1024
STORAGE_VALUE_BYTES_MAX = 1024 * 1024

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Storage:
    """Rows of one object, ordered by the UTF-8 bytes of their keys."""

    __slots__ = ("_port",)

    def __init__(self, port: StoragePort) -> None:
        self._port = port

    @overload
    def get(self, key: str) -> Any: ...
    @overload
    def get(self, key: str, default: D) -> Any | D: ...
    @overload
    def get(self, key: str, *, type: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, type: type[T]) -> T | D: ...

    def get(self, key: str, default: Any = None, *, type: Any = None) -> Any:  # noqa: A002
        """A copy of the value, or `default`. Raises StateMismatchError when it is not a `type`."""
        raw = self._port.get(_key(key))
        if raw is None:
            return default
        return _value(raw, key, type)

    def put(self, key: str, value: Any) -> None:
        """Write one row. Raises TooLargeError above 1 KiB of key or 1 MiB of value."""
        self._port.put(_key(key), _raw(key, value))

    def put_many(self, items: Mapping[str, Any]) -> None:
        """Write several rows; nothing is written if one of them cannot be."""
        rows = [(_key(key), _raw(key, value)) for key, value in items.items()]
        for key, raw in rows:
            self._port.put(key, raw)

    def delete(self, key: str) -> bool:
        """Delete one row; was there one?"""
        return self._port.delete(_key(key))

    def delete_all(self) -> None:
        """Delete every row; fields stay."""
        self._port.delete_all()

    @overload
    def list(
        self, *, prefix: str = "", start: str | None = None, after: str | None = None,
        end: str | None = None, limit: int | None = None, reverse: bool = False,
    ) -> Iterator[tuple[str, Any]]: ...  # fmt: skip
    @overload
    def list(
        self, *, prefix: str = "", start: str | None = None, after: str | None = None,
        end: str | None = None, limit: int | None = None, reverse: bool = False, type: type[T],
    ) -> Iterator[tuple[str, T]]: ...  # fmt: skip

    def list(
        self,
        *,
        prefix: str = "",
        start: str | None = None,
        after: str | None = None,
        end: str | None = None,
        limit: int | None = None,
        reverse: bool = False,
        type: Any = None,  # noqa: A002
    ) -> Iterator[tuple[str, Any]]:
        """Rows in key order (last first with `reverse`), as they are at this call.

        `prefix`, `start` (inclusive), `after` and `end` (both exclusive) narrow the range and keep
        their meaning under `reverse`; `limit` bounds the count, 0 gives nothing.
        """
        if start is not None and after is not None:
            raise InvalidArgumentError("give start or after, not both")
        if limit is not None and limit < 0:
            raise InvalidArgumentError("limit is at least 0")
        low = prefix.encode()
        high = _after(low)
        if start is not None:
            low = max(low, start.encode())
        if after is not None:
            low = max(low, after.encode() + b"\0")
        if end is not None:
            stop = end.encode()
            high = stop if high is None else min(high, stop)
        if limit == 0 or (high is not None and high <= low):
            return iter(())
        return _rows(self._port.scan(low, high, reverse), limit, type)


def _rows(
    rows: Iterator[tuple[bytes, bytes]], limit: int | None, wanted: Any
) -> Iterator[tuple[str, Any]]:
    for count, (key, raw) in enumerate(rows, 1):
        name = key.decode()
        yield name, _value(raw, name, wanted)
        if count == limit:
            return


def _key(key: str) -> bytes:
    if not isinstance(key, str):
        raise InvalidArgumentError(f"a storage key is a str, not {type(key).__name__}")
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"the storage key {key!a} is not UTF-8 text") from None
    if len(raw) > STORAGE_KEY_BYTES_MAX:
        raise TooLargeError(
            f"a storage key has {len(raw)} bytes of UTF-8, at most {STORAGE_KEY_BYTES_MAX}"
        )
    return raw


def _raw(key: str, value: Any) -> bytes:
    try:
        raw = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidArgumentError(
            f"the value for storage key {key!r} cannot be encoded: {error}"
        ) from None
    if len(raw) > STORAGE_VALUE_BYTES_MAX:
        raise TooLargeError(
            f"the value for storage key {key!r} has {len(raw)} bytes, at most "
            f"{STORAGE_VALUE_BYTES_MAX}: split it over several keys"
        )
    return raw


def _value(raw: bytes, key: str, wanted: Any) -> Any:
    if wanted is None:
        return _decode(raw)
    try:
        return msgspec.msgpack.decode(raw, type=wanted)
    except msgspec.MsgspecError as error:
        raise StateMismatchError(
            f"storage key {key!r} holds something else than {wanted}: {error}"
        ) from None


def _after(prefix: bytes) -> bytes | None:
    """The first key that does not begin with `prefix`; None: there is no end."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
