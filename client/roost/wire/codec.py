"""Arguments and results as bytes.

Arguments are one value: an array (all by position), a map (all by name), or a map whose key "" holds
the positional ones beside named ones. A call without arguments is an empty array. msgpack between
SDKs; JSON, of the same shape, for people.

A method's arguments are decoded into a structure that is compiled once from its signature, so the
types are checked while the bytes are read.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from roost.errors import InvalidArgumentError, ObjectError, TooLargeError
from roost.wire.messages import ARGUMENTS_BYTES_MAX, JSON, MSGPACK, TURN_BYTES_MAX

_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_POSITION = re.compile(r"\$\[(\d+)\]")
EMPTY = _encode(())
IMMUTABLE = (int, str, float, bool, bytes, tuple, frozenset, type(None))


def encode_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The arguments of one call, msgpack. Raises InvalidArgumentError for what cannot be encoded."""
    try:
        if not kwargs:
            raw = _encode(args) if args else EMPTY
        elif args:
            raw = _encode({"": args, **kwargs})
        else:
            raw = _encode(kwargs)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise InvalidArgumentError(f"an argument cannot be encoded: {error}") from None
    if len(raw) > ARGUMENTS_BYTES_MAX:
        raise TooLargeError(too_large_arguments(len(raw)))
    return raw


def too_large_arguments(size: int) -> str:
    """Say so."""
    return f"the arguments take {size} bytes, at most {ARGUMENTS_BYTES_MAX}: send them in several calls"


