"""A way to etcd on which a test can hold what a client sends, and let it through later."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Proxy:
    """Forwards a port of its own. While `is_held`, what clients send is kept; answers pass."""

    def __init__(self, port: int) -> None:
        self.endpoint = ""
        self.is_held = False
        self.held_bytes = 0
        self._to = port
        self._held: list[tuple[asyncio.StreamWriter, bytes]] = []

    @property
    def held_count(self) -> int:
        """How many chunks are held."""
        return len(self._held)

    def release(self, count: int) -> None:
        """Let the first `count` held chunks through, and no more."""
        for writer, data in self._held[:count]:
            writer.write(data)
        del self._held[:count]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the client leaves or the test ends."""
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            async with asyncio.TaskGroup() as tasks:
                answers = tasks.create_task(_pump(there, writer))
                while data := await reader.read(65536):
                    if self.is_held:
                        self._held.append((back, data))
                        self.held_bytes += len(data)
                    else:
                        back.write(data)
                answers.cancel()
        finally:
            for end in (writer, back):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


@contextlib.asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """A proxy to a local port, while the context lasts."""
    proxy = Proxy(port)
    async with asyncio.TaskGroup() as connections:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.create_task(proxy.serve(reader, writer))

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        async with server:
            proxy.endpoint = f"localhost:{server.sockets[0].getsockname()[1]}"
            yield proxy
        # The connections end when their clients have left.
