"""Processes on one loop: each may be frozen or killed between any two of its steps.

What runs in the context of a process belongs to it: its tasks, its timers, what arrives for it. A
killed one never gets another step, so no `finally` runs: that is `kill -9`. A frozen one keeps what
falls due, and does it when it is thawed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import heapq
import inspect
import logging
import random
import sys
import types
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from simulator.loop import SimulatedLoop

T = TypeVar("T")

_current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current() -> Process | None:
    """Whose step this is."""
    return _current.get()


class Process:
    """One run of a program."""

    def __init__(self, name: str, loop: MachineLoop) -> None:
        self.name = name
        self.is_dead = False
        self.is_frozen = False
        self.slept_ms = 0  # CLOCK_BOOTTIME less CLOCK_MONOTONIC
        self.drift = 1.0  # of its clocks
        self.context = contextvars.copy_context()
        self.context.run(_current.set, self)
        self._loop = loop
        self._held: list[asyncio.Handle] = []
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        loop.processes.append(self)

    def boot_ms(self) -> int:
        """Its machine's CLOCK_BOOTTIME: goes on while it sleeps, and does not jump."""
        return int(self._loop.time() * 1000 * self.drift)

    def start(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin."""
        return self._loop.create_task(main, context=self.context)

    def hold(self, handle: asyncio.Handle) -> None:
        self._held.append(handle)

    def freeze(self) -> None:
        self.is_frozen = True

    def thaw(self) -> None:
        if self.is_frozen:
            self.is_frozen = False
            held, self._held = self._held, []
            self._loop.put_back(held)

    def kill(self) -> None:
        """It ends here."""
        self.is_dead = True
        self.is_frozen = False
        self._held.clear()
        self._loop.buried.extend(self._tasks)

    def own(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)


class MachineLoop(SimulatedLoop):
    """Runs the steps of all processes, in an order that depends on nothing but time and arrival."""

    _ready: deque[Any]  # asyncio's own: what falls due
    _scheduled: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []
        self.buried: list[
            asyncio.Task[Any]
        ] = []  # of killed ones: kept, so that nothing of them runs
        self.after_step: Callable[[Process], None] = lambda _: None
        self.steps = 0
        self.set_task_factory(_make_task)

    def put_back(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extend(handles)

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise RuntimeError("every task waits for something that will never happen")
            self._clock.now = max(self._clock.now, scheduled[0]._when)
        now = self._clock.now
        while scheduled and scheduled[0]._when <= now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(_current)
            if process is None:
                handle._run()
            elif process.is_frozen:
                process.hold(handle)
            elif not process.is_dead:
                self.steps += 1
                handle._run()
                self.after_step(process)

    def bury(self) -> None:
        """The run is over: let go of everybody without letting them do anything more."""
        for process in self.processes:
            if not process.is_dead:
                process.kill()
        for task in (*self.buried, *asyncio.all_tasks(self)):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to be so
            coro = task.get_coro()
            assert isinstance(coro, types.CoroutineType), "tasks are made of coroutines"
            while inspect.getcoroutinestate(coro) != inspect.CORO_CLOSED:
                with contextlib.suppress(BaseException):  # it may await again in a `finally`
                    coro.close()
        self.buried.clear()
        self.processes.clear()
        self._ready.clear()
        self._scheduled.clear()

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        if self.is_running():
            super()._asyncgen_finalizer_hook(agen)  # type: ignore[misc]  # private in asyncio


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Any, context: contextvars.Context | None = None
) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, context=context)
    process = _current.get() if context is None else context.get(_current)
    if process is not None:
        process.own(task)
    return task


def simulate_machines(main: Callable[[MachineLoop], Coroutine[Any, Any, T]]) -> T:
    """Run to the end, in no time; `main` itself belongs to no process."""
    loop = MachineLoop()
    gc.disable()  # when it finds something is chance, and asyncio acts on what it finds
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main(loop))
    finally:
        with _silence():
            loop.bury()
            gc.collect()
        gc.enable()
        asyncio.set_event_loop(None)
        loop.close()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What is torn apart in the middle complains in many ways."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = hook
        logging.disable(logging.NOTSET)


def seeded(seed: int, name: str) -> random.Random:
    """A source of chance for one purpose, so that purposes do not disturb each other."""
    return random.Random(f"{seed}/{name}")
