"""How a node's settings become who it is to etcd."""

from __future__ import annotations

from pathlib import Path

import pytest

from roost_node.config import NodeConfig
from roost_node.ownership.etcd_settings import PASSWORD, etcd_options


def config(**more: str) -> NodeConfig:
    return NodeConfig(etcd="a:2379,https://b:2379", cluster="shop", **more)  # type: ignore[arg-type]


def test_endpoints_and_prefix_come_from_the_settings() -> None:
    found = etcd_options(config(), {})
    assert found.endpoints == ("a:2379", "https://b:2379")
    assert found.prefix == "/roost/shop"
    assert found.is_secure


def test_the_password_is_in_a_file_or_in_the_environment_and_the_file_wins(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from the file \n")
    environ = {PASSWORD: "from outside"}
    assert etcd_options(config(etcd_user="roost"), environ).password == "from outside"
    both = etcd_options(config(etcd_user="roost", etcd_password_file=str(file)), environ)
    assert both.password == "from the file ", "only the end of the line is not part of it"
    assert "from" not in repr(both)
    assert etcd_options(config(), environ).password == "", "nobody's"


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("x")
    with pytest.raises(ValueError, match="no password"):
        etcd_options(config(etcd_user="roost"), {})
    with pytest.raises(ValueError, match="no etcd_user"):
        etcd_options(config(etcd_password_file=str(there)), {})
    with pytest.raises(ValueError, match=r"etcd_ca is .*missing, which cannot be read"):
        etcd_options(config(etcd_ca=str(tmp_path / "missing")), {})
    with pytest.raises(ValueError, match="needs its key"):
        etcd_options(config(etcd_cert=str(there)), {})
