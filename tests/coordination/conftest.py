"""One etcd for all tests that do it no harm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordination.etcd_process import Etcd
from coordination.places import Memory, Place, RealEtcd


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    member = Etcd(tmp_path_factory.mktemp("etcd")).start()
    try:
        yield member
    finally:
        member.kill()


@pytest.fixture(params=["memory", "etcd"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        return Memory()
    return RealEtcd(request.getfixturevalue("etcd"))
