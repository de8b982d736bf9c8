"""What node and router, as gRPC servers, do alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from roost.errors import RoostError
from roost.wire.messages import FRAME_BYTES_MAX, ErrorInfo, Status
from roost.wire.status import to_status

T = TypeVar("T")

HELLO_S = 10.0
BATCH_BYTES = FRAME_BYTES_MAX // 4
STATUS_HEADER = "roost-status"
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX),
    ("grpc.max_send_message_length", 2 * FRAME_BYTES_MAX),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),  # nodes ask each other every second
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.ping_timeout_ms", 15_000),
    ("grpc.max_concurrent_streams", 4_096),
)

CODES = {
    Status.UNKNOWN_CLASS: grpc.StatusCode.NOT_FOUND,
    Status.UNKNOWN_METHOD: grpc.StatusCode.UNIMPLEMENTED,
    Status.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Status.TOO_LARGE: grpc.StatusCode.OUT_OF_RANGE,
    Status.DEADLOCK: grpc.StatusCode.FAILED_PRECONDITION,
    Status.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Status.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Status.EXPIRED_REQUEST: grpc.StatusCode.FAILED_PRECONDITION,
    Status.OBJECT_ERROR: grpc.StatusCode.ABORTED,
    Status.APPLICATION_ERROR: grpc.StatusCode.ABORTED,
    Status.READ_ONLY: grpc.StatusCode.ABORTED,
    Status.STATE_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Status.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Status.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Status.DISK_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Status.NOT_OWNER: grpc.StatusCode.UNAVAILABLE,
    Status.OUTCOME_UNKNOWN: grpc.StatusCode.UNKNOWN,
    Status.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Status.CORRUPTION: grpc.StatusCode.DATA_LOSS,
}


def is_loopback(host: str) -> bool:
    """Can nobody outside of this machine reach it?"""
    return host in ("localhost", "::1", "[::1]") or host.startswith("127.")


def check_host(host: str, *, insecure: bool) -> None:
    """Refuse to listen where strangers are."""
    if not insecure and not is_loopback(host):
        raise RoostError(
            f"{host} can be reached by others, and there is no authentication yet: listen on "
            f"127.0.0.1, or say --insecure if the network is yours alone"
        )


def listen(server: grpc.aio.Server, host: str, port: int) -> int:
    """Add the port. Raises RoostError when the address cannot be had."""
    try:
        return server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:  # it says no more than that
        raise RoostError(
            f"cannot listen on {host}:{port}: is another server running there, or is the address "
            f"not one of this machine?"
        ) from None


def metadata_of(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    """What the caller sent beside its messages, as far as it is text."""
    pairs = context.invocation_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


async def answer(context: grpc.aio.ServicerContext[Any, Any], work: Awaitable[T]) -> T:
    """What `work` gives; where it raises an error of ours, the unary call ends with that."""
    try:
        return await work
    except RoostError as error:
        await abort(context, error)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: RoostError) -> NoReturn:
    """End a unary call with an error."""
    status, info = to_status(error)
    await abort_status(context, status, info)


async def abort_status(
    context: grpc.aio.ServicerContext[Any, Any], status: int, info: ErrorInfo
) -> NoReturn:
    """End a unary call with a status and its text."""
    code = CODES.get(Status(status), grpc.StatusCode.UNKNOWN)
    metadata = ((STATUS_HEADER, str(int(status))),)
    await context.abort(code, info.message[:2000], trailing_metadata=metadata)


def serve_metrics(host: str, port: int, collector: Any) -> tuple[int, Callable[[], None]]:
    """Serve /metrics in a thread; the port, and what ends it."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(collector)
    server, thread = start_http_server(port, addr=host, registry=registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, stop
