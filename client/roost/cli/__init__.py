"""The `roost` command. What a client needs is here; the node adds its commands by entry point."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import click

from roost.cli.output import fail
from roost.errors import RoostError
from roost.local import load_server


class _Commands(click.Group):
    """The commands; where some could not be loaded, whoever asks for them is told why."""

    missing = ""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if not self.missing:
                raise
            raise click.UsageError(f"{error.message} But {self.missing}", ctx) from None


def build() -> click.Group:
    """The command with all that is installed."""
    from roost import __version__
    from roost.cli import bench, calls, cluster, objects, rescue

    group = _Commands(
        "roost",
        help="Durable objects for Python, on machines you own.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    click.version_option(__version__, prog_name="roost")(group)
    for command in (
        *(calls.call, objects.objects, bench.bench),
        *(cluster.status, cluster.shards, cluster.plan, cluster.explain),
        *(cluster.drain, cluster.move, rescue.cluster),
    ):
        group.add_command(command)
    for entry in entry_points(group="roost.commands"):
        try:
            load_server(entry)(group)
        except RoostError as error:
            group.missing = error.message
    return group


def main() -> None:
    """Entry point. Exit status: 0 well, 1 failed, 2 wrong usage."""
    try:
        build()(standalone_mode=True)
    except RoostError as error:
        fail(error)
        sys.exit(1)
