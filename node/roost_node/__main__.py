"""`roost dev` and `roost node`: flags, environment and a TOML file in, a running node out.

What a node is made of is imported only where one runs: `roost node` itself becomes its small supervisor.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from roost.adapters import logs
from roost.adapters.settings import settings as settings_of
from roost.errors import RoostError
from roost_node.config import Limits, NodeConfig
from roost_node.host.loader import Application, LoadError
from roost_node.ownership.etcd_settings import etcd_options
from roost_node.supervisor_line import NodeEnd
from roost_node.up import up

# Asked here, because a node's own parts are imported late: where only the client was installed, these
# commands are not there, and `roost` says what to install.
if importlib.util.find_spec("rocksdict") is None:
    raise ModuleNotFoundError("there is no RocksDB here", name="rocksdict")

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


def _application(target: str) -> Application:
    try:
        return Application(target)
    except LoadError as error:
        raise click.UsageError(str(error)) from None


def _run(
    config: NodeConfig, target: str, *, reload: bool, supervisor: NodeEnd | None = None
) -> NoReturn:
    from roost_node.program import run

    logs.configure(config.log_format, config.log_level)
    sys.exit(run(config, _application(target), reload=reload, supervisor=supervisor))


def _supervise(config: NodeConfig) -> NoReturn:
    from roost_node.ownership.etcd import EtcdCoordinator
    from roost_node.supervisor import Supervisor, command_of

    logs.configure(config.log_format, config.log_level)
    logging.getLogger("roost_node.ownership").setLevel(logging.ERROR)  # the node says the same

    async def supervise() -> int:
        options = etcd_options(config, os.environ) if config.etcd else None
        before = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
        command = partial(command_of, sys.argv[1:], before)
        return await Supervisor(command, EtcdCoordinator(options) if options else None).run()

    sys.exit(asyncio.run(supervise()))


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
@click.option(
    "--supervise/--no-supervise",
    default=True,
    show_default=True,
    envvar="ROOST_SUPERVISE",
    help="Be a small parent that starts the node again when it dies [ROOST_SUPERVISE].",
)
@click.option("--supervisor-fd", type=int, default=-1, hidden=True, help="Said by that parent.")
@settings
def node(
    target: str | None,
    data: Path,
    only_verify: bool,
    supervise: bool,
    supervisor_fd: int,
    **values: Any,
) -> None:
    """Serve the objects of one store, without reloading.

    This process is a small parent of the one that serves. When that dies, it is started again, and in a
    cluster others take over at once, because its death is proven.
    """
    if only_verify:
        from roost_node.storage.rocks import verify

        try:
            rows, size = verify(data)
        except RoostError as error:
            click.echo(f"{type(error).__name__}: {error}", err=True)
            raise SystemExit(1) from None
        click.echo(f"{data}: {rows} rows, {size} bytes, all readable")
        return
    if target is None:
        raise click.UsageError("give the file or module that defines the objects")
    config = _config(data, values, check_effects=False)
    if supervisor_fd >= 0:
        _run(config, target, reload=False, supervisor=NodeEnd(supervisor_fd))
    if not supervise:
        _run(config, target, reload=False)
    _application(target)  # a wrong one is wrong usage, before anything begins
    _supervise(config)


if __name__ == "__main__":
    program = click.Group("roost-node")
    register(program)
    program()
