"""One call from its arrival to its reply, as the host sees it."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable
from contextvars import Context
from typing import TYPE_CHECKING, Protocol

import msgspec

from roost.object import MethodSpec
from roost.wire.messages import UNKNOWN, Call, ErrorInfo, Outcome, Reply, ToClient

if TYPE_CHECKING:
    from roost_node.host.activation import Activation


DEADLINE_DEFAULT_MS = 30_000  # of a call that comes without one, and of a hook


class Sink(Protocol):
    """Where the answers to one peer's calls go."""

    def send(self, message: ToClient) -> None:
        """Queue a message for the peer; never blocks, never fails."""

    def taken(self, call_id: int, active: ActiveCall) -> None:
        """A call that was kept back, or went to another activation, is this one now."""

    def room(self) -> Awaitable[None] | None:
        """None: a stream may go on sending. Else it may be asked again after this."""


class Waiter:
    """A `Sink` for one call: the future of its reply."""

    __slots__ = ("active", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.active: ActiveCall | None = None  # while it is open
        self.future: asyncio.Future[Reply] = loop.create_future()

    def send(self, message: ToClient) -> None:
        """The answer."""
        if isinstance(message, Reply) and not self.future.done():
            self.future.set_result(message)

    def taken(self, call_id: int, active: ActiveCall) -> None:
        """Cancelling goes to it now."""
        self.active = active

    def room(self) -> None:
        """Items are dropped."""


class NoSink:
    """For calls that nobody waits for."""

    def send(self, message: ToClient) -> None:
        """Drop it."""

    def taken(self, call_id: int, active: ActiveCall) -> None:
        """Nobody cancels it."""

    def room(self) -> None:
        """Items are dropped."""


class Kind(enum.Enum):
    """What a turn is for."""

    CALL = 1  # a caller's
    ACTIVATE = 2  # migration and `on_activate`
    DEACTIVATE = 3  # `on_deactivate`
    DELETE = 4  # an operator deletes all that the object stores

    @property
    def value_name(self) -> str:
        """For logs."""
        return self.name.lower()


class Stage(enum.IntEnum):
    """How far a call has come."""

    HELD = 1  # an earlier call of its stub is missing
    QUEUED = 2  # the object is busy
    READY = 3  # inside the object's gate, waiting for a worker
    RUNNING = 4
    DONE = 5


class Cancelled(enum.Enum):
    """Why a running call was told to stop."""

    DEADLINE = "deadline"
    CALLER = "caller"
    SHUTDOWN = "shutdown"
    RELOAD = "reload"
    HANDOFF = "handoff"
    RESET = "reset"


class ActiveCall(msgspec.Struct, eq=False):
    """A call that has arrived and has not ended, and the turn that it has open.

    A Struct, because one is made for each call: 0.3 us, where a class's `__init__` took 1.3.
    """

    call: Call
    sink: Sink
    activation: Activation
    method: MethodSpec | None
    deadline_ms: int
    arrived_ms: int
    size_bytes: int  # for admission
    kind: Kind = Kind.CALL
    shared: bool = False  # it overlaps with other readers
    interleaves: bool = False  # each of its stretches commits by itself
    credit: int = 0
    arrived: float = 0.0  # by the loop's clock
    record_key: bytes = b""  # where its record is filed; empty: it has none
    ready_ms: int = 0  # since when nothing but the machine keeps it from running
    stage: Stage = Stage.QUEUED
    inside: bool = False  # a step of its code is on the stack now
    entered: bool = False  # it holds a place in the object's input gate
    started_entry: bool = False  # an interleaving call has committed a stretch
    exclusive_depth: int = 0
    bucket: int = -1  # of the deadlines, while it is watched
    cancelled: Cancelled | None = None
    doomed: Exception | None = None  # why it fails when it ends: a stretch that could not be kept
    joined: list[tuple[Sink, int]] | None = None
    child_counts: dict[bytes, int] | None = None
    context: Context | None = None
    task: asyncio.Task[None] | None = None
    resume: asyncio.Future[None] | None = None
    waits_for: str | None = None
    credit_waiter: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """May it still have an effect?"""
        return self.stage is Stage.RUNNING and not self.activation.is_gone

    def __str__(self) -> str:
        call = self.call
        return f"{call.class_name}/{call.key}.{call.method}"


class Output(msgspec.Struct, eq=False):
    """A reply or item that waits in the output gate, or whoever waits to send a child call."""

    sink: Sink | None
    message: ToClient | None
    also: list[tuple[Sink, int]] | None = None
    waiter: asyncio.Future[None] | None = None
    since: float = 0.0  # when its call arrived, by the loop's clock; 0: not to be measured

    def refuse(self, status: int, info: ErrorInfo) -> None:
        """It will never leave: say so instead of it, where somebody waits for an answer."""
        message = self.message
        if isinstance(message, Reply):
            self.message = Reply(message.id, status, b"", 0, info)
            self.leave()
        elif isinstance(message, Outcome):
            self.message = Outcome(message.id, UNKNOWN, status=status, error=info)
            self.leave()
        elif self.waiter is not None and not self.waiter.done():
            self.waiter.cancel()

    def leave(self) -> None:
        """Let it go; called by the one function that releases (R6)."""
        message = self.message
        if message is not None and self.sink is not None:
            self.sink.send(message)
        if self.also is not None and isinstance(message, Reply):
            for sink, call_id in self.also:
                sink.send(
                    Reply(call_id, message.status, message.payload, message.epoch, message.error)
                )
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
