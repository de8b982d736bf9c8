"""`roost router`: flags, environment and a TOML file in, a running router out."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import click

from roost.adapters import logs
from roost.adapters.settings import settings
from roost_router.config import Limits, RouterConfig
from roost_router.program import run


def register(group: click.Group) -> None:
    """Add this package's command to `roost`."""
    group.add_command(router)


@click.command(short_help="Serve clients between them and the nodes.")
@settings(Limits, RouterConfig, hidden=frozenset({"limits"}))
def router(**values: Any) -> None:
    """Forward calls to the nodes that own their objects.

    A router keeps nothing: start as many as you like, and stop any of them at any time.
    """
    names = {one.name for one in dataclasses.fields(Limits)}
    limits = {name: value for name, value in values.items() if name in names}
    rest = {name: value for name, value in values.items() if name not in names}
    try:
        config = RouterConfig(limits=Limits(**limits), **rest)
        config.addresses()
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    logs.configure(config.log_format, config.log_level)
    sys.exit(run(config))


if __name__ == "__main__":
    program = click.Group("roost-router")
    register(program)
    program()
