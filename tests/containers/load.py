"""The callers of the crash test, in a thread of their own, while tests do things to containers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from types import TracebackType

import roost
from crash.clients import Clients

TIMEOUT_S = 240.0  # of a call: faults are to show as pauses, not as errors
CONNECT_S = 60.0
MOVE_ON_S = 240.0
PAUSE_S = 0.05


class Load:
    """`with Load(addresses) as load`: any error of any caller is raised by `move_on` and at the end."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._started: concurrent.futures.Future[Clients] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    def __enter__(self) -> Load:
        self._thread.start()
        self._clients = self._started.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._clients.stop = True
        self._thread.join()
        if error is None:
            self._ended.result()

    def move_on(self) -> None:
        """Until every caller was answered a call that it began after this one."""
        moved = asyncio.run_coroutine_threadsafe(self._clients.move_on(), self._loop)
        waiting: set[concurrent.futures.Future[None]] = {moved, self._ended}
        concurrent.futures.wait(waiting, MOVE_ON_S, concurrent.futures.FIRST_COMPLETED)
        if self._ended.done():
            self._ended.result()
        assert moved.done(), f"a caller was not answered for {MOVE_ON_S} s"

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await self._play()
        except BaseException as error:
            for future in (self._started, self._ended):
                if not future.done():
                    future.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _play(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            turned = [
                self._addresses[n:] + self._addresses[:n] for n in range(len(self._addresses))
            ]
            clusters = [
                await stack.enter_async_context(
                    roost.connect(*addresses, timeout=TIMEOUT_S, connect_timeout=CONNECT_S)
                )
                for addresses in turned
            ]
            clients = Clients(clusters, seed=1, pause_s=PAUSE_S)
            async with asyncio.TaskGroup() as tasks:
                clients.start(tasks)
                self._started.set_result(clients)
            await clients.check()
