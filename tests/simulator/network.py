"""Connections between processes: ordered bytes that may be late, stuck, or lost with the connection.

Like TCP: what is sent arrives in order or not at all. A cut (of one direction or both) loses nothing by
itself: what was sent waits and arrives when the cut is healed, unless either end has given up before.
Streams of different connections overtake each other.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from simulator.machines import MachineLoop, Process

WINDOW_BYTES = 64 * 1024  # sent and not read; then whoever writes has to wait
SERVER_PATIENCE_S = 45.0  # `roost.adapters.serving.OPTIONS`


class Listener(Protocol):
    """A program that takes connections."""

    process: Process


class Network:
    """Who can reach whom, and how fast."""

    def __init__(self, loop: MachineLoop, rng: random.Random) -> None:
        self.loop = loop
        self.rng = rng
        self.delay_s = 0.001
        self.slow = 1.0
        self.listeners: dict[str, Any] = {}
        self.cuts: dict[tuple[str, str], int] = {}
        self.connections: list[Connection] = []
        self.digest = 0  # of all that was ever sent
        self.frames = 0

    def latency_s(self) -> float:
        return (0.1 + self.rng.random()) * self.delay_s * self.slow

    def is_cut(self, source: str, target: str) -> bool:
        return bool(self.cuts.get((source, target)))

    def cut(self, source: str, target: str) -> None:
        """Nothing gets from here to there. Cuts add up; each is healed once."""
        self.cuts[source, target] = self.cuts.get((source, target), 0) + 1
        self.changed()

    def heal(self, source: str, target: str) -> None:
        self.cuts[source, target] = max(0, self.cuts.get((source, target), 0) - 1)
        self.changed()

    def heal_all(self) -> None:
        self.cuts.clear()
        self.changed()

    def changed(self) -> None:
        """Cuts, freezes: some connections are stuck now, others go on."""
        for connection in list(self.connections):
            connection.on_changed()

    def reset(self, process: Process, *, silently: bool) -> None:
        """That process has ended. `silently`: with its machine, so nobody is told."""
        for connection in list(self.connections):
            if process in (connection.client, connection.server):
                connection.on_end_dead(silently=silently)

    def note(self, source: str, target: str, data: bytes) -> None:
        """Everything that is sent goes into what two runs of one seed must agree on."""
        self.frames += 1
        self.digest = zlib.crc32(
            f"{self.loop.time():.9f}{source}>{target}".encode() + data, self.digest
        )


class Pipe:
    """One direction of one call."""

    def __init__(self, network: Network, source: Process, target: Process) -> None:
        self.network = network
        self._source = source
        self._target = target
        self._at = 0.0
        self._arrivals: deque[tuple[float, Any]] = deque()  # under way
        self._reader: asyncio.Future[None] | None = None
        self.queued: deque[bytes] = deque()  # arrived, not read
        self.ended: Any = None  # how, once the end has arrived
        self.unread_bytes = 0
        self.writers: list[Any] = []
        self.on_end: Callable[[], object] = lambda: None

    def send(self, data: Any) -> None:
        if isinstance(data, bytes) and self._source.is_dead:
            return  # it ended in the middle of this step
        network = self.network
        now = network.loop.time()
        self._at = max(self._at, now + network.latency_s())
        self._arrivals.append((self._at, data))
        if isinstance(data, bytes):
            self.unread_bytes += len(data)
            network.note(self._source.name, self._target.name, data)
        network.loop.call_at(self._at, self.pump, context=self._target.context)

    def pump(self) -> None:
        """Let what is due arrive."""
        if self._target.is_dead or self.network.is_cut(self._source.name, self._target.name):
            return
        now = self.network.loop.time()
        while self._arrivals and self._arrivals[0][0] <= now:
            _, data = self._arrivals.popleft()
            if self.ended is not None:
                continue
            if isinstance(data, bytes):
                self.queued.append(data)
            elif callable(data):
                data()  # the call itself
            else:
                self.ended = data
                self.wake_writers()
                self.on_end()
        if self.queued or self.ended is not None:
            self._wake_reader()

    def pump_soon(self) -> None:
        self.network.loop.call_soon(self.pump, context=self._target.context)

    async def arrival(self) -> None:
        """Wait until there is something to read, or the end."""
        self._reader = self.network.loop.create_future()
        await self._reader

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def end(self, how: Any) -> None:
        """The reader's own end of it is closed; what has arrived can still be read."""
        if self.ended is None:
            self.ended = how
            self._arrivals.clear()
            self.wake_writers()
            self._wake_reader()

    def take(self) -> bytes:
        """What arrived first; there is something."""
        data = self.queued.popleft()
        self.unread_bytes -= len(data)
        if not self.is_full:
            self.wake_writers()
        return data

    def wake_writers(self) -> None:
        writers, self.writers = self.writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)

    @property
    def is_full(self) -> bool:
        return self.unread_bytes >= WINDOW_BYTES


class Connection:
    """Between a client's channel and a server. `calls` are multiplexed on it."""

    def __init__(
        self, network: Network, client: Process, server: Process, patience_s: float
    ) -> None:
        self.network = network
        self.client = client
        self.server = server
        self.is_open = True
        self.calls: list[Call] = []
        self._patience_s = patience_s  # of the client: keepalive
        self._trouble = 0  # the number of the latest
        self._is_stuck = False
        self._is_silent = False  # a machine is gone, and nobody was told
        network.connections.append(self)

    def on_end_dead(self, *, silently: bool) -> None:
        """One of the two processes has ended."""
        self._is_silent = silently
        self.on_changed()

    def on_changed(self) -> None:
        """Whether anything gets through may be different now."""
        network, client, server = self.network, self.client, self.server
        to_server = not network.is_cut(client.name, server.name)
        to_client = not network.is_cut(server.name, client.name)
        if (client.is_dead and to_server) or (server.is_dead and to_client):
            if not self._is_silent:
                self.break_("connection reset by peer")
                return
            if client.is_dead and not self._is_stuck:
                self._is_stuck = True  # the server's pings find out
                wait_s = SERVER_PATIENCE_S
                network.loop.call_later(wait_s, self.break_, "ping timeout", context=server.context)
        stuck = not (to_server and to_client) or server.is_frozen or server.is_dead
        if stuck != self._is_stuck and not client.is_dead:
            self._is_stuck = stuck
            self._trouble += 1
            if stuck:
                wait_s = self._patience_s * (0.6 + 0.4 * network.rng.random())
                network.loop.call_later(
                    wait_s, self._lose_patience, self._trouble, context=client.context
                )
        for call in list(self.calls):
            call.pump_soon()

    def _lose_patience(self, trouble: int) -> None:
        if self._is_stuck and trouble == self._trouble:
            self.break_("keepalive watchdog timeout")

    def break_(self, why: str) -> None:
        """Both ends lose it: each hears of it as soon as anything can reach it."""
        if self.is_open:
            self.is_open = False
            self.network.connections.remove(self)
            for call in list(self.calls):
                call.break_(why)


class Call(Protocol):
    """One call on a connection."""

    def pump_soon(self) -> None:
        """Something may arrive now."""

    def break_(self, why: str) -> None:
        """The connection is gone."""
