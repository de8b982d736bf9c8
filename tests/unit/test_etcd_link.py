"""What an error of etcd's says about the request, and what may be configured."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from roost_node.ownership.etcd_api import Verdict, judge
from roost_node.ownership.etcd_link import EtcdOptions, _version

CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        (CODE.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", Verdict.REFUSED),
        (CODE.PERMISSION_DENIED, "etcdserver: permission denied", Verdict.REFUSED),
        (CODE.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", Verdict.FULL),
        (CODE.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Verdict.FULL),
        (CODE.UNAUTHENTICATED, "etcdserver: invalid auth token", Verdict.TOKEN),
        (CODE.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Verdict.TOKEN),
        (CODE.NOT_FOUND, "etcdserver: requested lease not found", Verdict.LEASE),
        # Sent, and then nobody knows:
        (CODE.UNAVAILABLE, "etcdserver: request timed out", Verdict.UNKNOWN),
        (CODE.UNAVAILABLE, "etcdserver: leader changed", Verdict.UNKNOWN),
        (CODE.UNAVAILABLE, "etcdserver: no leader", Verdict.UNKNOWN),
        (CODE.UNAVAILABLE, "Connection reset by peer", Verdict.UNKNOWN),
        (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded", Verdict.UNKNOWN),
        (CODE.CANCELLED, "etcdserver: request cancelled", Verdict.UNKNOWN),
        (CODE.INTERNAL, "etcdserver: anything", Verdict.UNKNOWN),
        # The same codes, but not in etcd's words: the library's, or a proxy's on the way back.
        (CODE.RESOURCE_EXHAUSTED, "Received message larger than max", Verdict.UNKNOWN),
        (CODE.PERMISSION_DENIED, "proxy: no", Verdict.UNKNOWN),
        (CODE.UNAUTHENTICATED, "", Verdict.UNKNOWN),
    ],
)
def test_only_what_etcd_itself_refuses_was_certainly_not_done(
    code: grpc.StatusCode, details: str, verdict: Verdict
) -> None:
    assert judge(code, details) is verdict


def test_a_password_is_in_no_repr() -> None:
    assert "hunter2" not in repr(EtcdOptions(("a:1",), user="u", password="hunter2"))


@pytest.mark.parametrize(
    ("given", "wants"),
    [
        ({"endpoints": ()}, "at least one"),
        ({"cert": Path("c")}, "needs its key"),
        ({"key": Path("k")}, "needs its key"),
        ({"endpoints": ("http://a:1",), "ca": Path("ca")}, "say https"),
        ({"endpoints": ("http://a:1", "https://b:1")}, "say https"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    given: dict[str, object], wants: str
) -> None:
    with pytest.raises(ValueError, match=wants):
        EtcdOptions(**{"endpoints": ("a:1",), **given})  # type: ignore[arg-type]


def test_versions_compare_by_number() -> None:
    assert _version("3.5.10") > _version("3.5.9") > _version("3.4.23")
    assert _version("3.6.0-rc.1") == (3, 6, 0)
