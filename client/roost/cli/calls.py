"""`roost call`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from roost.cli.output import print_json, remote, run
from roost.client import Cluster
from roost.errors import InvalidArgumentError, UnknownMethodError


@click.command()
@click.argument("class_name", metavar="CLASS")
@click.argument("key")
@click.argument("method")
@click.option("--arg", "args", multiple=True, metavar="NAME=JSON", help="An argument; repeatable.")
@remote
def call(
    class_name: str,
    key: str,
    method: str,
    args: tuple[str, ...],
    address: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Call a method of an object: roost call Counter page-42 increment --arg by=2."""
    arguments = dict(map(parse_argument, args))

    async def work(cluster: Cluster) -> None:
        stub = cluster.object(class_name, key)
        if method.startswith("_"):  # such names are the stub's own
            raise UnknownMethodError(f"{class_name} has no remote method {method!r}")
        pending = getattr(stub, method)
        try:
            result = await pending(**arguments)
        except InvalidArgumentError as error:
            if "streams" not in str(error):
                raise
            async for item in pending(**arguments):
                _show(item, as_json)
            return
        _show(result, as_json)

    run(address, timeout, work)


def parse_argument(text: str) -> tuple[str, Any]:
    """NAME=JSON; what is not JSON is taken as a string."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r}: give NAME=JSON, as in --arg by=2")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value


def _show(value: Any, as_json: bool) -> None:
    if as_json:
        print_json({"result": value})
    elif isinstance(value, str):
        click.echo(value)
    else:
        print_json(value)
