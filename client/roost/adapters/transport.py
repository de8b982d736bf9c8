"""What a client needs of whatever carries its messages: a gRPC channel, or a node in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from roost.wire.messages import ToClient, ToServer


@dataclass(frozen=True, slots=True)
class Opened:
    """The server's hello."""

    server_time_ms: int
    cluster_id: str
    build: str = ""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """A line of the catalog. Times are ms since 1970."""

    class_name: str
    key: str
    created_ms: int
    changed_ms: int
    size_bytes: int
    version: int
    owner: str
    live: bool
    position: bytes = b""  # in lists: a page token that goes on after it

    @property
    def created_at(self) -> float:
        """Seconds since 1970."""
        return self.created_ms / 1000

    @property
    def changed_at(self) -> float:
        """Seconds since 1970."""
        return self.changed_ms / 1000


class ObjectPage(NamedTuple):
    """A part of the catalog."""

    objects: list[ObjectInfo]
    next_token: bytes  # of the next page; empty: that was the end
    unlisted: Sequence[int]  # shards whose objects are not here: nobody who was asked owns them


@dataclass(frozen=True, slots=True)
class ObjectDetail:
    """One object, as it is stored: `fields_json` is a JSON object."""

    info: ObjectInfo
    fields_json: str
    storage_rows: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself."""

    store_id: str
    cluster_id: str
    build: str
    server_time_ms: int
    started_ms: int
    classes: tuple[str, ...]
    activations: int
    calls_running: int
    calls_queued: int
    shards: int


class Receiver(Protocol):
    """The client, as its transport sees it; everything is called on the event loop."""

    def on_messages(self, messages: list[ToClient]) -> None:
        """Answers."""

    def on_going_away(self) -> None:
        """The server drains: it answers what it has and takes no more."""

    def on_lost(self, reason: str) -> None:
        """The link broke; everything unfinished is to be sent again over the next."""


class Transport(Protocol):
    """A link to one server at a time."""

    async def open(self, receiver: Receiver) -> Opened:
        """Connect. Raises UnavailableError; may be called again after `on_lost`."""

    def send(self, messages: list[ToServer]) -> None:
        """Queue messages; never blocks."""

    async def close(self) -> None:
        """Disconnect."""

    async def list_objects(
        self, class_name: str, prefix: str, limit: int, page_token: bytes
    ) -> ObjectPage:
        """A page of the catalog."""

    async def show_object(self, class_name: str, key: str) -> ObjectDetail | None:
        """One object; None: nothing of it is stored."""

    async def delete_object(self, class_name: str, key: str) -> bool:
        """Delete all that it stores; was there anything?"""

    async def status(self) -> NodeStatus:
        """What the server says of itself."""
