"""The cluster as operators' questions and orders need it; a node that is alone is one, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from roost import __version__
from roost.cluster.ids import HASH_NAME, ShardId
from roost.errors import InvalidArgumentError, RoostError, UnavailableError
from roost_node.core.overview import alone
from roost_node.core.record import (
    NO_SESSION,
    Applied,
    ClusterConfig,
    Event,
    Leader,
    Map,
    SessionInfo,
    StoreId,
    Transaction,
)
from roost_node.node import Node
from roost_node.ownership.coordinator import CoordinatorDownError


class ClusterView(Protocol):
    """What operators' questions need of the coordination store; a `Coordinator` is one."""

    async def read(self) -> Map:
        """Everything, as of now."""

    async def leader(self) -> Leader | None:
        """Who runs the controller."""

    async def drain(self, store: StoreId, wanted: bool) -> None:
        """Order a store to be emptied, or no longer."""

    async def pin(self, shard: ShardId, store: StoreId | None) -> None:
        """Order a store to own a shard, or no longer."""

    async def apply(self, wanted: Transaction) -> Applied:
        """Change records."""

    async def raise_generation(self, event: Event) -> ClusterConfig:
        """Begin the event's generation."""

    async def raise_format_level(self, level: int) -> ClusterConfig:
        """Let everybody write this format."""

    async def events(self) -> list[Event]:
        """What was done that cannot be undone."""


def told(error: RoostError) -> RoostError:
    """The error as whoever asked is to see it."""
    if isinstance(error, CoordinatorDownError):
        return UnavailableError(f"etcd does not answer; objects go on ({error.message})")
    return error


class Alone(ClusterView):
    """The view of a node that is in no cluster."""

    def __init__(self, node: Node, address: Callable[[], str]) -> None:
        self._node = node
        self._address = address

    async def read(self) -> Map:
        """One node, and everything is its own."""
        store = self._node.store
        me = SessionInfo(StoreId(store.store_id), NO_SESSION, self._address(), build=__version__)
        return alone(store.cluster_id, store.shards, store.seed, HASH_NAME, me)

    async def leader(self) -> Leader | None:
        """Nobody has to."""
        return None

    async def drain(self, store: StoreId, wanted: bool) -> None:
        """Refused."""
        raise InvalidArgumentError(_ALONE)

    async def pin(self, shard: ShardId, store: StoreId | None) -> None:
        """Refused."""
        raise InvalidArgumentError(_ALONE)

    async def apply(self, wanted: Transaction) -> Applied:
        """Refused."""
        raise InvalidArgumentError(_ALONE)

    async def raise_generation(self, event: Event) -> ClusterConfig:
        """Refused."""
        raise InvalidArgumentError(_ALONE)

    async def raise_format_level(self, level: int) -> ClusterConfig:
        """Refused."""
        raise InvalidArgumentError(_ALONE)

    async def events(self) -> list[Event]:
        """There are none."""
        return []


_ALONE = "this node is in no cluster: there is nothing to order"
