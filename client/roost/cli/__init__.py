"""The `roost` command. What a client needs is here; the node adds its commands by entry point."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import click

from roost.cli.output import fail
from roost.errors import RoostError


def build() -> click.Group:
    """The command with all that is installed."""
    from roost import __version__
    from roost.cli import bench, calls, objects

    group = click.Group(
        "roost",
        help="Durable objects for Python, on machines you own.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    click.version_option(__version__, prog_name="roost")(group)
    for command in (calls.call, calls.status, objects.objects, bench.bench):
        group.add_command(command)
    for entry in entry_points(group="roost.commands"):
        entry.load()(group)
    return group


def main() -> None:
    """Entry point. Exit status: 0 well, 1 failed, 2 wrong usage."""
    try:
        build()(standalone_mode=True)
    except RoostError as error:
        fail(error)
        sys.exit(1)
