"""Which container engine is here, and why there is none."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess


@functools.cache
def missing() -> str:
    """Why no test can run here; empty: they can."""
    if not shutil.which("docker"):
        return "`docker` is not installed"
    asked = _run("docker", "version", "--format", "{{.Server.Version}}")
    if asked.returncode != 0:
        return f"no engine answers: {asked.stderr.strip()}"
    if not compose_command():
        return "neither `docker compose` nor `docker-compose` is installed"
    if os.geteuid() != 0 or not (shutil.which("nsenter") and shutil.which("iptables")):
        return "links are cut with nsenter and iptables, as root"
    return ""


def is_required() -> bool:
    """CI makes an engine of its own (`.ci/run`): there it is a failure that none is here."""
    return "ROOST_CI" in os.environ


@functools.cache
def compose_command() -> tuple[str, ...]:
    """Version 2 where it is, else version 1."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]) and _run(*command, "version").returncode == 0:
            return command
    return ()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
