"""Calls and replies as plain values.

Adapters translate them from and to protobuf at the door (`proto/roost/v1/objects.proto` says what
each field means, who sets it, and what zero stands for); everything behind the door, the embedded
node and the simulator use these. They hold no references in circles, so the garbage collector need not
look at them (`gc=False`).
"""

from __future__ import annotations

import enum

import msgspec

WIRE_VERSION = 1
FRAME_BYTES_MAX = 4 * 1024 * 1024
KEY_BYTES_MAX = 1024
ARGUMENTS_BYTES_MAX = 2 * 1024 * 1024
TURN_BYTES_MAX = 2 * 1024 * 1024  # what one turn writes, and its result
CHAIN_LENGTH_MAX = 32


class Status(enum.IntEnum):
    """How a call ended; the numbers are those of `types.proto`."""

    OK = 0
    UNKNOWN_CLASS = 1
    UNKNOWN_METHOD = 2
    INVALID_ARGUMENT = 3
    TOO_LARGE = 4
    DEADLOCK = 5
    UNAUTHENTICATED = 6
    PERMISSION_DENIED = 7
    EXPIRED_REQUEST = 8
    OBJECT_ERROR = 16
    APPLICATION_ERROR = 17
    READ_ONLY = 18
    STATE_MISMATCH = 19
    UNAVAILABLE = 32
    OVERLOADED = 33
    DISK_FULL = 34
    NOT_OWNER = 35
    OUTCOME_UNKNOWN = 48
    DEADLINE_EXCEEDED = 49
    CORRUPTION = 64


MSGPACK = 0
JSON = 1

NO_EFFECT = 0
MAYBE_EFFECT = 1
TOOK_EFFECT = 2


class Link(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call of a chain, oldest first in lists."""

    class_name: str
    key: str
    method: str
    request_id: bytes

    def __str__(self) -> str:
        return f"{self.class_name}/{self.key}.{self.method}"


class ErrorInfo(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """Why a call did not succeed."""

    message: str = ""
    took_effect: int = NO_EFFECT
    type: str = ""
    data: bytes = b""
    traceback: str = ""
    retry_after_s: float = 0.0
    chain: tuple[Link, ...] = ()
    final: bool = (
        False  # the same request gets this answer for good, though its status is retryable
    )


class Call(msgspec.Struct, gc=False):
    """One attempt at a call. `id` names the attempt on its session."""

    id: int
    class_name: str
    key: str
    method: str
    arguments: bytes
    request_id: bytes
    encoding: int = MSGPACK
    deadline_ms: int = 0
    stub_id: int = 0
    sequence: int = 0
    oldest: int = 0
    epoch: int = 0
    chain: tuple[Link, ...] = ()
    principal: str = ""
    credit: int = 0


class Cancel(msgspec.Struct, gc=False):
    """Take a call back."""

    id: int


class Skip(msgspec.Struct, gc=False):
    """This sequence of the stub was given up: later calls need not wait for it."""

    class_name: str
    key: str
    stub_id: int
    sequence: int


class Credit(msgspec.Struct, gc=False):
    """Room for `items` more items of the stream of call `id`."""

    id: int
    items: int


class Query(msgspec.Struct, gc=False):
    """What became of a request?"""

    id: int
    class_name: str
    key: str
    request_id: bytes


class Reply(msgspec.Struct, gc=False):
    """How call `id` ended; also the end of its stream."""

    id: int
    status: int = 0
    payload: bytes = b""
    epoch: int = 0
    error: ErrorInfo | None = None


class Item(msgspec.Struct, gc=False):
    """One item of the stream of call `id`."""

    id: int
    payload: bytes


class Moved(msgspec.Struct, gc=False):
    """News, not failure: who owns a shard now. For those who send to owners; others do not read it."""

    shard: int
    epoch: int
    owner: str
    address: str


UNKNOWN = 0
RUNNING = 1
COMMITTED = 2
EXPIRED = 3


class Outcome(msgspec.Struct, gc=False):
    """The answer to a `Query`; `state` is one of UNKNOWN, RUNNING, COMMITTED, EXPIRED."""

    id: int
    state: int
    payload: bytes = b""
    encoding: int = MSGPACK
    status: int = 0
    error: ErrorInfo | None = None
    epoch: int = 0


ToServer = Call | Cancel | Skip | Credit | Query
ToClient = Reply | Item | Outcome