class Arguments:
    """Decodes the arguments of one method."""

    __slots__ = (
        "_by_name", "_by_position", "_count", "_may_be_empty", "_name", "_names", "_required",
    )  # fmt: skip

    def __init__(self, name: str, parameters: Sequence[tuple[str, Any, Any]]) -> None:
        """`parameters`: name, annotation, default (`inspect.Parameter.empty`: none), in order."""
        self._name = name
        self._names = tuple(parameter for parameter, _, _ in parameters)
        self._count = len(parameters)
        self._required = {p for p, _, default in parameters if default is inspect.Parameter.empty}
        # Nothing to decode and nothing to copy: the method's own defaults will do.
        self._may_be_empty = all(isinstance(d, IMMUTABLE) for _, _, d in parameters)
        fields: list[Any] = []
        for index, (parameter, annotation, default) in enumerate(parameters):
            field = f"a{index}"
            if default is inspect.Parameter.empty:
                fields.append((field, annotation, msgspec.field(name=parameter)))
            else:
                fields.append(
                    (
                        field,
                        annotation,
                        msgspec.field(name=parameter, default_factory=_copier(default)),
                    )
                )
        by_position = (
            msgspec.defstruct(
                "Positional", fields, array_like=True, forbid_unknown_fields=True, gc=False
            )
            if not _required_after_default(parameters)
            else None
        )
        by_name = msgspec.defstruct(
            "Named", fields, kw_only=True, forbid_unknown_fields=True, gc=False
        )
        self._by_position: tuple[Callable[[bytes], Any], Callable[[bytes], Any]] | None = (
            (msgspec.msgpack.Decoder(by_position).decode, msgspec.json.Decoder(by_position).decode)
            if by_position
            else None
        )
        self._by_name: tuple[Callable[[bytes], Any], Callable[[bytes], Any]] = (
            msgspec.msgpack.Decoder(by_name).decode,
            msgspec.json.Decoder(by_name).decode,
        )

    def decode(self, raw: bytes, encoding: int) -> Sequence[Any]:
        """The positional arguments, none or all. Raises InvalidArgumentError."""
        if self._may_be_empty and (raw == EMPTY or raw in (b"", b"{}", b"[]", b"\x80")):
            return ()
        json = encoding == JSON
        try:
            if not raw:
                raw = b"{}" if json else b"\x80"
            if _is_map(raw, json):
                if b'""' in raw[:4] if json else raw[1:2] == b"\xa0":
                    raw = self._all_named(raw, json)
                value = self._by_name[json](raw)
            else:
                if self._by_position is None:
                    raise InvalidArgumentError(f"{self._name} takes its arguments by name")
                value = self._by_position[json](raw)
        except msgspec.ValidationError as error:
            raise InvalidArgumentError(self._explain(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidArgumentError(f"{self._name}: malformed arguments: {error}") from None
        except InvalidArgumentError:
            raise
        except Exception as error:  # the users' types check themselves, and may raise anything
            raise InvalidArgumentError(
                f"{self._name}: the type of an argument refused it: {error!r}"
            ) from None
        return msgspec.structs.astuple(value)

    def _all_named(self, raw: bytes, json: bool) -> bytes:
        """Positional beside named arguments: give every one its name."""
        values = msgspec.json.decode(raw) if json else _decode(raw)
        positional = values.pop("", ())
        if not isinstance(positional, list):
            raise InvalidArgumentError(f'{self._name}: key "" must hold an array')
        if len(positional) > self._count:
            raise InvalidArgumentError(self._surplus(len(positional)))
        for name, value in zip(self._names, positional, strict=False):
            if name in values:
                raise InvalidArgumentError(f"{self._name}: argument {name!r} was given twice")
            values[name] = value
        return _encode_json(values) if json else _encode(values)

    def _surplus(self, count: int) -> str:
        return (
            f"{self._name} takes {self._count} arguments ({', '.join(self._names) or 'none'}), "
            f"{count} were given"
        )

    def _explain(self, text: str) -> str:
        """A sentence that names the parameter."""
        if "missing required field" in text:
            return f"{self._name}: argument {text.split('`')[1]!r} is missing"
        if "unknown field" in text:
            name = text.split("`")[1]
            return (
                f"{self._name} has no argument {name!r}: it takes "
                f"{', '.join(self._names) or 'none'}"
            )
        found = re.search(r"Expected `array` of (?:at most )?length (\S+), got (\d+)", text)
        if found and "$" not in text:
            return self._surplus(int(found[2]))
        if found and re.search(r"at `\$`$", text):
            return self._surplus(int(found[2]))
        length = re.search(r"of (?:at least|at most) length|of length", text)
        if length and "- at" not in text:
            given = re.search(r"got (\d+)", text)
            count = int(given[1]) if given else 0
            missing = [n for n in self._names[count:] if n in self._required]
            if missing:
                return f"{self._name}: argument {missing[0]!r} is missing"
            return self._surplus(count)

        def named(match: re.Match[str]) -> str:
            position = int(match[1])
            return f"$.{self._names[position]}" if position < self._count else match[0]

        path = re.search(r" - at `(\$[^`]*)`$", text)
        if path:
            where = path[1]
            if not where.startswith("$."):
                where = _POSITION.sub(named, where, count=1)
            return f"{self._name}: argument {where[2:]!r}: {text[: path.start()]}"
        return f"{self._name}: {text}"


class Result:
    """Encodes and checks what one method returns (or yields)."""

    __slots__ = ("_annotation", "_check", "_decode", "_exact", "_name")

    def __init__(self, name: str, annotation: Any) -> None:
        self._name = name
        self._annotation = annotation
        any_value = annotation in (Any, inspect.Parameter.empty)
        self._exact: tuple[type, ...] | None = None
        if annotation is None or annotation is type(None):
            self._exact = (type(None),)
        elif annotation in (int, str, float, bool, bytes):
            self._exact = (annotation,)
        decoder = msgspec.msgpack.Decoder(Any if any_value else annotation)
        self._decode = decoder.decode
        self._check = None if any_value else decoder.decode

    def encode(self, value: Any, encoding: int) -> bytes:
        """Raises ObjectError when the value is not what the method says it returns, TooLargeError."""
        raw = self._encode(value, encoding)
        if len(raw) > TURN_BYTES_MAX:
            raise TooLargeError(
                f"{self._name} returned {len(raw)} bytes, at most {TURN_BYTES_MAX}: return less, or "
                f"stream it"
            )
        return raw

    def _encode(self, value: Any, encoding: int) -> bytes:
        exact = self._exact
        if exact is not None and type(value) in exact:
            if encoding != JSON:
                try:
                    return _encode(value)
                except OverflowError as error:
                    raise ObjectError(f"{self._name} returned {value!r}: {error}") from None
            return _encode_json(value)
        try:
            raw = _encode(value)
            if self._check is not None:
                self._check(raw)
            if encoding == JSON:
                return _encode_json(value)
        except msgspec.ValidationError as error:
            raise ObjectError(
                f"{self._name} returned {type(value).__name__}, but its annotation is "
                f"{_show(self._annotation)}: {error}",
                type="TypeError",
            ) from None
        except (
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
            msgspec.MsgspecError,
        ) as error:
            raise ObjectError(
                f"{self._name} returned a {type(value).__name__} that cannot be encoded: {error}",
                type=type(error).__name__,
            ) from None
        return raw

    def decode(self, raw: bytes, encoding: int) -> Any:
        """The caller's side."""
        if encoding == JSON:
            return msgspec.json.decode(raw)
        return self._decode(raw)


def decode_any(raw: bytes, encoding: int = MSGPACK) -> Any:
    """A result whose type is not known."""
    return msgspec.json.decode(raw) if encoding == JSON else _decode(raw)


def encode_for_people(value: Any) -> bytes:
    """One line of JSON for any value, its type not known.

    In JSON the keys of a map are text: one that is none is written as its own JSON, so
    `{(1, 2): "x"}` is shown as `{"[1,2]":"x"}`.
    """
    return msgspec.json.encode(value, enc_hook=_shown)


def _shown(value: Any) -> Any:
    if isinstance(value, tuple | frozenset | bool | None):  # as a key; elsewhere JSON has them
        return encode_for_people(value).decode()
    if isinstance(value, msgspec.msgpack.Ext):
        return {"type": value.code, "data": value.data}
    return str(value)


def _is_map(raw: bytes, json: bool) -> bool:
    first = raw[0]
    if json:
        return raw.lstrip()[:1] == b"{"
    return 0x80 <= first <= 0x8F or first in (0xDE, 0xDF)


def _copier(default: Any) -> Callable[[], Any]:
    if isinstance(default, IMMUTABLE):
        return lambda: default
    raw = _encode(default)
    decode = msgspec.msgpack.Decoder(type(default)).decode
    return lambda: decode(raw)


def _required_after_default(parameters: Sequence[tuple[str, Any, Any]]) -> bool:
    seen = False
    for _, _, default in parameters:
        if default is not inspect.Parameter.empty:
            seen = True
        elif seen:
            return True
    return False


def _show(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
