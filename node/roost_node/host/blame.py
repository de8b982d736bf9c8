"""Which error a caller sees when an object's code raised one."""

from __future__ import annotations

import traceback

from roost.errors import (
    ApplicationError,
    CorruptionError,
    DeadlineExceededError,
    DeadlockError,
    ObjectError,
    ReadOnlyError,
    RoostError,
    StateMismatchError,
    TooLargeError,
)
from roost.wire.messages import ErrorInfo
from roost.wire.status import to_status
from roost_node.host.call import ActiveCall

KEPT = (
    ApplicationError,
    CorruptionError,
    DeadlineExceededError,
    DeadlockError,
    ReadOnlyError,
    StateMismatchError,
    TooLargeError,
)
"""These reach the caller as they are; any other error becomes an `ObjectError` that names it."""


def blame(active: ActiveCall, error: BaseException) -> RoostError:
    """The error for the reply; its `.type` names what the code raised."""
    if isinstance(error, KEPT):
        return error
    return blame_code(f"{active}", error)


def blame_code(where: str, error: BaseException) -> ObjectError:
    """The error of a caller whose object's code raised at `where`."""
    name = type(error).__name__
    text = "".join(traceback.format_exception(error))
    return ObjectError(f"{where} raised {name}: {_text(error)}", type=name, traceback=text)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the user's own `__str__`
        return "(its text cannot be had)"


def failure(error: RoostError) -> tuple[int, bytes, ErrorInfo]:
    """Status, payload and error of the reply that says so."""
    try:
        status, info = to_status(error)
    except Exception:  # a user's own error, with arguments that cannot be shown
        status, info = to_status(blame_code("the call", error))
    return int(status), b"", info
