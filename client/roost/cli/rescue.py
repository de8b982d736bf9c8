"""What operators do to a cluster in trouble, and to one that is upgraded: `roost cluster ...`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from roost.cli.cluster import as_dict, get, short
from roost.cli.output import many, moment, print_json, print_table, remote
from roost.v1 import admin_pb2

SHOWN = 20


@click.group()
def cluster() -> None:
    """Repair a cluster by hand, or raise the format that it writes."""


@cluster.command()
@click.option(
    "--without",
    multiple=True,
    metavar="STORE",
    help="A store that will never come back; repeatable. What only it has is lost.",
)
@click.option("--yes", is_flag=True, help="Do it without asking; --json without it only looks.")
@remote
def recover(
    without: tuple[str, ...], yes: bool, address: str, timeout: float, as_json: bool
) -> None:
    """Go on after etcd was restored from a backup, or has lost its data.

    Asks every node what its disk holds, gives each shard to the stores that have all of it, and raises the
    cluster's generation: from then on nodes believe etcd again. Start all nodes first. May be run again.
    """
    if not yes:
        look = admin_pb2.RecoverRequest(without=without, only_look=True)
        seen = get(address, timeout, lambda s, t: s.Recover(look, timeout=t))
        if as_json:
            print_json(as_dict(seen))
            return
        _show(seen)
        click.echo("Needed only where etcd was restored from a backup, or has lost its data.")
        click.confirm("Write these records, and begin a new generation?", abort=True)
    request = admin_pb2.RecoverRequest(without=without)
    done = get(address, timeout, lambda s, t: s.Recover(request, timeout=t))
    if as_json:
        print_json(as_dict(done))
        return
    click.echo(
        f"{many(len(done.shards), 'shard')} recovered; generation {done.event.generation} begins"
    )


@cluster.command("give-up")
@click.argument("shards", nargs=-1, required=True, type=click.IntRange(0))
@click.option(
    "--accept-data-loss", is_flag=True, help="Do it. Without this only look what would be left."
)
@remote
def give_up(
    shards: tuple[int, ...], accept_data_loss: bool, address: str, timeout: float, as_json: bool
) -> None:
    """Go on without the last in-sync copies of SHARDS, with what other stores have of them.

    For shards that wait for a store which will never come back (`roost shards --state waiting`). What only
    that store had is lost for good, and so are the records of calls: whoever calls again with a request id from before
    now is told that nobody knows what became of it. This is written down in etcd (`roost cluster events`).
    """
    request = admin_pb2.GiveUpRequest(shards=shards, accept_data_loss=accept_data_loss)
    done = get(address, timeout, lambda s, t: s.GiveUp(request, timeout=t))
    if as_json:
        print_json(as_dict(done))
        return
    _show(done)
    if accept_data_loss:
        some = many(len(done.shards), "shard goes", "shards go")
        click.echo(f"given up: {some} on with what there was")
    else:
        click.echo("nothing was changed: --accept-data-loss does it")


@cluster.command("raise-format")
@click.argument("level", required=False, type=click.IntRange(1))
@remote
def raise_format(level: int | None, address: str, timeout: float, as_json: bool) -> None:
    """Let nodes write a newer format, once all of them can: after the last one was upgraded.

    Without LEVEL: as high as all nodes that are there can. There is no way back: older builds are refused from then on.
    """
    request = admin_pb2.RaiseFormatRequest(level=level or 0)
    done = get(address, timeout, lambda s, t: s.RaiseFormat(request, timeout=t))
    if as_json:
        print_json(as_dict(done))
        return
    click.echo(f"the cluster writes format level {done.level}")


@cluster.command()
@remote
def events(address: str, timeout: float, as_json: bool) -> None:
    """Show what was done that cannot be undone, and which copies the auditor found wrong, the oldest first."""
    found = get(address, timeout, lambda s, t: s.Events(admin_pb2.EventsRequest(), timeout=t))
    if as_json:
        print_json([as_dict(event) for event in found.events])
        return
    if not found.events:
        click.echo("nothing that cannot be undone was done, and no copy was found wrong")
        return
    print_table(
        ("at", "what", "by", "generation", "shards", "without"),
        [
            (
                moment(event.at_ms),
                event.what,
                short(event.by),
                event.generation or "",
                _some(event.shards),
                " ".join(map(short, event.stores)),
            )
            for event in found.events
        ],
    )


def _show(found: admin_pb2.RescueReply) -> None:
    print_table(
        ("shard", "owner", "in sync", "entries", "epoch"),
        [
            (
                one.shard,
                short(one.owner),
                " ".join(map(short, one.in_sync)),
                one.end or "none: it begins empty",
                one.epoch,
            )
            for one in found.shards[:SHOWN]
        ],
    )
    if len(found.shards) > SHOWN:
        click.echo(f"and {len(found.shards) - SHOWN} more: --json shows all")


def _some(shards: Sequence[int]) -> str:
    numbers = list(map(str, shards))
    return " ".join(numbers[:SHOWN]) + (" ..." if len(numbers) > SHOWN else "")
