"""What the health service of a node in a cluster says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster.processes import Processes, running_cluster

WAIT_S = 150


def said(processes: Processes, node: str) -> Iterator[str]:
    """Every state from now on, by its name; an error when none comes for long."""
    states = health_pb2.HealthCheckResponse.ServingStatus
    with grpc.insecure_channel(processes.address(node)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for reply in stub.Watch(  # type: ignore[attr-defined]  # its types have no methods
            health_pb2.HealthCheckRequest(), timeout=WAIT_S, wait_for_ready=True
        ):
            yield states.Name(reply.status)


def test_a_node_serves_while_it_has_a_session(tmp_path: Path) -> None:
    with running_cluster(tmp_path, "a") as processes:
        states = said(processes, "a")
        while next(states) != "SERVING":
            pass
        _, *leases = processes.etcd.ctl("lease", "list").stdout.split("\n")
        for lease in filter(None, leases):
            processes.etcd.ctl("lease", "revoke", lease)
        assert next(states) == "NOT_SERVING"
        assert next(states) == "SERVING"
