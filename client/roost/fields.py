"""The durable fields of one activation: decoded lazily, compared at the end of a turn.

`raw` is what the log holds. A value is decoded when it is first read and kept. Assignment marks a
field; a *mutable* value that was handed out may have been changed through any alias, so each one is
encoded and compared at the end of every turn that may write. After a rollback the kept values of
changed fields are dropped, and the next read decodes afresh.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import UnionType
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from roost.errors import FieldNotSetError, ObjectError, StateMismatchError, TooLargeError

if TYPE_CHECKING:
    from roost.object import ClassSpec

FIELD_BYTES_MAX = 64 * 1024
MISSING: Final = object()

_IMMUTABLE = (
    int, float, str, bytes, bool, type(None), datetime, date, time, timedelta, UUID, Decimal, complex,
)  # fmt: skip
_EXACT = (int, str, bool, bytes, float)
_encode = msgspec.msgpack.Encoder().encode


class FieldSpec:
    """One durable field of a class."""

    __slots__ = (
        "_decode",
        "_exact",
        "annotation",
        "class_name",
        "default_raw",
        "immutable",
        "name",
    )

    def __init__(self, class_name: str, name: str, annotation: Any, default: Any) -> None:
        self.class_name = class_name
        self.name = name
        self.annotation = annotation
        self.immutable = is_immutable(annotation)
        try:
            self._decode = msgspec.msgpack.Decoder(annotation).decode
        except TypeError as error:
            raise TypeError(
                f"{class_name}.{name}: {_show(annotation)} cannot be a durable field: {error}. Begin "
                f"its name with an underscore if it is ordinary memory"
            ) from None
        self._exact: type | None = annotation if annotation in _EXACT else None
        self.default_raw: bytes | None = None
        if default is not MISSING:
            try:
                self.default_raw = self.encode(default)
            except ObjectError as error:
                raise TypeError(f"{class_name}.{name}: its default does not fit: {error}") from None

    def encode(self, value: Any) -> bytes:
        """Check and encode. Raises ObjectError naming field, value type and annotation."""
        if type(value) is self._exact:
            try:
                raw = _encode(value)
            except (OverflowError, ValueError) as error:
                raise self._misfit(value, str(error)) from None
        else:
            try:
                raw = _encode(value)
                self._decode(raw)
            except Exception as error:  # the users' types check themselves, and may raise anything
                raise self._misfit(value, repr(error)) from None
        if len(raw) > FIELD_BYTES_MAX:
            raise TooLargeError(
                f"field {self.class_name}.{self.name} would take {len(raw)} bytes, at most "
                f"{FIELD_BYTES_MAX}: keep larger state in ctx.storage"
            )
        return raw

    def decode(self, raw: bytes) -> Any:
        """Raises StateMismatchError when the stored value does not fit the annotation."""
        try:
            return self._decode(raw)
        except Exception as error:  # the users' types check themselves, and may raise anything
            raise StateMismatchError(
                f"{self.class_name}.{self.name} is stored as {_stored_type(raw)}, declared as "
                f"{_show(self.annotation)} ({error}): raise the class's version and add a @migrate"
            ) from None

    def _misfit(self, value: Any, why: str) -> ObjectError:
        return ObjectError(
            f"field {self.class_name}.{self.name} holds a {type(value).__name__}, declared as "
            f"{_show(self.annotation)}: {why}",
            type="TypeError",
        )


class Fields:
    """All durable fields of one activation."""

    __slots__ = ("_dirty", "_may_write", "_spec", "_watched", "raw", "values")

    def __init__(
        self, spec: ClassSpec, raw: dict[str, bytes], may_write: Callable[[], None]
    ) -> None:
        self.raw = raw
        self._spec = spec
        self._may_write = may_write
        self.values: dict[str, Any] = {}
        self._dirty: set[str] | None = None
        self._watched: dict[str, FieldSpec] | None = None

    def read(self, field: FieldSpec) -> Any:
        """The value; decoded and kept at the first read."""
        name = field.name
        value = self.values.get(name, MISSING)
        if value is not MISSING:
            return value
        raw = self.raw.get(name)
        if raw is None:
            raw = field.default_raw
            if raw is None:
                raise FieldNotSetError(
                    f"{field.class_name}.{name} has no default and was not assigned yet"
                )
        value = field.decode(raw)
        self.values[name] = value
        if not field.immutable:
            if self._watched is None:
                self._watched = {}
            self._watched[name] = field
        return value

    def assign(self, field: FieldSpec, value: Any) -> None:
        """Change a field in the open turn."""
        self._may_write()
        name = field.name
        self.values[name] = value
        dirty = self._dirty
        if dirty is None:
            self._dirty = {name}
        else:
            dirty.add(name)
        if not field.immutable:
            if self._watched is None:
                self._watched = {}
            self._watched[name] = field

    def changes(self) -> dict[str, bytes] | None:
        """Encoded fields that differ from what the log holds; None: nothing does."""
        dirty, watched = self._dirty, self._watched
        if not dirty and not watched:
            return None
        changed: dict[str, bytes] | None = None
        specs = self._spec.fields
        if dirty:
            for name in dirty:
                raw = specs[name].encode(self.values[name])
                if self.raw.get(name) != raw:
                    if changed is None:
                        changed = {}
                    changed[name] = raw
        if watched:
            for name, field in watched.items():
                if dirty and name in dirty:
                    continue
                raw = field.encode(self.values[name])
                before = self.raw.get(name)
                if raw != (before if before is not None else field.default_raw):
                    if changed is None:
                        changed = {}
                    changed[name] = raw
        if changed is None and dirty:
            self._dirty = None
        return changed

    def accept(self, changes: dict[str, bytes]) -> None:
        """They are in the log now."""
        self.raw.update(changes)
        self._dirty = None

    def roll_back(self) -> None:
        """Forget what the open turn did to the fields."""
        values = self.values
        for name in self._dirty or ():
            values.pop(name, None)
        self._dirty = None
        if self._watched:
            for name in self._watched:
                values.pop(name, None)
            self._watched = None

    def is_mutated(self) -> str | None:
        """A field that was assigned or changed in place, if any (for calls that must not)."""
        if self._dirty:
            return next(iter(self._dirty))
        for name, field in (self._watched or {}).items():
            before = self.raw.get(name)
            try:
                raw = field.encode(self.values[name])
            except (ObjectError, TooLargeError):
                return name
            if raw != (before if before is not None else field.default_raw):
                return name
        return None


class FieldDescriptor:
    """The class attribute behind a durable field."""

    __slots__ = ("name", "spec")

    def __init__(self, spec: FieldSpec) -> None:
        self.name = spec.name
        self.spec = spec

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is not None:  # the common case: it was read or assigned before
            fields = instance._roost_fields
            if fields is not None:
                value = fields.values.get(self.name, MISSING)
                if value is not MISSING:
                    return value
        return self._first_read(instance)

    def _first_read(self, instance: Any) -> Any:
        if instance is None:
            raise AttributeError(f"{self.spec.name} is a durable field: read it on an object")
        return self._fields_of(instance).read(self.spec)

    def __set__(self, instance: Any, value: Any) -> None:
        self._fields_of(instance).assign(self.spec, value)

    def _fields_of(self, instance: Any) -> Fields:
        fields: Fields | None = instance._roost_fields
        if fields is None:  # an object that no node runs, as in a plain unit test
            fields = Fields(type(instance)._roost_spec, {}, _anyone)
            object.__setattr__(instance, "_roost_fields", fields)
        return fields

    def __delete__(self, instance: Any) -> None:
        raise AttributeError(f"{self.spec.name} is a durable field: assign a value, or None")


def _anyone() -> None:
    """Outside of a node anybody may write."""


def is_immutable(annotation: Any) -> bool:
    """Can no alias change a value of this type?"""
    if annotation in _IMMUTABLE or annotation is None:
        return True
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return is_immutable(arguments[0])
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, UnionType):
        return all(map(is_immutable, arguments))
    if origin in (tuple, frozenset):
        return all(is_immutable(a) for a in arguments if a is not Ellipsis)
    if isinstance(annotation, type):
        if issubclass(annotation, Enum):
            return True
        if issubclass(annotation, msgspec.Struct):
            return annotation.__struct_config__.frozen
    return False


def _stored_type(raw: bytes) -> str:
    try:
        return type(msgspec.msgpack.decode(raw)).__name__
    except msgspec.MsgspecError:
        return "unreadable bytes"


def _show(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
