"""`roost health`: does a server serve? For probes of containers and service managers."""

from __future__ import annotations

import click
import grpc

from roost.cli.output import DEFAULT_ADDRESS, fail
from roost.errors import RoostError, UnavailableError
from roost.local import NO_SERVER


@click.command(short_help="Ask whether a server serves.")
@click.option(
    "--address",
    envvar="ROOST_ADDRESS",
    default=DEFAULT_ADDRESS,
    show_default=True,
    help="Server [ROOST_ADDRESS].",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=3.0,
    show_default=True,
    help="Until no answer is one (seconds).",
)
def health(address: str, timeout: float) -> None:
    """Print what the gRPC health service of a node or a router says; exit status 0: SERVING."""
    try:
        state = ask(address, timeout)
    except RoostError as error:
        fail(error)
        raise SystemExit(1) from None
    click.echo(state)
    raise SystemExit(0 if state == "SERVING" else 1)


def ask(address: str, timeout: float) -> str:
    """The name of the state. Raises UnavailableError when nobody answers in time."""
    try:
        from grpc_health.v1 import health_pb2, health_pb2_grpc
    except ModuleNotFoundError as error:
        raise RoostError(NO_SERVER) from error
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(  # type: ignore[attr-defined]  # its types have no methods
                health_pb2.HealthCheckRequest(), timeout=timeout, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise UnavailableError(f"{address} does not answer: {error.details()}") from None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
