"""etcd's methods, and what an error of theirs says about the request.

The messages are in `etcd_pb2` (proto/roost_node/ownership/etcd.proto).
"""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

import grpc
from google.protobuf.message import Message

from roost_node.ownership import etcd_pb2 as pb

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class Method(Generic[Q, R]):
    """One of etcd's methods. `is_stream`: a stream of which we use one request and one reply."""

    def __init__(
        self, name: str, request: type[Q], reply: type[R], is_stream: bool = False
    ) -> None:
        self.path = f"/etcdserverpb.{name}"
        self.request = request
        self.reply = reply
        self.is_stream = is_stream


RANGE = Method("KV/Range", pb.RangeRequest, pb.RangeResponse)
TXN = Method("KV/Txn", pb.TxnRequest, pb.TxnResponse)
GRANT = Method("Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
REVOKE = Method("Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
KEEP_ALIVE = Method(
    "Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse, is_stream=True
)
WATCH = Method("Watch/Watch", pb.WatchRequest, pb.WatchResponse, is_stream=True)
AUTHENTICATE = Method("Auth/Authenticate", pb.AuthenticateRequest, pb.AuthenticateResponse)
STATUS = Method("Maintenance/Status", pb.StatusRequest, pb.StatusResponse)


class Verdict(enum.Enum):
    """What an error says about the request."""

    UNKNOWN = "it may have been carried out, or be carried out yet"
    REFUSED = "etcd refused it, and always will"
    FULL = "etcd refused it until somebody makes room"
    TOKEN = "etcd refused it because our token is no longer good"  # not a secret
    LEASE = "etcd refused it because the lease is gone"


_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT: Verdict.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: Verdict.REFUSED,
    grpc.StatusCode.UNAUTHENTICATED: Verdict.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: Verdict.REFUSED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Verdict.FULL,
    grpc.StatusCode.NOT_FOUND: Verdict.REFUSED,
}
_TOKEN_WORDS = ("invalid auth token", "auth store is old", "user name is empty")


def judge(code: grpc.StatusCode, details: str) -> Verdict:
    """Only what etcd itself says counts: a proxy or the gRPC library may use the same codes."""
    if not details.startswith("etcdserver: "):
        return Verdict.UNKNOWN
    verdict = _REFUSALS.get(code, Verdict.UNKNOWN)
    if verdict is Verdict.REFUSED and any(words in details for words in _TOKEN_WORDS):
        return Verdict.TOKEN
    if code is grpc.StatusCode.NOT_FOUND and "lease not found" in details:
        return Verdict.LEASE
    return verdict
