"""The base class of durable objects, and what is known of a class of them.

A class is checked in two steps: names when it is defined (a wrong name is reported where it stands),
types when it is first used (annotations may name classes that are defined later).
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, overload

import msgspec

from roost.context import Context, DeactivationReason
from roost.errors import StateMismatchError
from roost.fields import MISSING, FieldDescriptor, Fields, FieldSpec
from roost.wire.codec import Arguments, Result
from roost.wire.messages import MSGPACK

F = TypeVar("F", bound=Callable[..., Any])
Migration = Callable[[dict[str, Any]], dict[str, Any]]

HOOKS = {
    "on_activate", "on_deactivate", "on_alarm", "on_connect", "on_message", "on_disconnect",
}  # fmt: skip
LATER = {"on_alarm", "on_connect", "on_message", "on_disconnect"}


class DurableObject:
    """A named object whose public annotated attributes are durable.

    ```python
    class Counter(DurableObject):
        count: int = 0

        async def increment(self, by: int = 1) -> int:
            self.count += by
            return self.count
    ```

    Public `async def` methods can be called from anywhere; a plain `def` is a local helper; names with
    an underscore are ordinary memory. One call runs at a time, and all that it changes is kept, or
    none of it. Class keywords: `idle_after` (seconds in memory without a call, default 60), `version`
    (of the stored state, default 1), `mailbox_max` (calls that may wait, default 1,000),
    `reset_on_error` (drop the instance after an error, default False).
    """

    _roost_spec: ClassVar[ClassSpec]
    _roost_options: ClassVar[dict[str, Any]] = {}
    _roost_locals: ClassVar[dict[str, Any]] = {}
    _roost_fields: Fields | None = None  # of an object that a node runs
    _roost_ctx: Context | None = None

    def __init_subclass__(
        cls,
        *,
        idle_after: float | None = None,
        version: int | None = None,
        mailbox_max: int | None = None,
        reset_on_error: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        _check_names(cls)
        given = {
            "idle_after": idle_after,
            "version": version,
            "mailbox_max": mailbox_max,
            "reset_on_error": reset_on_error,
        }
        inherited = {k: v for k, v in cls._roost_options.items() if k != "version"}
        cls._roost_options = {**inherited, **{k: v for k, v in given.items() if v is not None}}
        if version is not None and version < 1:
            raise TypeError(f"{cls.__name__}: version counts from 1")
        if mailbox_max is not None and mailbox_max < 1:
            raise TypeError(f"{cls.__name__}: mailbox_max is at least 1")
        if idle_after is not None and idle_after < 0:
            raise TypeError(f"{cls.__name__}: idle_after is a number of seconds, at least 0")
        frame = sys._getframe(1)
        cls._roost_locals = {} if frame.f_locals is frame.f_globals else dict(frame.f_locals)

    @property
    def ctx(self) -> Context:
        """What the object sees of the world: its key, storage, time, other objects."""
        context = self._roost_ctx
        if context is None:
            raise RuntimeError(
                f"this {type(self).__name__} runs nowhere: use `roost.local({type(self).__name__})`"
            )
        return context

    async def on_activate(self) -> None:
        """Run before the first call after the object came into memory; what it writes is kept."""

    async def on_deactivate(self, reason: DeactivationReason) -> None:
        """Run before the object leaves memory, for at most 5 s; not when its node is lost."""


@overload
def method(function: F, /) -> F: ...


@overload
def method(
    *,
    read_only: bool = False,
    interleave: bool = False,
    reentrant: bool = False,
    timeout: float | None = None,
    check_effects: bool = True,
) -> Callable[[F], F]: ...


def method(
    function: Any = None,
    /,
    *,
    read_only: bool = False,
    interleave: bool = False,
    reentrant: bool = False,
    timeout: float | None = None,
    check_effects: bool = True,
) -> Any:
    """Say how a remote method runs.

    `read_only`: it overlaps with other such calls, and may not write. `interleave`: other calls run
    while it awaits; each stretch between awaits commits by itself. `reentrant`: a chain of calls that
    holds the object may come back through it. `timeout`: seconds, an upper bound on the caller's.
    `check_effects`: whether `roost dev --check-effects` runs it twice.
    """
    if read_only and interleave:
        raise TypeError("read_only calls overlap already: drop interleave")
    if timeout is not None and timeout <= 0:
        raise TypeError("timeout is a number of seconds above 0")

    def mark(target: Any) -> Any:
        if not inspect.iscoroutinefunction(target) and not inspect.isasyncgenfunction(target):
            raise TypeError(f"@method marks remote methods: make {target!r} an `async def`")
        target._roost_method = {
            "read_only": read_only,
            "interleave": interleave,
            "reentrant": reentrant,
            "timeout": timeout,
            "check_effects": check_effects,
        }
        return target

    return mark if function is None else mark(function)


def migrate(*, from_version: int) -> Callable[[Any], Any]:
    """Mark a static method that turns the fields of one version into those of the next.

    ```python
    @migrate(from_version=1)
    @staticmethod
    def _split_name(state: dict[str, Any]) -> dict[str, Any]: ...
    ```

    It gets all stored fields as plain values and returns those to store; leave a field out to drop it.
    """
    if from_version < 1:
        raise TypeError("versions count from 1")

    def mark(target: Any) -> Any:
        function = target.__func__ if isinstance(target, staticmethod) else target
        if not callable(function):
            raise TypeError("@migrate marks a static method")
        vars(function)["_roost_migrates"] = from_version
        return target if isinstance(target, staticmethod) else staticmethod(target)

    return mark


class MethodSpec:
    """One remote method."""

    __slots__ = (
        "_arguments",
        "_result",
        "check_effects",
        "decode_arguments",
        "function",
        "interleave",
        "name",
        "read_only",
        "reentrant",
        "streams",
        "timeout_s",
    )

    def __init__(
        self, class_name: str, name: str, function: Callable[..., Any], hints: Mapping[str, Any]
    ) -> None:
        options = getattr(function, "_roost_method", {})
        self.name = name
        self.function = function
        self.streams = inspect.isasyncgenfunction(function)
        self.read_only: bool = options.get("read_only", False)
        self.interleave: bool = options.get("interleave", False) or self.streams
        self.reentrant: bool = options.get("reentrant", False)
        self.timeout_s: float | None = options.get("timeout")
        self.check_effects: bool = options.get("check_effects", True)
        title = f"{class_name}.{name}"
        if self.streams and self.read_only:
            self.interleave = True
            self.read_only = False
        parameters: list[tuple[str, Any, Any]] = []
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
                raise TypeError(
                    f"{title}: parameter {parameter.name!r} is {parameter.kind.description}; a remote "
                    f"method takes plain named parameters"
                )
            parameters.append((parameter.name, hints.get(parameter.name, Any), parameter.default))
        result = hints.get("return", Any)
        if self.streams and typing.get_args(result):
            result = typing.get_args(result)[0]
        elif self.streams:
            result = Any
        try:
            self._arguments = Arguments(title, parameters)
            self._result = Result(title, result)
        except TypeError as error:
            raise TypeError(f"{title}: its types cannot be sent: {error}") from None
        self.decode_arguments = self._arguments.decode

    def encode_result(self, value: Any, encoding: int = MSGPACK) -> bytes:
        """What it returned or yielded. Raises ObjectError on a misfit."""
        return self._result.encode(value, encoding)

    def decode_result(self, raw: bytes, encoding: int = MSGPACK) -> Any:
        """The caller's side."""
        return self._result.decode(raw, encoding)


