"""The `roost` command. What a client needs is here; the node adds its commands by entry point."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import click

from roost.adapters.addresses import checked
from roost.cli.output import fail
from roost.errors import InvalidArgumentError, RoostError
from roost.local import load_server


class _Commands(click.Group):
    """The commands. Those of servers are loaded when asked for: that takes longer than a probe may.

    Where they are not installed, whoever asks for them is told why.
    """

    _is_whole = False
    _missing = ""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            self._load()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._load()
        return super().list_commands(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if not self._missing:
                raise
            raise click.UsageError(f"{error.message} But {self._missing}", ctx) from None

    def _load(self) -> None:
        if self._is_whole:
            return
        self._is_whole = True
        for entry in entry_points(group="roost.commands"):
            try:
                load_server(entry)(self)
            except RoostError as error:
                self._missing = error.message


def build() -> click.Group:
    """The command with all that is installed."""
    from roost import __version__
    from roost.cli import bench, calls, cluster, health, objects, rescue, status

    group = _Commands(
        "roost",
        help="Durable objects for Python, on machines you own.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    click.version_option(__version__, prog_name="roost")(group)
    for command in (
        *(calls.call, objects.objects, bench.bench, health.health),
        *(status.status, cluster.shards, cluster.plan, cluster.explain),
        *(cluster.drain, cluster.move, rescue.cluster),
    ):
        group.add_command(command)
    _check_addresses(group)
    return group


class _Addresses(click.ParamType[str]):
    """One `host:port`, or several with commas: anything else is wrong usage, before anything begins."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return ",".join(checked(value.split(",")))
        except InvalidArgumentError as error:
            self.fail(error.message, param, ctx)


def _check_addresses(group: click.Group) -> None:
    """Of all commands that have an `--address`, whoever declares it."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            _check_addresses(command)
        for param in command.params:
            if param.name == "address":
                param.type = _Addresses()


def main() -> None:
    """Entry point. Exit status: 0 well, 1 failed, 2 wrong usage."""
    try:
        build()(standalone_mode=True)
    except RoostError as error:
        fail(error)
        sys.exit(1)
