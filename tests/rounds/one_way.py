"""Shows, inside `network.sealed`, that a cut is what it says. Run by `test_rounds.py`."""

from __future__ import annotations

import contextlib
import ctypes
import socket
from collections.abc import Iterator
from pathlib import Path

from rounds.network import Network

CLONE_NEWNET = 0x40000000
ARRIVES_S, NOTHING_S = 30.0, 0.5


@contextlib.contextmanager
def on(machine: str) -> Iterator[None]:
    """Sockets made meanwhile are that machine's."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        Path("/proc/self/ns/net").open() as home,
        Path(f"/run/netns/roost-{machine}").open() as there,
    ):
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()


def connected(network: Network, machine: str, to: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    with on(to):
        listener = socket.create_server((network.addresses[to], 0))
    with on(machine):
        near = socket.create_connection(listener.getsockname(), ARRIVES_S)
    far, _ = listener.accept()
    listener.close()
    return near, far


def arrives(sender: socket.socket, to: socket.socket, within_s: float) -> bool:
    sender.sendall(b"x")
    to.settimeout(within_s)
    try:
        return bool(to.recv(64))
    except TimeoutError:
        return False


def main() -> None:
    network = Network()
    for machine in ("a", "b", "c"):
        network.add(machine)
    with contextlib.ExitStack() as stack:
        a, b = map(stack.enter_context, connected(network, "a", "b"))
        from_a, c = map(stack.enter_context, connected(network, "a", "c"))
        assert arrives(a, b, ARRIVES_S)
        assert arrives(b, a, ARRIVES_S)
        network.cut("a", "b")
        assert not arrives(a, b, NOTHING_S)
        assert arrives(b, a, ARRIVES_S), "the other way is open"
        assert arrives(from_a, c, ARRIVES_S), "and so is the way to others"
        network.mend("a", "b")
        assert arrives(a, b, ARRIVES_S), "the connection outlived it"


if __name__ == "__main__":
    main()
