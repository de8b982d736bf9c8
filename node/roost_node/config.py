"""Every knob of a node: unit, default, range and reason.

Each is a flag (`--open-calls-max`), an environment variable (`ROOST_OPEN_CALLS_MAX`) and a key of the
TOML file, in that order of precedence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from roost.adapters.addresses import setting
from roost.adapters.settings import check_ranges, knob
from roost.cluster.ids import SHARDS_DEFAULT, SHARDS_MAX


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds everything that grows in a node."""

    open_calls_max: int = knob(20_000, "calls that have arrived and not ended", "calls", 1, 10**7)
    open_bytes_max: int = knob(256 * 2**20, "arguments of open calls", "bytes", 2**20, 2**40)
    ready_wait_ms_max: int = knob(
        5_000, "age of the oldest call that could run and has not", "ms", 10, 600_000
    )
    activations_max: int = knob(1_000_000, "live objects", "objects", 1, 10**8)
    live_bytes_max: int = knob(4 * 2**30, "encoded size of all live objects", "bytes", 2**20, 2**44)
    memory_bytes_max: int = knob(
        0,
        "resident memory; above 90 % of it cold starts are refused; 0: no limit",
        "bytes",
        0,
        2**44,
    )
    object_bytes_max: int = knob(2**30, "fields and storage of one object", "bytes", 1024, 2**40)
    kept_bytes_max: int = knob(
        64 * 2**20,
        "records of finished calls that a shard keeps for ten minutes; beyond it calls that may write "
        "are refused",
        "bytes",
        2**10,
        2**40,
    )
    behind_bytes_max: int = knob(
        64 * 2**20,
        "entries that their shards' copies do not all have yet; beyond it these shards take no calls that may "
        "write",
        "bytes",
        2**20,
        2**40,
    )
    session_calls_max: int = knob(
        8_192,
        "unfinished calls of one session; more have to wait, and are refused where none ends",
        "calls",
        1,
        10**6,
    )
    session_bytes_max: int = knob(
        16 * 2**20,
        "answers that one session has not taken; then it is not read",
        "bytes",
        2**16,
        2**32,
    )
    sessions_max: int = knob(10_000, "open sessions", "sessions", 1, 10**6)
    grace_s: float = knob(5.0, "how long running calls may go on at a shutdown", "s", 0, 3_600)
    hook_s: float = knob(5.0, "how long on_deactivate may take", "s", 0.01, 3_600)
    cancel_s: float = knob(
        5.0, "how long a cancelled call may ignore it before its object is reset", "s", 0.01, 3_600
    )
    order_wait_ms: int = knob(
        1_000,
        "how long a call waits for an earlier one of its stub before all are asked again",
        "ms",
        10,
        60_000,
    )
    free_disk_percent_min: float = knob(
        5.0, "below this much free disk, calls that may write are refused", "%", 0, 100
    )
    audit_bytes_per_s: int = knob(
        2**20,
        "how fast the auditor reads, of a shard's state, here and at its followers; 0: neither ask nor answer",
        "bytes/s",
        0,
        2**40,
    )

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """How one node process runs."""

    data: Path = field(default=Path("data"), metadata={"why": "the store's directory"})
    host: str = knob("127.0.0.1", "address to listen on; others than loopback need --insecure")
    port: int = knob(7400, "port of the gRPC server; 0: any free one", "", 0, 65_535)
    advertise: str = knob(
        "", "host:port at which routers and clients reach this node; empty: as they found it"
    )
    etcd: str = knob(
        "", "host:port of etcd, several with commas: be a node of a cluster; empty: be alone"
    )
    etcd_ca: str = knob(
        "", "PEM file of the authority that signed etcd's certificates; with it TLS is used"
    )
    etcd_cert: str = knob("", "PEM file of this node's certificate, where etcd asks for one")
    etcd_key: str = knob("", "PEM file of that certificate's private key")
    etcd_user: str = knob("", "user name in etcd")
    etcd_password_file: str = knob(
        "", "file with that user's password; without it ROOST_ETCD_PASSWORD is the password"
    )
    cluster: str = knob("default", "the cluster's name: its keys in etcd are below /roost/NAME")
    zone: str = knob("", "what may fail together: copies of a shard go to different zones")
    weight: int = knob(100, "share of the shards, relative to other nodes", "", 1, 10_000)
    replicas: int = knob(
        3, "copies of each shard; the node that creates the cluster decides", "copies", 1, 7
    )
    shards: int = knob(
        SHARDS_DEFAULT,
        "of a cluster that is created: a power of two, never changed",
        "",
        1,
        SHARDS_MAX,
    )
    ballast_bytes: int = knob(
        16 * 2**20,
        "a file BALLAST that takes up room: delete it when the disk is full, to repair; 0: none",
        "bytes",
        0,
        2**40,
    )
    metrics_port: int = knob(
        -1, "port of /metrics on the same address; -1: none, 0: any", "", -1, 65_535
    )
    insecure: bool = knob(False, "allow an address that others can reach, without authentication")
    log_format: str = knob("console", "console or json")
    log_level: str = knob("info", "debug, info, warning or error")
    check_effects: bool = knob(
        False, "run each call that may write twice and compare (development)"
    )
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.shards & (self.shards - 1):
            raise ValueError(f"shards is {self.shards}: give a power of two")
        if self.advertise:
            setting("advertise", [self.advertise])
