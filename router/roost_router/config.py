"""Every knob of a router: unit, default, range and reason.

Each is a flag (`--open-calls-max`), an environment variable (`ROOST_OPEN_CALLS_MAX`) and a key of the
TOML file, in that order of precedence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from roost.adapters.addresses import setting
from roost.adapters.settings import check_ranges, knob


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds everything that grows in a router."""

    open_calls_max: int = knob(50_000, "calls that have no final answer yet", "calls", 1, 10**7)
    open_bytes_max: int = knob(256 * 2**20, "bytes of these calls", "bytes", 2**20, 2**40)
    session_calls_max: int = knob(
        8_192,
        "unfinished calls of one client; more have to wait, and are refused where none ends",
        "calls",
        1,
        10**6,
    )
    session_bytes_max: int = knob(
        4 * 2**20,
        "answers that one client has not taken; then it is not read",
        "bytes",
        2**16,
        2**32,
    )
    session_unread_max: int = knob(
        64 * 2**20,
        "answers that one client has not taken; then it is hung up on, and may ask again",
        "bytes",
        2**16,
        2**36,
    )
    unread_bytes_max: int = knob(
        512 * 2**20,
        "answers that all clients have not taken; then the one that holds most is hung up on",
        "bytes",
        2**20,
        2**40,
    )
    sessions_max: int = knob(10_000, "open sessions of clients", "sessions", 1, 10**6)
    grace_s: float = knob(10.0, "how long open calls may go on at a shutdown", "s", 0, 3_600)
    keepalive_s: float = knob(
        1.5, "a node that has not answered a ping for so long is connected to anew", "s", 0.1, 600
    )

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """How one router process runs."""

    nodes: str = knob(
        "localhost:7400", "host:port of nodes, by commas; any of them tells the others"
    )
    host: str = knob("127.0.0.1", "address to listen on; others than loopback need --insecure")
    port: int = knob(7500, "port of the gRPC server; 0: any free one", "", 0, 65_535)
    metrics_port: int = knob(
        -1, "port of /metrics on the same address; -1: none, 0: any", "", -1, 65_535
    )
    insecure: bool = knob(False, "allow an address that others can reach, without authentication")
    log_format: str = knob("console", "console or json")
    log_level: str = knob("info", "debug, info, warning or error")
    limits: Limits = field(default_factory=Limits)

    def addresses(self) -> tuple[str, ...]:
        """The nodes to begin with. Raises ValueError when there is none, or one that is no host:port."""
        found = tuple(word.strip() for word in self.nodes.split(",") if word.strip())
        if not found:
            raise ValueError("nodes is empty: give at least one host:port")
        return setting("nodes", found)
