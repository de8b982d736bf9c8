"""What an object sees of the world while it runs."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, overload
from uuid import UUID

from roost.storage import Storage
from roost.stub import Caller, make_stub

T = TypeVar("T")

current_call: ContextVar[Any] = ContextVar("roost_current_call", default=None)
"""The call that is running in this context, as its node sees it; None outside of objects."""


class DeactivationReason(enum.StrEnum):
    """Why an object leaves memory."""

    IDLE = "idle"
    MEMORY = "memory"
    HANDOFF = "handoff"
    SHUTDOWN = "shutdown"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True)
class CallInfo:
    """The call that is running. `chain`: the calls that led to it, "Class/key.method", oldest first."""

    request_id: UUID
    deadline: datetime
    caller: str
    chain: tuple[str, ...]


class StoragePort(Protocol):
    """Raw rows of one object, in the order of their keys' bytes; implemented by the node."""

    def get(self, key: bytes) -> bytes | None:
        """The row as the open turn sees it."""

    def put(self, key: bytes, value: bytes) -> None:
        """Write it in the open turn."""

    def delete(self, key: bytes) -> bool:
        """Delete it in the open turn; was there one?"""

    def delete_all(self) -> None:
        """Delete every row in the open turn."""

    def scan(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, end) as of this call."""


class ContextPort(Protocol):
    """What a context asks of the node that runs the object."""

    key: str

    @property
    def caller(self) -> Caller:
        """Carries calls to other objects."""

    @property
    def storage(self) -> StoragePort:
        """The object's rows."""

    def call_info(self) -> CallInfo:
        """The call that is running."""

    def now_ms(self) -> int:
        """The node's clock."""

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """Keep other calls out."""


class Context:
    """`self.ctx` of a durable object."""

    __slots__ = ("_port", "_storage")

    def __init__(self, port: ContextPort) -> None:
        self._port = port
        self._storage: Storage | None = None

    @property
    def key(self) -> str:
        """The object's key."""
        return self._port.key

    @property
    def storage(self) -> Storage:
        """The object's rows: ordered keys, for state too large for a field."""
        storage = self._storage
        if storage is None:
            storage = self._storage = Storage(self._port.storage)
        return storage

    @property
    def call(self) -> CallInfo:
        """The call that is running."""
        return self._port.call_info()

    def now(self) -> datetime:
        """The node's clock, in UTC; virtual in tests."""
        return datetime.fromtimestamp(self._port.now_ms() / 1000, UTC)

    @overload
    def object(self, cls: type[T], key: str) -> T: ...

    @overload
    def object(self, cls: str, key: str) -> Any: ...

    def object(self, cls: type[T] | str, key: str) -> Any:
        """A stub of another object; a call through it commits there, by itself."""
        return make_stub(self._port.caller, cls, key)

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """In an interleaving method: `async with` keeps other calls out and commits nothing inside."""
        return self._port.exclusive()
