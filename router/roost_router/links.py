"""One multiplexed stream to each node that the map names; and the ear for news of the map.

All messages handed over while a stream is busy go out together with its next frame. A link that
breaks is made again for as long as the map names its address: straight, or by way of another node where the
straight way is silent (`core/ways.py`). One that goes by way of another looks for the straight way now and
then, and takes it when no stream would break.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from roost import __version__
from roost.adapters.channel import (
    RELAY_METHOD,
    RELAY_TO,
    SECRET,
    SESSION_METHOD,
    SILENT,
    pings,
    ready,
)
from roost.adapters.direct import Identity
from roost.adapters.map_news import moved_from_pb, records_from_pb, shape_from_pb
from roost.cluster.shard_map import Shape, ShardRecord
from roost.errors import RoostError
from roost.v1 import forward_pb2, objects_pb2, shard_map_pb2, shard_map_pb2_grpc
from roost.wire.messages import WIRE_VERSION
from roost_router.core.calls import Link
from roost_router.core.clock import ServerTime
from roost_router.core.forward import Forwarder
from roost_router.core.ways import Way, Ways
from roost_router.frames import client_frames, closed_error

log = logging.getLogger(__name__)

CONNECT_S = 5.0
REFUSED_S = 0.05  # a machine that lives refuses sooner
PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 1.0
PAUSE_WATCH_S_MAX = 0.5
PING_S = 1.0
LOOK_S = 2.0  # between looks for the straight way, and for somebody better to listen to
SEED_EVERY = 4
SILENT_S = 3.0  # without a map, before that is said: nodes may just be starting
COMMITTED = objects_pb2.OutcomeReply.COMMITTED

_random = random.SystemRandom()
Raw = grpc.aio.StreamStreamCall[bytes, bytes]


def options(keepalive_s: float) -> list[tuple[str, int | str]]:
    """Of a channel that notices a frozen node in `PING_S` and `keepalive_s`."""
    return [
        *SILENT,
        *pings(PING_S, keepalive_s),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


class _Broken(Exception):  # noqa: N818  # it never leaves this module
    """The stream ended; what is said is why."""


class LinkRunner:
    """Keeps the stream to one address: connects, reads, writes, connects again."""

    def __init__(
        self,
        address: str,
        core: Forwarder,
        clock: ServerTime,
        monotonic_s: Callable[[], float],
        others: Callable[[], Sequence[str]],
        who: Identity | None,
        *,
        keepalive_s: float,
        trusted: bool,
    ) -> None:
        """`others`: addresses of nodes by whose way it may go. `who`: the node whose link it is."""
        self._secret = ((SECRET, who.secret.hex()),) if who is not None and who.secret else ()
        self._core = core
        self._others = others
        self._ways = Ways()
        self._clock = clock
        self._monotonic_s = monotonic_s
        self._trusted = trusted
        self._options = options(keepalive_s)
        self._more = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self.link = Link(address, self._more.set)

    async def run(self) -> None:
        """For as long as the map names the address."""
        pause_s = PAUSE_S_MIN
        while True:
            started_s = self._monotonic_s()
            try:
                await self._connected(self._ways.next(self._others()))
            except (grpc.aio.AioRpcError, TimeoutError, OSError, DecodeError, _Broken) as error:
                why = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
                took_s = self._monotonic_s() - started_s
                if self.link.is_open:
                    log.warning("link lost", extra={"node": self.link.address, "why": why})
                else:
                    self._ways.on_failed(silent=took_s > REFUSED_S)
            finally:
                self._core.on_link_lost(self.link)
                self.room.set()
            if self._monotonic_s() - started_s > 5 * PAUSE_S_MAX:
                pause_s = PAUSE_S_MIN
            await asyncio.sleep(pause_s * (0.5 + _random.random()))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _connected(self, way: Way) -> None:
        address = self.link.address
        async with grpc.aio.insecure_channel(way.via or address, options=self._options) as channel:
            async with asyncio.timeout(way.patience_s) as connecting:
                await ready(channel)
                # What comes now is not a quick look any more, and may take what a busy node takes.
                connecting.reschedule(asyncio.get_running_loop().time() + CONNECT_S)
                method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                    RELAY_METHOD if way.via else SESSION_METHOD
                )
                relay = ((RELAY_TO, address),) if way.via else ()
                stream = method(metadata=(*relay, *self._secret))
                hello = objects_pb2.Hello(
                    client=f"roost-router/{__version__}", wire_version=WIRE_VERSION
                )
                await stream.write(objects_pb2.ClientFrame(hello=hello).SerializeToString())
                raw = await stream.read()
                if not isinstance(raw, bytes):
                    raise _Broken(await stream.details())
            welcome = objects_pb2.ServerFrame.FromString(raw).welcome
            self._clock.on_hello(welcome.server_time_ms, int(self._monotonic_s() * 1000))
            said = {"node": address, "build": welcome.build}
            if way.via:
                log.warning("link open over another node", extra=said | {"via": way.via})
            else:
                log.info("link open", extra=said)
            self._more.clear()
            self._ways.on_open()
            self.link.via = way.via
            self._core.on_link_open(self.link)
            create_task = asyncio.get_running_loop().create_task
            ends = {create_task(self._read(stream))}
            if way.via:
                ends.add(create_task(self._look()))
            writer = create_task(self._write(stream))
            try:
                done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for end in done:
                    end.result()  # raises why
            finally:
                self.link.via = ""
                for task in (writer, *ends):
                    task.cancel()
                await asyncio.gather(writer, *ends, return_exceptions=True)

    async def _look(self) -> NoReturn:
        """Give a detour up when the straight way is there again.

        What is unfinished is sent again then, which its request id makes safe; a stream of which items
        have arrived would break, so it is waited for.
        """
        link = self.link
        while True:
            await asyncio.sleep(LOOK_S * (0.5 + _random.random()))
            if any(call.got_items for call in link.attempts.values()):
                continue
            channel = grpc.aio.insecure_channel(link.address, options=self._options)
            try:
                async with channel, asyncio.timeout(CONNECT_S):
                    await ready(channel)
            except (TimeoutError, OSError):
                continue
            raise _Broken("the straight way is open again")

    async def _read(self, stream: Raw) -> NoReturn:
        while True:
            raw = await stream.read()
            if not isinstance(raw, bytes):
                raise _Broken(await stream.details() or "the node hung up")
            self._take(raw)

    def _take(self, raw: bytes) -> None:
        core, link = self._core, self.link
        frame = objects_pb2.ServerFrame.FromString(raw)
        closed = forward_pb2.ClosedServerFrame.FromString(raw)
        if frame.moved:
            core.on_news(moved_from_pb(moved) for moved in frame.moved)
        if frame.going_away:
            log.info("node drains", extra={"node": link.address})
            core.on_link_leaving(link)
        for item, body in zip(frame.items, closed.items, strict=True):
            core.on_item(link, item.id, body)
        now_ms = self._clock.now_ms(int(self._monotonic_s() * 1000))
        for reply, body in zip(frame.replies, closed.replies, strict=True):
            status = reply.status
            is_final = bool(status) and reply.error.final
            if status and not self._trusted:
                body = closed_error(reply)
            core.on_reply(link, reply.id, status, reply.epoch, body, now_ms, is_final=is_final)
        for outcome, body in zip(frame.outcomes, closed.outcomes, strict=True):
            if outcome.status and not self._trusted:
                body = closed_error(outcome)
            is_known = outcome.state == COMMITTED
            core.on_outcome(link, outcome.id, outcome.status, is_known, body, now_ms)

    async def _write(self, stream: Raw) -> None:
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                messages = self.link.take()
                self.room.set()
                for raw in client_frames(messages):
                    await stream.write(raw)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            stream.cancel()  # the reader sees the end and says so


class MapWatch:
    """Listens to a node for who owns what; to the next one when it falls silent.

    Two of them run, on different nodes where there are two: a node that freezes, or that etcd does not reach,
    says nothing of it. A seed may be another name of a node that is listened to already, so nodes that the
    map names, and that there are links to, come before seeds, and a seed is left for one as soon as there is one.
    """

    def __init__(
        self,
        seeds: tuple[str, ...],
        linked: Callable[[], list[str]],
        on_shape: Callable[[Shape], None],
        on_news: Callable[[list[ShardRecord]], None],
        *,
        keepalive_s: float,
    ) -> None:
        self._seeds = seeds
        self._linked = linked  # addresses of nodes that the map names and that are reached
        self._on_shape = on_shape
        self._on_news = on_news
        self._options = options(keepalive_s)
        self._listened_to: list[str] = []
        self._silent_s: float | None = None  # since when nobody has told a map
        self._is_told = False

    async def run(self, first: int) -> None:
        """For good. `first`: with which of the addresses to begin."""
        pause_s = PAUSE_S_MIN
        at = first
        while True:
            address = self._next(at)
            at += 1
            self._listened_to.append(address)
            try:
                async with contextlib.aclosing(self._watch(address)) as updates:
                    while (update := await self._news(updates, address)) is not None:
                        if update.HasField("shape"):
                            self._on_shape(shape_from_pb(update.shape))
                            self._silent_s, self._is_told = None, False
                            log.info("map", extra={"node": address, "shards": len(update.shards)})
                            pause_s = PAUSE_S_MIN
                        self._on_news(records_from_pb(update.shards, address))
            except (grpc.aio.AioRpcError, TimeoutError, OSError) as error:
                why = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
                log.debug("no news", extra={"node": address, "why": why})
            except RoostError as error:
                log.error("a node's map is not for this router: %s", error, extra={"node": address})  # noqa: TRY400  # no trace: it is a wrong setting
            finally:
                self._listened_to.remove(address)
            self._tell_silence()
            await asyncio.sleep(pause_s * (0.5 + _random.random()))
            pause_s = min(2 * pause_s, PAUSE_WATCH_S_MAX)

    def _tell_silence(self) -> None:
        """Once, until a node has told a map again."""
        now_s = asyncio.get_running_loop().time()
        if self._silent_s is None or self._linked():
            self._silent_s = now_s
        elif not self._is_told and now_s - self._silent_s > SILENT_S:
            self._is_told = True
            log.warning("no node answers yet", extra={"nodes": ",".join(self._seeds)})

    def _next(self, at: int) -> str:
        """Whom to listen to now; seeds now and then, should all that are linked say nothing."""
        free = self._free()
        if not free or at % SEED_EVERY == SEED_EVERY - 1:
            free = [a for a in self._seeds if a not in self._listened_to] or list(self._seeds)
        return free[at % len(free)]

    def _free(self) -> list[str]:
        return [a for a in self._linked() if a not in self._listened_to]

    async def _news(
        self, updates: AsyncIterator[shard_map_pb2.MapUpdate], address: str
    ) -> shard_map_pb2.MapUpdate | None:
        """The next update; None: there is no more, or somebody better to listen to."""

        async def arrival() -> shard_map_pb2.MapUpdate | None:
            return await anext(updates, None)

        coming = asyncio.get_running_loop().create_task(arrival())
        try:
            while not coming.done():
                await asyncio.wait([coming], timeout=LOOK_S)
                if not coming.done() and address not in self._linked() and self._free():
                    return None
            return coming.result()
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _watch(self, address: str) -> AsyncGenerator[shard_map_pb2.MapUpdate, None]:
        async with grpc.aio.insecure_channel(address, options=self._options) as channel:
            async with asyncio.timeout(CONNECT_S):
                await ready(channel)
            stub = shard_map_pb2_grpc.MapStub(channel)
            async for update in stub.Watch(shard_map_pb2.WatchRequest()):
                yield update
