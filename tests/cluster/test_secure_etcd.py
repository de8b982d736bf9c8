"""A node of an etcd that asks for certificates, users and passwords."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from cluster.processes import APP
from coordination.etcd_process import Etcd, program
from coordination.test_etcd_secure import PASSWORD, Certificates
from roost_node.local_cluster import free_port

UP_S = 60


def test_a_node_shows_its_certificate_and_password_and_tells_them_to_nobody(tmp_path: Path) -> None:
    ours = Certificates(tmp_path, "ours")
    flags = ["--client-cert-auth", "--trusted-ca-file", str(ours.ca)]
    etcd = Etcd(tmp_path, flags=flags, tls=ours.server).start()
    node: subprocess.Popen[bytes] | None = None
    cert, key = map(str, ours.client)
    try:
        for command in (
            ["user", "add", "root:rootpw"],
            ["user", "grant-role", "root", "root"],
            ["role", "add", "roost"],
            ["role", "grant-permission", "roost", "readwrite", "--prefix=true", "/roost/shop/"],
            ["user", "add", f"roost:{PASSWORD}"],
            ["user", "grant-role", "roost", "roost"],
            ["auth", "enable"],
        ):
            tls = ["--cacert", str(ours.ca), "--cert", cert, "--key", key]
            subprocess.run(
                [program("etcdctl"), "--endpoints", f"https://{etcd.endpoint}", *tls, *command],
                check=True,
                capture_output=True,
                timeout=30,
            )
        log = tmp_path / "node.log"
        command = [
            *(sys.executable, "-m", "roost_node", "node", str(APP)),
            *("--data", str(tmp_path / "data"), "--port", str(free_port()), "--shards", "4"),
            *("--replicas", "1", "--cluster", "shop", "--etcd", etcd.endpoint),
            *("--etcd-ca", str(ours.ca), "--etcd-cert", cert, "--log-level", "debug"),
        ]
        environ = {
            **os.environ,
            "ROOST_ETCD_USER": "roost",
            "ROOST_ETCD_KEY": key,
            "ROOST_ETCD_PASSWORD": PASSWORD,
        }
        with log.open("wb") as out:
            node = subprocess.Popen(command, env=environ, stdout=out, stderr=out)
        end = time.monotonic() + UP_S
        while log.read_text().count("serving shard") < 4:
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        assert PASSWORD not in log.read_text()
        assert PASSWORD.encode() not in Path(f"/proc/{node.pid}/cmdline").read_bytes()

        refused = subprocess.run(
            [*command, "--etcd-user", "roost"],
            env={name: value for name, value in environ.items() if name != "ROOST_ETCD_PASSWORD"},
            capture_output=True,
            text=True,
            check=False,
            timeout=UP_S,
        )
        assert refused.returncode == 2
        assert "there is no password" in refused.stderr
    finally:
        if node is not None:
            node.kill()
            node.wait()
        etcd.kill()
