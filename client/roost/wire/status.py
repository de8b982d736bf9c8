"""Errors to statuses on the wire, and back."""

from __future__ import annotations

import msgspec

from roost.errors import (
    ApplicationError,
    CorruptionError,
    DeadlineExceededError,
    DeadlockError,
    DiskFullError,
    ExpiredRequestError,
    InvalidArgumentError,
    NotOwnerError,
    ObjectError,
    OutcomeUnknownError,
    OverloadedError,
    PermissionDeniedError,
    ReadOnlyError,
    RoostError,
    StateMismatchError,
    TookEffect,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnknownClassError,
    UnknownMethodError,
)
from roost.wire.messages import MAYBE_EFFECT, NO_EFFECT, TOOK_EFFECT, ErrorInfo, Link, Status

_CLASSES: dict[Status, type[RoostError]] = {
    Status.UNKNOWN_CLASS: UnknownClassError,
    Status.UNKNOWN_METHOD: UnknownMethodError,
    Status.INVALID_ARGUMENT: InvalidArgumentError,
    Status.TOO_LARGE: TooLargeError,
    Status.DEADLOCK: DeadlockError,
    Status.UNAUTHENTICATED: UnauthenticatedError,
    Status.PERMISSION_DENIED: PermissionDeniedError,
    Status.EXPIRED_REQUEST: ExpiredRequestError,
    Status.OBJECT_ERROR: ObjectError,
    Status.APPLICATION_ERROR: ApplicationError,
    Status.READ_ONLY: ReadOnlyError,
    Status.STATE_MISMATCH: StateMismatchError,
    Status.UNAVAILABLE: UnavailableError,
    Status.OVERLOADED: OverloadedError,
    Status.DISK_FULL: DiskFullError,
    Status.NOT_OWNER: NotOwnerError,
    Status.OUTCOME_UNKNOWN: OutcomeUnknownError,
    Status.DEADLINE_EXCEEDED: DeadlineExceededError,
    Status.CORRUPTION: CorruptionError,
}
_STATUSES = {error: status for status, error in _CLASSES.items()}
_EFFECT: dict[TookEffect, int] = {"no": NO_EFFECT, "maybe": MAYBE_EFFECT, "yes": TOOK_EFFECT}
_EFFECT_BACK: tuple[TookEffect, ...] = ("no", "maybe", "yes")
TEXT_MAX = 16 * 1024
DATA_BYTES_MAX = 64 * 1024  # of an application error's arguments: an error is no way to send state


class OutOfOrderError(UnavailableError):
    """An earlier call of the stub has not arrived: between server and client only, known by its type."""


def to_status(error: BaseException) -> tuple[Status, ErrorInfo]:
    """What to say of an error on the wire; anything but a RoostError is an ObjectError."""
    status = Status.OBJECT_ERROR
    for base in type(error).__mro__:
        found = _STATUSES.get(base)
        if found is not None:
            status = found
            break
    if not isinstance(error, RoostError):
        return status, ErrorInfo(_cut(str(error)), type=type(error).__name__)
    data = b""
    type_name = type(error).__name__
    traceback = ""
    chain: tuple[Link, ...] = ()
    if isinstance(error, ApplicationError):
        try:
            data = msgspec.msgpack.encode(error.args)
        except (TypeError, ValueError, OverflowError):
            data = msgspec.msgpack.encode([_cut(str(a)) for a in error.args])
        if len(data) > DATA_BYTES_MAX:
            data = msgspec.msgpack.encode([_cut(error.message)])
    elif isinstance(error, ObjectError):
        type_name = error.type
    if isinstance(error, ObjectError):
        traceback = error.traceback
    if isinstance(error, DeadlockError):
        chain = tuple(Link(link, "", "", b"") for link in error.chain)
    return status, ErrorInfo(
        _cut(error.message),
        _EFFECT[error.took_effect],
        type_name,
        data,
        _cut(traceback),
        error.retry_after_s if isinstance(error, OverloadedError) else 0.0,
        chain,
        type(error).retryable and not error.retryable,
    )


def to_error(status: int, info: ErrorInfo | None) -> RoostError:
    """The error that a reply stands for."""
    info = info or ErrorInfo()
    effect = _EFFECT_BACK[info.took_effect] if 0 <= info.took_effect <= 2 else "maybe"
    try:
        cls = _CLASSES[Status(status)]
    except (ValueError, KeyError):
        return OutcomeUnknownError(f"unknown status {status}: {info.message}")
    if cls is ApplicationError:
        return _application_error(info)
    error: RoostError
    if cls is OverloadedError:
        error = OverloadedError(info.message, retry_after_s=info.retry_after_s)
    elif cls is DeadlockError:
        error = DeadlockError(info.message, chain=[link.class_name for link in info.chain])
    elif issubclass(cls, ObjectError):
        error = cls(info.message, type=info.type, traceback=info.traceback)
    else:
        error = cls(info.message)
    if effect != error.took_effect:
        error.took_effect = effect
    if info.final:
        error.retryable = False
    return error


def _application_error(info: ErrorInfo) -> RoostError:
    """The user's own class where this process knows it, else a plain ObjectError."""
    known = ApplicationError.known.get(info.type)
    if known is not None:
        try:
            error = known(*msgspec.msgpack.decode(info.data))
        except Exception:  # its constructor takes something else: the plain one below
            pass
        else:
            error.type = info.type
            error.traceback = info.traceback
            return error
    return ObjectError(info.message, type=info.type, traceback=info.traceback)


def _cut(text: str) -> str:
    """Bounded, and valid UTF-8 whatever the exception held."""
    if len(text) > TEXT_MAX:
        text = text[:TEXT_MAX] + " ..."
    return text.encode("utf-8", "replace").decode()
