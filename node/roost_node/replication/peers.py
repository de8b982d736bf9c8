"""The streams between this node and the others: one to each, one from each.

Ours to another node we open, and speak on it as owner; another's to us it opens, and we answer as
follower. Messages keep their order within a stream; between streams there is none.

`Peers` never calls into the core while the core speaks to it: what goes wrong in `send` or `reply` is
told from a later turn of the loop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import NoReturn, Protocol

from roost_node.core.record import NO_SESSION, SessionId, StoreId
from roost_node.core.replication.messages import FromFollower, FromOwner
from roost_node.replication import translate
from roost_node.replication.link import Link, LinkEvents
from roost_node.replication.outbox import Outbox


class PeerEvents(LinkEvents, Protocol):
    """What the replicator hears."""

    def on_inbound(self, peer: StoreId, session: SessionId) -> int:
        """That node opened a stream to us; its number from now on. The older one is void."""

    def on_inbound_lost(self, peer: StoreId, stream: int) -> None:
        """It broke."""

    def on_from_owner(self, peer: StoreId, stream: int, message: FromOwner) -> None:
        """It said something."""


class Inbound:
    """Another node's stream to us."""

    __slots__ = ("ended", "number", "outbox", "peer")

    def __init__(self, peer: StoreId, number: int) -> None:
        self.peer = peer
        self.number = number
        self.outbox = Outbox()
        self.ended = asyncio.Event()

    def end(self) -> None:
        """Nothing is said or heard on it any more; who serves it hangs up."""
        self.outbox.close()
        self.ended.set()


class Peers:
    """All streams of one node. Its tasks live in `tasks`."""

    def __init__(
        self,
        me: StoreId,
        cluster_id: str,
        generation: int,
        events: PeerEvents,
        tasks: asyncio.TaskGroup,
        rng: random.Random,
    ) -> None:
        self.me = me
        self.cluster_id = cluster_id
        self.generation = generation  # raised when the node learns of a higher one (O7)
        self.session = NO_SESSION
        self._events = events
        self._tasks = tasks
        self._rng = rng
        self._links: dict[StoreId, Link] = {}
        self._inbound: dict[StoreId, Inbound] = {}
        self._ending: dict[
            StoreId, asyncio.Task[None]
        ] = {}  # the last link of each that was closed
        self._closed = False
        self._said: FromOwner | None = None
        self._framed = b""

    # -- ours --------------------------------------------------------------------------------

    def set_peers(self, session: SessionId, addresses: Mapping[StoreId, str]) -> None:
        """Keep one stream open to each of these, in the name of that session; close others.

        Another session closes all of them: nothing is carried over (O4).
        """
        wanted = {} if self._closed or session == NO_SESSION else dict(addresses)
        wanted.pop(self.me, None)
        for peer, link in list(self._links.items()):
            if session != self.session or wanted.get(peer) != link.address:
                self._close(peer)
        self.session = session
        for peer, address in wanted.items():
            if peer not in self._links:
                self._open(peer, address)

    def _open(self, peer: StoreId, address: str) -> None:
        session = self.session

        def hello() -> translate.Hello:
            version = translate.STREAM_VERSION
            return translate.Hello(
                self.me, session, self.cluster_id, self.generation, version, peer
            )

        link = Link(address, hello, self._events, self._rng, self._ending.pop(peer, None))
        link.task = self._tasks.create_task(link.run(), name=f"stream to {peer}")
        self._links[peer] = link

    def _close(self, peer: StoreId) -> None:
        task = self._links.pop(peer).task
        assert task is not None
        task.cancel()
        self._ending[peer] = task

    def send(self, peer: StoreId, message: FromOwner) -> None:
        """Say it on our stream to that node; nothing where it is not open."""
        link = self._links.get(peer)
        if link is not None:
            if message != self._said:  # most is said to all, one after another
                self._said, self._framed = message, translate.from_owner(message)
            link.send(self._framed)

    def pending_bytes(self, peer: StoreId) -> int:
        """How much was said to that node and has not left yet."""
        link = self._links.get(peer)
        return link.pending_bytes if link is not None else 0

    def knows_audits(self, peer: StoreId) -> bool:
        """May that node be asked to hash something? An older build would end the stream."""
        link = self._links.get(peer)
        return link is not None and link.audits

    async def close(self) -> None:
        """End all streams, and stay so."""
        self._closed = True
        self.set_peers(NO_SESSION, {})
        for inbound in list(self._inbound.values()):
            self.lose_inbound(inbound)
        if self._ending:
            await asyncio.wait(self._ending.values())
            self._ending.clear()

    # -- theirs ------------------------------------------------------------------------------

    def refusal(self, hello: translate.Hello) -> str:
        """Why that stream is not taken; empty: it is."""
        if hello.cluster_id != self.cluster_id:
            return f"this is cluster {self.cluster_id}, not {hello.cluster_id}"
        if hello.to_store != self.me:
            return f"this is store {self.me}, not {hello.to_store}"
        if hello.store == self.me:
            return f"store {self.me} is served here: a copy of its directory is no second node"
        if hello.generation < self.generation:
            return (
                f"the cluster's generation is {self.generation}, that of the caller {hello.generation}: "
                f"is its coordination store an old backup?"
            )
        if hello.version > translate.STREAM_VERSION:
            return (
                f"version {hello.version} of the streams is not known here, only "
                f"{translate.STREAM_VERSION}: update this node first"
            )
        return "this node is shutting down" if self._closed else ""

    def take_inbound(self, peer: StoreId, session: SessionId) -> Inbound:
        """A stream was opened to us."""
        older = self._inbound.get(peer)
        if older is not None:
            self.lose_inbound(older)
        inbound = Inbound(peer, self._events.on_inbound(peer, session))
        self._inbound[peer] = inbound
        return inbound

    def lose_inbound(self, inbound: Inbound) -> None:
        """It ended, or is to end."""
        if self._inbound.get(inbound.peer) is inbound:
            del self._inbound[inbound.peer]
            inbound.end()
            self._events.on_inbound_lost(inbound.peer, inbound.number)

    def hear(self, inbound: Inbound, raw: bytes) -> None:
        """A frame came. Raises ValueError where it is not one."""
        for message in translate.read_owner_frame(raw):
            if inbound.ended.is_set():
                return
            self._events.on_from_owner(inbound.peer, inbound.number, message)

    def reply(self, peer: StoreId, stream: int, message: FromFollower) -> None:
        """Say it on that node's stream to us; nothing where that stream is gone."""
        inbound = self._inbound.get(peer)
        if (
            inbound is not None
            and inbound.number == stream
            and not inbound.outbox.put(translate.from_follower(message))
        ):
            inbound.ended.set()  # who serves it loses it, in another turn

    def fail(self, error: Exception) -> None:
        """Something went wrong inside of an event: whoever owns the tasks is to know."""

        async def fail() -> NoReturn:
            raise error

        self._tasks.create_task(fail())