class ClassSpec:
    """One class of durable objects, with all that running it needs."""

    __slots__ = (
        "cls",
        "fields",
        "idle_after_s",
        "mailbox_max",
        "methods",
        "migrations",
        "name",
        "reset_on_error",
        "version",
    )

    def __init__(self, cls: type[DurableObject]) -> None:
        options = cls._roost_options
        self.cls = cls
        self.name = cls.__name__
        self.idle_after_s: float = options.get("idle_after", 60.0)
        self.version: int = options.get("version", 1)
        self.mailbox_max: int = options.get("mailbox_max", 1000)
        self.reset_on_error: bool = options.get("reset_on_error", False)
        self.fields = _fields_of(cls)
        self.methods = _methods_of(cls)
        self.migrations: dict[int, Migration] = _migrations_of(cls)
        for version in self.migrations:
            if version >= self.version:
                raise TypeError(
                    f"{self.name} has version {self.version} and a @migrate from {version}: raise "
                    f"the class's version"
                )

    def new(self, fields: Fields, context: Context) -> DurableObject:
        """A live instance over these fields."""
        instance = object.__new__(self.cls)
        # Not through `__dict__`: asking for it makes a dict of what fits into the object itself.
        object.__setattr__(instance, "_roost_fields", fields)
        object.__setattr__(instance, "_roost_ctx", context)
        return instance

    def migrate(self, raw: Mapping[str, bytes], from_version: int) -> dict[str, bytes]:
        """Stored fields of an older version, brought to this one, step by step.

        A version without a `@migrate` keeps the fields as they are. Raises StateMismatchError when
        the result does not fit the class.
        """
        if from_version > self.version:
            raise StateMismatchError(
                f"{self.name} is stored in version {from_version}, this code has {self.version}"
            )
        state: dict[str, Any] = {k: msgspec.msgpack.decode(v) for k, v in raw.items()}
        for version in range(from_version, self.version):
            step = self.migrations.get(version)
            if step is not None:
                state = step(state)
                if not isinstance(state, dict):
                    raise StateMismatchError(
                        f"{self.name}: the @migrate from {version} returned "
                        f"{type(state).__name__}, not the fields as a dict"
                    )
        migrated: dict[str, bytes] = {}
        for name, value in state.items():
            encoded = msgspec.msgpack.encode(value)
            field = self.fields.get(name)
            if field is not None:
                field.decode(encoded)
            migrated[name] = encoded
        return migrated


