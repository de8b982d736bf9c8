"""Where etcd is, and who we are to it, from a node's settings.

The password is no setting: it comes from a file or from `ROOST_ETCD_PASSWORD`, because flags are shown by
`ps`, and settings in error messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from roost.adapters.addresses import setting
from roost_node.config import NodeConfig
from roost_node.ownership.etcd_link import EtcdOptions

PASSWORD = "ROOST_ETCD_PASSWORD"


def etcd_options(config: NodeConfig, environ: Mapping[str, str]) -> EtcdOptions:
    """Raises ValueError where the settings do not fit each other, or a file cannot be read."""
    endpoints = tuple(word.strip() for word in config.etcd.split(","))
    setting(
        "etcd",
        (one.removeprefix("https://").removeprefix("http://").rstrip("/") for one in endpoints),
    )
    return EtcdOptions(
        endpoints,
        prefix=f"/roost/{config.cluster}",
        ca=_file("etcd_ca", config.etcd_ca),
        cert=_file("etcd_cert", config.etcd_cert),
        key=_file("etcd_key", config.etcd_key),
        user=config.etcd_user,
        password=_password(config, environ),
    )


def _password(config: NodeConfig, environ: Mapping[str, str]) -> str:
    path = _file("etcd_password_file", config.etcd_password_file)
    if not config.etcd_user:
        if path is not None:
            raise ValueError("etcd_password_file is given, but no etcd_user: whose is it?")
        return ""
    password = path.read_text().rstrip("\r\n") if path is not None else environ.get(PASSWORD, "")
    if not password:
        raise ValueError(
            f"etcd_user is {config.etcd_user}, and there is no password:"
            f" give --etcd-password-file, or {PASSWORD} in the environment"
        )
    return password


def _file(name: str, path: str) -> Path | None:
    """The file that a setting names, if it names one."""
    if not path:
        return None
    try:
        with Path(path).open("rb"):
            return Path(path)
    except OSError as error:
        raise ValueError(f"{name} is {path}, which cannot be read: {error.strerror}") from None
