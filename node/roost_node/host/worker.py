"""Stepping user code.

While user code runs, a real asyncio task must be current (`asyncio.timeout`, `TaskGroup` and HTTP
clients need one), yet a task for every call costs more than a small call itself. So calls run back
to back inside a few worker tasks: a worker sends into the call's coroutine, in a context of the call's
own, and most calls end right there. One that suspends keeps its worker; another worker goes on with
the rest. A worker whose call was cancelled is retired, because a task remembers having been cancelled.

Each suspension is the end of a stretch of an interleaving call: see `Turns.end_stretch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections import deque
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from roost_node.host.call import ActiveCall, Stage

if TYPE_CHECKING:
    from roost_node.host.host import Host

SLICE_S = 0.002  # after so much work in one go the loop gets a turn
CHECK_EVERY = 16
SPARE_WORKERS_MAX = 64


class Workers:
    """The tasks in which user code runs."""

    def __init__(self, host: Host, tasks: asyncio.TaskGroup) -> None:
        self._host = host
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._idle: list[asyncio.Future[None]] = []
        self._awake = 0  # workers that will look into `ready` without being woken
        self._closed = False
        self._context = copy_context()  # of no call: variables that users set never get into it
        self.ready: deque[ActiveCall] = deque()

    def start(self, active: ActiveCall) -> None:
        """Run a call that is inside its object's gate, soon."""
        active.stage = Stage.READY
        self.ready.append(active)
        if not self._awake:
            self._wake()

    def close(self) -> None:
        """Let idle workers end; busy ones end after their call."""
        self._closed = True
        for waiter in self._idle:
            if not waiter.done():
                waiter.set_result(None)
        self._idle.clear()

    def _wake(self) -> None:
        self._awake += 1
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                return
        work = self._work()
        try:
            self._tasks.create_task(work, context=self._context.copy())
        except RuntimeError:  # the task group is ending: so is everything here
            work.close()

    async def _work(self) -> None:
        turns = self._host.turns
        ready = self.ready
        time = self._loop.time
        clock = self._host.now_ms
        task = asyncio.current_task()
        assert task is not None
        while True:
            since = time()
            now_ms = clock()  # for up to CHECK_EVERY calls
            count = 0
            while ready:
                active = ready.popleft()
                coroutine = turns.begin(active, now_ms)
                if coroutine is None:
                    continue
                context = active.context
                assert context is not None
                active.inside = True
                try:
                    yielded = context.run(coroutine.send, None)
                except StopIteration as stop:
                    active.inside = False
                    turns.complete(active, stop.value, now_ms)
                except BaseException as error:  # user code may raise anything; it becomes a reply
                    active.inside = False
                    turns.fail(active, error)
                else:
                    active.inside = False
                    active.task = task
                    self._awake -= 1
                    try:
                        await self._drive(active, coroutine, yielded)
                    finally:
                        active.task = None
                    self._awake += 1
                    if task.cancelling():
                        self._retire()
                        return
                    since = time()
                    now_ms = clock()
                count += 1
                if count % CHECK_EVERY == 0:
                    if time() - since > SLICE_S:
                        try:
                            await asyncio.sleep(0)
                        except asyncio.CancelledError:  # meant for a call that has ended
                            self._retire()
                            raise
                        since = time()
                    now_ms = clock()
            self._awake -= 1
            if self._closed or len(self._idle) >= SPARE_WORKERS_MAX:
                return
            waiter = self._loop.create_future()
            self._idle.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled():  # it had just been woken: another must do the work
                    self._retire()
                raise
            if self._closed and not ready:
                return

    def _retire(self) -> None:
        self._awake -= 1
        if self.ready and not self._awake:
            self._wake()

    @types.coroutine
    def _drive(
        self, active: ActiveCall, coroutine: Coroutine[Any, None, Any], yielded: Any
    ) -> Generator[Any, None, None]:
        """Carry a suspended call on: what it yields goes to the task, what comes back goes to it."""
        turns = self._host.turns
        context = active.context
        assert context is not None
        while True:
            turns.on_suspended(active)
            if self.ready and not self._awake:
                self._wake()
            thrown: BaseException | None = None
            try:
                yield yielded
            except BaseException as error:  # cancellation, or what the future raised
                thrown = error
            while not turns.resume(active):
                waiter = active.resume
                assert waiter is not None
                try:
                    yield from waiter.__await__()
                except asyncio.CancelledError as error:
                    thrown = error  # it is told when it is inside again
            if active.stage is Stage.DONE:
                # Reset while it was suspended, after it had ignored its cancellation: it is not
                # asked again. What it does about GeneratorExit is of no consequence.
                with contextlib.suppress(BaseException):
                    context.run(coroutine.close)
                return
            active.inside = True
            try:
                yielded = (
                    context.run(coroutine.send, None)
                    if thrown is None
                    else context.run(coroutine.throw, thrown)
                )
            except StopIteration as stop:
                active.inside = False
                turns.complete(active, stop.value, self._host.now_ms())
                return
            except BaseException as error:
                active.inside = False
                turns.fail(active, error)
                return
            active.inside = False