def spec_of(cls: type[DurableObject]) -> ClassSpec:
    """What is known of a class; made at its first use. Raises TypeError when it cannot be served."""
    spec = cls.__dict__.get("_roost_spec")
    if spec is None:
        if not _is_object_class(cls):
            raise TypeError(f"{cls!r} is not a class of durable objects")
        spec = ClassSpec(cls)
        cls._roost_spec = spec
        for field in spec.fields.values():
            setattr(cls, field.name, FieldDescriptor(field))
    return typing.cast(ClassSpec, spec)


def _is_object_class(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, DurableObject) and cls is not DurableObject


def _check_names(cls: type) -> None:
    own = cls.__dict__
    if "__init__" in own:
        raise TypeError(
            f"{cls.__name__} defines __init__: an object is loaded, not made; use on_activate, or "
            f"give fields defaults"
        )
    annotations: Mapping[str, Any] = own.get("__annotations__", {})
    for name in {*own, *annotations}:
        if name == "ctx":
            raise TypeError(f"{cls.__name__}.ctx belongs to Roost: call it `context_` or the like")
        if name in HOOKS:
            if name in annotations or not inspect.iscoroutinefunction(own.get(name)):
                raise TypeError(
                    f"{cls.__name__}.{name} is a hook of Roost: define it as `async def {name}`, or "
                    f"name yours `when_{name[3:]}`"
                )
            if hasattr(own[name], "_roost_method"):
                raise TypeError(
                    f"{cls.__name__}.{name} is a hook, not a remote method: drop @method"
                )
            if name in LATER:
                raise TypeError(f"{cls.__name__}.{name}: this release has no such hook yet")
        elif name.startswith("_roost"):
            raise TypeError(f"{cls.__name__}.{name}: names that begin with _roost belong to Roost")


def _hints(cls: type, annotations: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Resolve annotations of one class, as far as its module and the enclosing function know them."""
    module = sys.modules.get(cls.__module__)
    known = dict(vars(module)) if module is not None else {}
    local = {**getattr(cls, "_roost_locals", {}), cls.__name__: cls}
    resolved: dict[str, Any] = {}
    for name, annotation in annotations.items():
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, known, local)  # the class's own source
            except Exception as error:
                raise TypeError(
                    f"{where}.{name}: its annotation {annotation!r} cannot be resolved: {error}"
                ) from None
        resolved[name] = type(None) if annotation is None else annotation
    return resolved


def _fields_of(cls: type[DurableObject]) -> dict[str, FieldSpec]:
    fields: dict[str, FieldSpec] = {}
    for base in reversed(cls.__mro__):
        if base in (DurableObject, object):
            continue
        annotations = inspect.get_annotations(base)
        public = {
            name: annotation
            for name, annotation in annotations.items()
            if not name.startswith("_") and not _is_class_var(annotation)
        }
        for name, annotation in _hints(base, public, base.__name__).items():
            default = base.__dict__.get(name, MISSING)
            if isinstance(default, FieldDescriptor):
                raw = default.spec.default_raw
                default = MISSING if raw is None else default.spec.decode(raw)
            fields[name] = FieldSpec(cls.__name__, name, annotation, default)
    return fields


def _is_class_var(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return "ClassVar" in annotation.split("[")[0]
    return annotation is ClassVar or typing.get_origin(annotation) is ClassVar


def _methods_of(cls: type[DurableObject]) -> dict[str, MethodSpec]:
    methods: dict[str, MethodSpec] = {}
    for base in reversed(cls.__mro__):
        if base in (DurableObject, object):
            continue
        for name, value in base.__dict__.items():
            if name.startswith("_") or name in HOOKS:
                continue
            if inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
                hints = _hints(base, inspect.get_annotations(value), f"{base.__name__}.{name}")
                methods[name] = MethodSpec(cls.__name__, name, value, hints)
            else:
                methods.pop(
                    name, None
                )  # overridden by something that cannot be called from outside
    return methods


def _migrations_of(cls: type[DurableObject]) -> dict[int, Migration]:
    found: dict[int, Migration] = {}
    for base in reversed(cls.__mro__):
        here: set[int] = set()
        for name, value in base.__dict__.items():
            function = value.__func__ if isinstance(value, staticmethod) else value
            version = getattr(function, "_roost_migrates", None)
            if version is None:
                continue
            if version in here:
                raise TypeError(f"{cls.__name__} has two @migrate from version {version}: {name}")
            here.add(version)
            found[version] = function
    return found
