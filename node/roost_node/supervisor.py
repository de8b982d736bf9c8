"""The supervisor of a node: the small parent that starts it, sees it die, says so, and starts it again.

It decides by `core/supervision.py`, and holds a connection to etcd ready for the one thing that it has to
say: that a session's process is dead, which spares the others the wait for the lease and for their
promises (P6). It imports nothing of the node itself, so it is small, and does nothing that could kill it.

The node's process is in a process group of its own: Ctrl-C of a terminal is for the supervisor, which
passes it on once. As process 1 of a container it also reaps what the node's children leave behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence

from roost.errors import RoostError
from roost_node.core.record import DeathRecord
from roost_node.core.supervision import (
    Effect,
    Kill,
    Leave,
    Start,
    Supervision,
    Terminate,
    WriteDeath,
)
from roost_node.ownership.coordinator import (
    Coordinator,
    CoordinatorDownError,
    CoordinatorRefusedError,
    UnansweredError,
)
from roost_node.supervisor_line import SupervisorEnd

log = logging.getLogger(__name__)

EXIT_NOT_STARTED = 71
WRITE_S_MAX = 10.0
"""Longer than any lease or promise that the record of a death could cut short."""

RETRY_S = 0.1
CALL_EVERY_S = 30.0
"""How often etcd is asked something, so that the connection stands when it is needed."""

Command = Callable[[int], list[str]]


class Supervisor:
    """`command(fd)`: the node's command line, with its end of the line. `coordinator`: of a cluster."""

    def __init__(self, command: Command, coordinator: Coordinator | None) -> None:
        self._command = command
        self._coordinator = coordinator
        self._core = Supervision(_now_ms())
        self._tasks = asyncio.TaskGroup()
        self._woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pid = 0
        self._line: SupervisorEnd | None = None
        self._status: int | None = None

    async def run(self) -> int:
        """Until the node has ended for good; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_stop)
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        async with self._tasks as tasks:
            ready = tasks.create_task(self._keep_ready())
            while self._status is None:
                self._woken.clear()
                self._do(self._core.on_tick(_now_ms()))
                due_ms = self._core.wake_ms
                wait_s = None if due_ms is None else max(0, due_ms - _now_ms()) / 1000
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._woken.wait()
            ready.cancel()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.remove_signal_handler(number)  # nobody is kept waiting for etcd
        if self._coordinator is not None:
            await self._coordinator.close()
        return self._status

    # -- events ----------------------------------------------------------------------------

    def _on_stop(self) -> None:
        self._do(self._core.on_stop())
        self._woken.set()

    def _reap(self) -> None:
        """Wait for whoever has ended: the node, and as process 1 its children's children."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._on_ended(os.waitstatus_to_exitcode(status))

    def _on_ended(self, status: int) -> None:
        if self._line is not None:
            self._line.hear()  # its last words
            self._hang_up()
        self._pid = 0
        self._do(self._core.on_ended(status, _now_ms()))
        self._woken.set()
        again_ms = self._core.wake_ms
        if again_ms is not None:
            again_s = max(0, again_ms - _now_ms()) / 1000
            log.error("node ended", extra={"how": _how(status), "again_in_s": round(again_s, 1)})
        elif self._status:
            log.error("node ended", extra={"how": _how(status)})

    def _hear(self) -> None:
        if self._line is not None and not self._line.hear():
            self._loop.remove_reader(self._line)  # `_reap` comes to know why

    # -- effects ---------------------------------------------------------------------------

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Start):
                self._start()
            elif isinstance(effect, Terminate):
                os.kill(self._pid, signal.SIGTERM)
            elif isinstance(effect, Kill):
                log.warning("told to stop again: the node is killed")
                os.kill(self._pid, signal.SIGKILL)
            elif isinstance(effect, WriteDeath):
                self._tasks.create_task(self._write(effect.death))
            elif isinstance(effect, Leave):
                self._status = effect.status

    def _start(self) -> None:
        line = self._line = SupervisorEnd(self._core.on_told)
        line.theirs.set_inheritable(True)
        command = self._command(line.theirs.fileno())
        try:
            # Nothing of this process is copied, as a fork would: it has threads of gRPC's.
            self._pid = os.posix_spawn(command[0], command, os.environ, setpgroup=0)
        except OSError as error:
            log.error("node not started", extra={"error": str(error)})  # noqa: TRY400  # as it will be again
            self._on_ended(EXIT_NOT_STARTED)
            return
        line.theirs.close()
        self._loop.add_reader(line, self._hear)
        log.info("node started", extra={"pid": self._pid})

    def _hang_up(self) -> None:
        assert self._line is not None
        self._loop.remove_reader(self._line)
        self._line.close()
        self._line = None

    # -- etcd ------------------------------------------------------------------------------

    async def _write(self, death: DeathRecord) -> None:
        if self._coordinator is None:
            return
        fields: dict[str, object] = {"store": death.store, "session": f"{death.session:016x}"}
        end_s = self._loop.time() + WRITE_S_MAX
        while True:
            try:
                await self._coordinator.write_death(death)  # true for good: it may be repeated
            except (CoordinatorDownError, UnansweredError) as error:
                if self._loop.time() > end_s:
                    log.warning("death not written", extra={**fields, "error": error.message})
                    return
                await asyncio.sleep(RETRY_S)
            except CoordinatorRefusedError as error:
                log.warning("death not written", extra={**fields, "error": error.message})
                return
            else:
                log.info("death written", extra=fields)
                return

    async def _keep_ready(self) -> None:
        """A connection that stands, and a token that is good: at the time there is none for either."""
        while self._coordinator is not None:
            with contextlib.suppress(
                RoostError
            ):  # also rubbish at that key: the node itself says so
                await self._coordinator.leader()
            await asyncio.sleep(CALL_EVERY_S)


def command_of(arguments: Sequence[str], before: Sequence[str], fd: int) -> list[str]:
    """This program's own command line once more, as the supervised one."""
    at = list(arguments).index("node") + 1
    own = ["--supervisor-fd", str(fd)]
    return [sys.executable, *before, *arguments[:at], *own, *arguments[at:]]


def _how(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
