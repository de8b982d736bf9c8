"""`roost dev` and `roost node`: flags, environment and a TOML file in, a running node out."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click

from roost.adapters import logs
from roost.adapters.settings import settings as settings_of
from roost.errors import RoostError
from roost_node.config import Limits, NodeConfig
from roost_node.host.loader import Application, LoadError
from roost_node.ownership.etcd_settings import etcd_options
from roost_node.program import run
from roost_node.storage.rocks import verify
from roost_node.up import up

HIDDEN = frozenset({"limits", "check_effects", "data"})


def register(group: click.Group) -> None:
    """Add this package's commands to `roost`."""
    group.add_command(dev)
    group.add_command(node)
    group.add_command(up)


settings = settings_of(Limits, NodeConfig, hidden=HIDDEN)


def _config(data: Path, values: dict[str, Any], *, check_effects: bool) -> NodeConfig:
    names = {knob.name for knob in dataclasses.fields(Limits)}
    limits = {name: value for name, value in values.items() if name in names}
    rest = {name: value for name, value in values.items() if name not in names}
    try:
        config = NodeConfig(data=data, check_effects=check_effects, limits=Limits(**limits), **rest)
        if config.etcd:
            etcd_options(config, os.environ)  # a wrong one is wrong usage, before anything begins
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return config


def _run(config: NodeConfig, target: str, *, reload: bool) -> None:
    logs.configure(config.log_format, config.log_level)
    try:
        application = Application(target)
    except LoadError as error:
        raise click.UsageError(str(error)) from None
    sys.exit(run(config, application, reload=reload))


@click.command(short_help="Run objects from a file, and again whenever it changes.")
@click.argument("target", metavar="FILE|MODULE[:CLASS,...]")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("roost-data"),
    show_default=True,
    envvar="ROOST_DATA",
    help="Data directory [ROOST_DATA].",
)
@click.option(
    "--reload/--no-reload",
    default=True,
    show_default=True,
    envvar="ROOST_RELOAD",
    help="Run changed code at once [ROOST_RELOAD].",
)
@click.option(
    "--check-effects",
    is_flag=True,
    envvar="ROOST_CHECK_EFFECTS",
    help="Run each call that may write twice and compare [ROOST_CHECK_EFFECTS].",
)
@settings
def dev(target: str, data: Path, reload: bool, check_effects: bool, **values: Any) -> None:
    """Serve the durable objects of a file: one process, one directory, one port of the loopback.

    When the file (or a module beside it) changes, running calls finish and the new code goes on with
    the same state; code that cannot be loaded is reported, and the old code goes on.
    """
    _run(_config(data, values, check_effects=check_effects), target, reload=reload)


@click.command(short_help="Serve one store.")
@click.argument("target", metavar="FILE|MODULE[:CLASS,...]", required=False)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("roost-data"),
    show_default=True,
    envvar="ROOST_DATA",
    help="Data directory [ROOST_DATA].",
)
@click.option(
    "--verify", "only_verify", is_flag=True, help="Read everything in the store, and end."
)
@settings
def node(target: str | None, data: Path, only_verify: bool, **values: Any) -> None:
    """Serve the objects of one store, without reloading."""
    if only_verify:
        try:
            rows, size = verify(data)
        except RoostError as error:
            click.echo(f"{type(error).__name__}: {error}", err=True)
            raise SystemExit(1) from None
        click.echo(f"{data}: {rows} rows, {size} bytes, all readable")
        return
    if target is None:
        raise click.UsageError("give the file or module that defines the objects")
    _run(_config(data, values, check_effects=False), target, reload=False)


if __name__ == "__main__":
    program = click.Group("roost-node")
    register(program)
    program()
