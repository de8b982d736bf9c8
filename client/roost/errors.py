"""The one hierarchy of errors.

```
RoostError                        .retryable, .took_effect: "no" | "maybe" | "yes"
├── CallError                     the caller must change something; nothing happened
│   ├── UnknownClassError  UnknownMethodError  InvalidArgumentError  TooLargeError
│   ├── DeadlockError             .chain
│   └── UnauthenticatedError  PermissionDeniedError  ExpiredRequestError
├── ObjectError                   the object's code raised and was rolled back: .type, .message, .traceback
│   ├── ApplicationError          base for users' own errors: arrive as their own class where the caller knows it
│   ├── ReadOnlyError             a read_only call tried to write
│   └── StateMismatchError        stored state does not fit the class
├── UnavailableError              nothing happened; retrying is safe and usually works
│   ├── OverloadedError           .retry_after_s
│   ├── DiskFullError
│   └── NotOwnerError             followed by the client itself
├── OutcomeUnknownError           it may have happened; calling again with the same request id finds out
│   └── DeadlineExceededError     names what was waited for
├── StoreError                    a data directory that is locked, foreign, newer or unfinished
└── CorruptionError               stored bytes are not what was written

raised inside an object's code only: StaleCallError, FieldNotSetError
```

The class says who has to act and whether a retry can help before the message is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

TookEffect = Literal["no", "maybe", "yes"]


class RoostError(Exception):
    """Base of everything that Roost raises.

    `retryable`: sending the same request again (same request id) can help.
    `took_effect`: whether the call changed anything that survives.
    """

    retryable: bool = False
    took_effect: TookEffect = "no"

    def __init__(self, message: str = "", *, took_effect: TookEffect | None = None) -> None:
        super().__init__(message)
        if took_effect is not None:
            self.took_effect = took_effect

    @property
    def message(self) -> str:
        """The sentence for people."""
        return str(self.args[0]) if self.args else ""


class CallError(RoostError):
    """The caller must change something; nothing happened."""


class UnknownClassError(CallError):
    """No class of this name is served here."""


class UnknownMethodError(CallError):
    """The class has no remote method of this name."""


class InvalidArgumentError(CallError):
    """An argument is missing, surplus or of the wrong type; the message names it."""


class TooLargeError(CallError):
    """A key, argument, result or write set is over its limit; the message names both."""


class DeadlockError(CallError):
    """A chain of calls came back to an object that it holds. `chain`: the calls, oldest first."""

    def __init__(self, message: str = "", *, chain: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.chain: tuple[str, ...] = tuple(chain)


class UnauthenticatedError(CallError):
    """The server does not know who is calling."""


class PermissionDeniedError(CallError):
    """The caller may not do this."""


class ExpiredRequestError(CallError):
    """The request id is older than the window of ten minutes: it is refused, never run again.

    What became of earlier attempts is not known any more.
    """

    took_effect: TookEffect = "maybe"


class ObjectError(RoostError):
    """The object's code raised and its writes were rolled back.

    `type`: the name of the exception's class. `traceback`: its text, for trusted callers only.
    """

    type: str = "ObjectError"  # also where a subclass does not call this constructor
    traceback: str = ""

    def __init__(
        self,
        message: str = "",
        *,
        type: str = "",  # noqa: A002
        traceback: str = "",
        took_effect: TookEffect | None = None,
    ) -> None:
        super().__init__(message, took_effect=took_effect)
        self.type = type or self.__class__.__name__
        self.traceback = traceback


class ApplicationError(ObjectError):
    """Base for your own errors: raise a subclass in a method, catch it at the caller.

    It is matched by class name among the subclasses that the caller's process has defined. Its
    positional arguments travel, encoded like a call's.
    """

    known: ClassVar[dict[str, type[ApplicationError] | None]] = {}

    def __init__(self, *args: Any) -> None:
        ObjectError.__init__(self, str(args[0]) if args else "")
        self.args = args

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.type = cls.__name__
        other = ApplicationError.known.get(name, cls)
        # Two classes of one name cannot be told apart by name (unless one is the other, reloaded).
        same = other is not None and (
            (other.__module__, other.__qualname__) == (cls.__module__, cls.__qualname__)
        )
        ApplicationError.known[name] = cls if same else None


class ReadOnlyError(ObjectError):
    """A `read_only` call tried to write."""


class StateMismatchError(ObjectError):
    """Stored state does not fit the class: raise its version and add a `@migrate`."""


class UnavailableError(RoostError):
    """Nothing happened; retrying is safe and usually works."""

    retryable = True


class OverloadedError(UnavailableError):
    """A bound was reached. `retry_after_s`: the server's estimate of when there is room."""

    def __init__(self, message: str = "", *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DiskFullError(UnavailableError):
    """The store has too little free disk to accept writes."""


class NotOwnerError(UnavailableError):
    """This node does not own the object's shard; routers follow, and clients with `direct=True`."""


class OutcomeUnknownError(RoostError):
    """It may have happened; calling again with the same request id finds out.

    Where it cannot be found out any more (an interleaving call that was cut), `retryable` is False.
    """

    retryable = True
    took_effect: TookEffect = "maybe"

    def __init__(
        self,
        message: str = "",
        *,
        took_effect: TookEffect | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message, took_effect=took_effect)
        if retryable is not None:
            self.retryable = retryable


class DeadlineExceededError(OutcomeUnknownError):
    """The deadline passed. `took_effect` is "no" when the owner said that it cancelled the call."""

    retryable = False


class StoreError(RoostError):
    """A data directory cannot be used: locked, foreign, newer or unfinished."""


class CorruptionError(RoostError):
    """Stored bytes are not what was written: the message has the file, the key and the way out."""


class StaleCallError(RoostError):
    """A task of an object wrote, called or sent after its call had ended."""


class FieldNotSetError(RoostError):
    """A durable field without a default was read before it was assigned."""
