"""The line between a node's process and its supervisor: a socket pair that the child inherits.

The node says how it is, one JSON object a line, each time whole; the supervisor says nothing. That the line
ends says something too: to the supervisor nothing that `waitpid` will not tell it, to the node that nobody
looks after it any more. Then it stops as if it was told to, because whoever started the supervisor will
start another, and a store has one node.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

import msgspec

from roost_node.core.record import SessionId, StoreId
from roost_node.core.supervision import NodeState

READ_BYTES = 65_536


class NodeEnd:
    """The node's end. `fd` is the inherited socket."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(
            fd, False
        )  # or whatever the objects' code starts would keep the line open
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._state = NodeState()

    def listen(self, loop: asyncio.AbstractEventLoop, on_alone: Callable[[], None]) -> None:
        """Say once when the supervisor is gone."""

        def readable() -> None:
            with contextlib.suppress(OSError):
                if self._socket.recv(READ_BYTES):
                    return
            loop.remove_reader(self._socket)
            on_alone()

        loop.add_reader(self._socket, readable)

    def on_session(self, store: StoreId, session: SessionId) -> None:
        """Registered: from here on the death of this process concerns others."""
        self._tell(msgspec.structs.replace(self._state, store=store, session=session))

    def on_serving(self) -> None:
        """Calls are taken."""
        self._tell(msgspec.structs.replace(self._state, is_serving=True))

    def _tell(self, state: NodeState) -> None:
        self._state = state
        with contextlib.suppress(OSError):  # gone, or frozen since hundreds of sessions
            self._socket.send(msgspec.json.encode(state) + b"\n")


class SupervisorEnd:
    """The supervisor's end, one for each process that it starts."""

    def __init__(self, on_told: Callable[[NodeState], None]) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._on_told = on_told
        self._rest = b""

    def fileno(self) -> int:
        """To be watched for `hear`."""
        return self._ours.fileno()

    def hear(self) -> bool:
        """Take what was said. False: the node's end is closed."""
        while True:
            try:
                data = self._ours.recv(READ_BYTES)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._on_told(msgspec.json.decode(line, type=NodeState))

    def close(self) -> None:
        """Hang up."""
        self._ours.close()
        self.theirs.close()
