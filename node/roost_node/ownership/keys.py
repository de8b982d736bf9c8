"""Where things are in etcd, and how they are written.

The keys are those of `core/record.py`, below a prefix for the cluster. A session in a key is written as
etcd's own tools print a lease, 16 hexadecimal digits, so that an operator can paste it:
`etcdctl lease timetolive 694d7b8a7e1f2c03`. Values are JSON; fields are only ever added.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from roost.cluster.ids import ShardId
from roost.errors import CorruptionError
from roost_node.core.record import SessionId, StoreId
from roost_node.ownership.coordinator import Changed

V = TypeVar("V", bound=msgspec.Struct)


class Keys:
    """The keys of one cluster."""

    def __init__(self, prefix: str) -> None:
        self._base = prefix.rstrip("/").encode() + b"/"
        self.everything = _range(self._base)
        self.config = self._base + b"config"
        self.controller = self._base + b"controller"
        self.sessions = _range(self._base + b"sessions/")
        self.deaths = _range(self._base + b"deaths/")
        self.shards = _range(self._base + b"shards/")
        self.wishes = _range(self._base + b"wishes/")
        self.drains = _range(self._base + b"drains/")
        self.pins = _range(self._base + b"pins/")
        self.events = _range(self._base + b"events/")

    def session(self, store: StoreId) -> bytes:
        """A store's session."""
        return self.sessions[0] + store.encode()

    def death(self, session: SessionId) -> bytes:
        """A session's death."""
        return self.deaths[0] + b"%016x" % session

    def shard(self, shard: ShardId) -> bytes:
        """A shard's record."""
        return self.shards[0] + b"%d" % shard

    def wish(self, shard: ShardId) -> bytes:
        """Where the plan wants a shard."""
        return self.wishes[0] + b"%d" % shard

    def drain(self, store: StoreId) -> bytes:
        """An operator's order to empty a store."""
        return self.drains[0] + store.encode()

    def pin(self, shard: ShardId) -> bytes:
        """An operator's order to let a store own a shard."""
        return self.pins[0] + b"%d" % shard

    def event(self, event: str) -> bytes:
        """What an operator did."""
        return self.events[0] + event.encode()

    @staticmethod
    def shard_of(key: bytes) -> ShardId:
        """The shard whose record, wish or pin is at this key."""
        return ShardId(int(key.rpartition(b"/")[2]))

    def changed(self, revision: int, keys: list[bytes]) -> Changed:
        """What it means that these have changed; keys that are none of ours mean nothing."""
        names = {
            kind: [key.removeprefix(start).decode() for key in keys if key.startswith(start)]
            for kind, (start, _) in (
                ("shards", self.shards),
                ("sessions", self.sessions),
                ("deaths", self.deaths),
                ("wishes", self.wishes),
                ("drains", self.drains),
                ("pins", self.pins),
            )
        }
        return Changed(
            revision,
            tuple(ShardId(int(name)) for name in names["shards"]),
            tuple(StoreId(name) for name in names["sessions"] + names["drains"]),
            tuple(SessionId(int(name, 16)) for name in names["deaths"]),
            tuple(ShardId(int(name)) for name in names["wishes"] + names["pins"]),
            self.config in keys,
            self.controller in keys,
        )


def encode(value: msgspec.Struct) -> bytes:
    """As it is stored."""
    return msgspec.json.encode(value)


def decode(key: bytes, value: bytes, kind: type[V]) -> V:
    """What is stored at a key."""
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError as error:
        raise CorruptionError(
            f"the coordination store holds at {key.decode()} what is no {kind.__name__}: {error};"
            " look who else writes there"
        ) from error


def _range(start: bytes) -> tuple[bytes, bytes]:
    """All keys that begin so: [start, end). No prefix of ours ends in the highest byte."""
    return start, start[:-1] + bytes([start[-1] + 1])
