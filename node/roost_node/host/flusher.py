"""Where flushes happen: in a thread, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

log = logging.getLogger(__name__)

Done = Callable[[BaseException | None], None]


class Flusher(Protocol):
    """Runs one flush at a time, beside the event loop."""

    def start(self, flush: Callable[[], None], done: Done) -> None:
        """Run `flush`; call `done` on the loop, with its error if it had one."""

    def close(self) -> None:
        """No more will be started."""


class ThreadFlusher:
    """A thread of its own, fed by a queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: SimpleQueue[tuple[Callable[[], None], Done] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="roost-fsync", daemon=True)
        self._thread.start()

    def start(self, flush: Callable[[], None], done: Done) -> None:
        """Hand a flush over."""
        self._queue.put((flush, done))

    def close(self) -> None:
        """End the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            flush, done = request
            failure: BaseException | None = None
            try:
                flush()
            except BaseException as error:  # the committer ends the process, whatever it was
                failure = error
            try:
                self._loop.call_soon_threadsafe(done, failure)
            except RuntimeError:
                log.warning("the event loop closed while a flush was under way")
                return
