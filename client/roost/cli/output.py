"""What commands share: the address, JSON or tables, errors for people."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

import roost
from roost.adapters.settings import config_option
from roost.client import Cluster
from roost.errors import NotOwnerError, ObjectError, RoostError
from roost.wire.codec import encode_for_people

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_ADDRESS = "localhost:7400"


def moment(ms: int) -> str:
    """A time of ours, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def many(count: int, what: str, plural: str = "") -> str:
    """As in 1 shard, 2 shards."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def remote(function: F) -> F:
    """Options of every command that talks to a server."""
    for option in (
        config_option,
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        click.option(
            "--timeout",
            type=click.FloatRange(0, 86_400, min_open=True),
            envvar="ROOST_TIMEOUT",
            default=30.0,
            show_default=True,
            help="Until a call fails (seconds) [ROOST_TIMEOUT].",
        ),
        click.option(
            "--address",
            envvar="ROOST_ADDRESS",
            default=DEFAULT_ADDRESS,
            show_default=True,
            help="Server, or several with commas [ROOST_ADDRESS].",
        ),
    ):
        function = option(function)  # type: ignore[assignment]  # it stays what it was
    return function


def run(address: str, timeout: float, work: Callable[[Cluster], Coroutine[Any, Any, None]]) -> None:
    """Connect, do the work; a Roost error is shown and ends the command with status 1.

    A node of a cluster, instead of a router, says that another one owns the object: then straight to that one.
    """

    async def connected(*, direct: bool) -> None:
        servers = address.split(",")
        async with roost.connect(*servers, timeout=timeout, direct=direct) as cluster:
            await work(cluster)

    try:
        try:
            asyncio.run(connected(direct=False))
        except NotOwnerError:
            asyncio.run(connected(direct=True))
    except RoostError as error:
        fail(error)
        raise SystemExit(1) from None


def fail(error: RoostError) -> None:
    """Show an error on standard error."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    kind = error.type if isinstance(error, ObjectError) else type(error).__name__
    # One line in a pipe, whatever its length.
    console.print(printable(f"{kind}: {error}"), style="red", soft_wrap=True)
    if isinstance(error, ObjectError) and error.traceback:
        console.print(printable(error.traceback), style="dim", soft_wrap=True)


def printable(text: str) -> str:
    """What others wrote, without what would tell the terminal something: control characters are shown as escapes."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def print_json(value: Any) -> None:
    """One line of JSON."""
    click.echo(encode_for_people(value).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people; plain when the output is no terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
