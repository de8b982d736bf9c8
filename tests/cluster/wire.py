"""A way between two nodes that a test can cut: connections stay open, and nothing arrives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Wire:
    """Forwards a port of its own. What comes over a connection that was cut once is lost."""

    def __init__(self, port: int, delay_s: float = 0.0) -> None:
        self.address = ""
        self._to = port
        self._delay_s = delay_s
        self._cuts = 0
        self.sent_count = 0  # how often something came from the side that connects
        self.is_cut = False

    def cut(self) -> None:
        """Nothing passes any more, in either direction."""
        self.is_cut = True
        self._cuts += 1

    def mend(self) -> None:
        """New connections work again."""
        self.is_cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either end leaves."""
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        cuts = self._cuts

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    self.sent_count += source is reader
                    if self._delay_s:
                        await asyncio.sleep(self._delay_s)
                    if not self.is_cut and cuts == self._cuts:
                        sink.write(data)
            sink.close()

        try:
            await asyncio.gather(pump(reader, back), pump(there, writer))
        finally:
            for end in (writer, back):
                end.close()


@contextlib.asynccontextmanager
async def wire_to(port: int, delay_s: float = 0.0) -> AsyncIterator[Wire]:
    """A wire to a local port; its connections end with it."""
    wire = Wire(port, delay_s)
    async with asyncio.TaskGroup() as tasks:
        served: list[asyncio.Task[None]] = []

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(tasks.create_task(wire.serve(reader, writer)))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        wire.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield wire
        finally:
            server.close()
            for task in served:
                task.cancel()
