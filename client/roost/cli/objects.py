"""`roost objects list|show|delete`."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from roost.adapters.transport import ObjectInfo
from roost.cli.output import moment, print_json, print_table, remote, run
from roost.client import Cluster
from roost.errors import RoostError, UnavailableError


@click.group()
def objects() -> None:
    """List, show and delete objects."""


@objects.command("list")
@click.option("--class", "class_name", default="", help="Only objects of this class.")
@click.option("--prefix", default="", help="Only keys that begin so (needs --class).")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True)
@remote
def list_(
    class_name: str, prefix: str, limit: int, address: str, timeout: float, as_json: bool
) -> None:
    """List objects of which something is stored."""
    if prefix and not class_name:
        raise click.UsageError("--prefix needs --class")

    async def work(cluster: Cluster) -> None:
        found: list[ObjectInfo] = []
        incomplete: RoostError | None = None
        try:
            async for info in cluster.objects(class_name, prefix=prefix):
                found.append(info)
                if len(found) == limit:
                    break
        except UnavailableError as error:
            incomplete = error  # after what there is
        found.sort(key=lambda info: (info.class_name, info.key))
        if as_json:
            print_json([as_dict(info) for info in found])
        else:
            print_table(
                ("class", "key", "bytes", "changed", "live"),
                [
                    (
                        *(i.class_name, i.key, i.size_bytes),
                        *(moment(i.changed_ms), "yes" if i.live else ""),
                    )
                    for i in found
                ],
            )
        if incomplete is not None:
            raise incomplete
        if (
            class_name
            and not found
            and class_name not in (served := (await cluster.status()).classes)
        ):
            there = ", ".join(served)
            click.echo(f"no class {class_name!r} is served here: there is {there}", err=True)

    run(address, timeout, work)


@objects.command()
@click.argument("class_name", metavar="CLASS")
@click.argument("key")
@remote
def show(class_name: str, key: str, address: str, timeout: float, as_json: bool) -> None:
    """Show one object as it is stored; exit status 1 if nothing of it is."""

    async def work(cluster: Cluster) -> None:
        detail = await cluster.show(class_name, key)
        if detail is None:
            click.echo(f"nothing is stored of {class_name}/{key}", err=True)
            raise SystemExit(1)
        fields = msgspec.json.decode(detail.fields_json)
        if as_json:
            print_json(
                {**as_dict(detail.info), "fields": fields, "storage_rows": detail.storage_rows}
            )
            return
        info = detail.info
        rows: list[tuple[str, Any]] = [
            ("object", f"{info.class_name}/{info.key}"),
            ("created", moment(info.created_ms)),
            ("changed", moment(info.changed_ms)),
            ("bytes", info.size_bytes),
            ("version", info.version),
            ("live", "yes" if info.live else "no"),
            ("storage rows", detail.storage_rows),
        ]
        rows += [(f".{n}", msgspec.json.encode(v).decode()) for n, v in fields.items()]
        print_table(("what", "value"), rows)

    run(address, timeout, work)


@objects.command()
@click.argument("class_name", metavar="CLASS")
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@remote
def delete(
    class_name: str, key: str, yes: bool, address: str, timeout: float, as_json: bool
) -> None:
    """Delete all that an object stores; exit status 1 if there was nothing."""
    if not yes and as_json:
        raise click.UsageError("--json does not ask: give --yes to delete")
    if not yes:
        click.confirm(f"Delete {class_name}/{key} for good?", abort=True)

    async def work(cluster: Cluster) -> None:
        found = await cluster.delete(class_name, key)
        if as_json:
            print_json({"deleted": found})
        if not found:
            if not as_json:
                click.echo(f"nothing is stored of {class_name}/{key}", err=True)
            raise SystemExit(1)

    run(address, timeout, work)


def as_dict(info: ObjectInfo) -> dict[str, Any]:
    """For JSON."""
    return {
        "class": info.class_name,
        "key": info.key,
        "created_ms": info.created_ms,
        "changed_ms": info.changed_ms,
        "size_bytes": info.size_bytes,
        "version": info.version,
        "owner": info.owner,
        "live": info.live,
    }
