"""What operators see and say of shards and stores: `roost shards|plan|drain|move|explain`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from roost.adapters.operators import ask
from roost.cli.output import fail, many, moment, print_json, print_table, remote
from roost.cluster.ids import ranges
from roost.errors import RoostError
from roost.v1 import admin_pb2, admin_pb2_grpc

ReplyT = TypeVar("ReplyT")

SHORT = 8
"""Digits of a store's id in tables: enough to tell stores apart, and taken in every command."""

MOVES_SHOWN = 20


def get(
    address: str,
    timeout: float,
    request: Callable[[admin_pb2_grpc.AdminStub, float], Awaitable[ReplyT]],
) -> ReplyT:
    """Ask; a Roost error is shown and ends the command with status 1."""
    try:
        return asyncio.run(ask(address.split(","), timeout, request))
    except RoostError as error:
        fail(error)
        raise SystemExit(1) from None


@click.command()
@click.option("--state", default="", help="Only those in this state, as in 'in sync'.")
@click.option("--store", default="", help="Only those that this store has, or is to have.")
@remote
def shards(state: str, store: str, address: str, timeout: float, as_json: bool) -> None:
    """Show each shard: who owns and holds it, and where it is going."""
    request = admin_pb2.ShardsRequest(state=state, store_id=store)
    found = get(address, timeout, lambda s, t: s.Shards(request, timeout=t))
    own = get(address, timeout, lambda s, t: s.Status(admin_pb2.StatusRequest(), timeout=t))
    audits = {one.shard: one for one in own.audits}
    if as_json:
        print_json(
            [
                as_dict(shard)
                | ({"audit": as_dict(audits[shard.shard])} if shard.shard in audits else {})
                for shard in found.shards
            ]
        )
        return
    print_table(
        ("shard", "state", "epoch", "owner", "in sync", "learners", "to be", "notes"),
        [
            (
                shard.shard,
                shard.state,
                shard.epoch,
                short(shard.owner),
                _stores(shard.in_sync),
                _stores(shard.learners),
                _wish(shard),
                "; ".join(_shard_notes(shard, audits.get(shard.shard))),
            )
            for shard in found.shards
        ],
    )


def _wish(shard: admin_pb2.ShardInfo) -> str:
    if not shard.wished_owner:
        return ""
    if shard.wished_owner == shard.owner and set(shard.wished) == set(shard.in_sync):
        return ""
    others = [store for store in shard.wished if store != shard.wished_owner]
    return _stores((shard.wished_owner, *others)) + ("" if shard.begun else " (later)")


def _shard_notes(shard: admin_pb2.ShardInfo, audit: admin_pb2.ShardAudit | None) -> Iterable[str]:
    if shard.waits_for:
        yield f"waits for {' or '.join(map(short, shard.waits_for))}"
    if shard.suspects:
        yield f"the copy at {' and '.join(map(short, shard.suspects))} was wrong, and is made anew"
    if audit is not None:
        yield f"compared {moment(audit.at_ms)}"
    if shard.pinned:
        yield f"moved to {short(shard.pinned)} by order"


@click.command()
@click.option("--drain", multiple=True, metavar="STORE", help="As if it were drained; repeatable.")
@click.option(
    "--without", multiple=True, metavar="STORE", help="As if it never came back; repeatable."
)
@remote
def plan(
    drain: tuple[str, ...], without: tuple[str, ...], address: str, timeout: float, as_json: bool
) -> None:
    """Show what the controller is going to move, or would."""
    request = admin_pb2.PlanRequest(drain=drain, without=without)
    found = get(address, timeout, lambda s, t: s.Plan(request, timeout=t))
    if as_json:
        print_json(as_dict(found))
        return
    click.echo(
        f"{many(found.copies, 'copy', 'copies')} ({many(found.bytes, 'byte')} known),"
        f" {many(found.handoffs, 'handoff')}"
    )
    print_table(
        ("store", "owns", "then", "holds", "then"),
        [
            (
                short(load.store_id),
                load.owners_before,
                load.owners_after,
                load.copies_before,
                load.copies_after,
            )
            for load in found.loads
        ],
    )
    if found.moves:
        click.echo()
        print_table(
            ("shard", "why", "owner", "then", "copy to", "drop from", "begun"),
            [
                (
                    move.shard,
                    move.why,
                    short(move.owner),
                    short(move.new_owner),
                    _stores(move.copy_to),
                    _stores(move.drop_from),
                    "yes" if move.begun else "",
                )
                for move in found.moves[:MOVES_SHOWN]
            ],
        )
    if len(found.moves) > MOVES_SHOWN:
        click.echo(f"and {len(found.moves) - MOVES_SHOWN} more: --json shows all")
    if found.waiting:
        click.echo(f"wait for a store to come back: {ranges(found.waiting)}")


@click.command()
@click.argument("store")
@click.option("--off", is_flag=True, help="Take the order back.")
@remote
def drain(store: str, off: bool, address: str, timeout: float, as_json: bool) -> None:
    """Have a store emptied, for good: its shards and copies go elsewhere.

    STORE is an id, the beginning of one, or host:port. The order outlives restarts of the node, until it
    is taken back with --off. When `roost status` shows that it holds nothing, the node may be stopped.
    """
    request = admin_pb2.DrainRequest(store_id=store, off=off)
    found = get(address, timeout, lambda s, t: s.Drain(request, timeout=t))
    if as_json:
        print_json(as_dict(found))
    elif off:
        click.echo(f"store {found.store_id} may hold shards again")
    else:
        click.echo(f"store {found.store_id} is being emptied: `roost status` shows how far it is")


@click.command()
@click.argument("shard", type=click.IntRange(0))
@click.argument("store", required=False)
@click.option("--off", is_flag=True, help="Take the order back: the plan decides again.")
@remote
def move(
    shard: int, store: str | None, off: bool, address: str, timeout: float, as_json: bool
) -> None:
    """Have a shard owned by a store, as long as that one lives."""
    if (not store) is not off:
        raise click.UsageError("give a STORE, or --off without one")
    request = admin_pb2.MoveRequest(shard=shard, store_id=store or "")
    found = get(address, timeout, lambda s, t: s.Move(request, timeout=t))
    if as_json:
        print_json(as_dict(found))
    elif off:
        click.echo(f"shard {shard} goes where the plan wants it")
    else:
        click.echo(f"shard {shard} goes to store {found.store_id}")


@click.command()
@click.argument("class_name", metavar="CLASS")
@click.argument("key")
@remote
def explain(class_name: str, key: str, address: str, timeout: float, as_json: bool) -> None:
    """Show where an object is, and what its calls wait for."""
    request = admin_pb2.ExplainRequest(class_name=class_name, key=key)

    def look(at: str) -> admin_pb2.ExplainReply:
        return get(at, timeout, lambda s, t: s.Explain(request, timeout=t))

    found = look(address)
    if not found.local and found.address:
        found = look(found.address)  # we asked a node that is not the owner
    if as_json:
        print_json(as_dict(found))
        return
    shard = found.shard
    print_table(
        ("what", "value"),
        [
            ("shard", f"{shard.shard}, {shard.state}"),
            ("owner", f"{shard.owner or 'nobody'} at {found.address or 'no address: it is away'}"),
            ("epoch", f"{shard.epoch}, by {shard.how}" if shard.how else ""),
            ("in sync", ", ".join(shard.in_sync)),
            ("learners", ", ".join(shard.learners)),
            ("notes", "; ".join(_shard_notes(shard, None))),
            ("in memory", _memory(found)),
            ("calls that wait", found.queued if found.local else ""),
        ],
    )
    click.echo("\nowners, as far as this node has seen them:")
    print_table(
        ("epoch", "owner", "how", "why", "seen at"),
        [
            (move.epoch, short(move.owner), move.how, move.why, _seen(move.seen_ms))
            for move in found.moves
        ],
    )
    if found.calls:
        click.echo()
        print_table(
            ("call", "stage", "for ms", "waits for"),
            [(call.method, call.stage, call.age_ms, call.waits_for) for call in found.calls],
        )


def _seen(ms: int) -> str:
    return moment(ms) if ms else "before it looked"


def _memory(found: admin_pb2.ExplainReply) -> str:
    if not found.local:
        return "its owner knows"
    return f"yes: {found.awake_because}" if found.live else "no"


def as_dict(message: Message) -> dict[str, Any]:
    """For JSON: all fields, by the names of the protocol; numbers as numbers."""
    found = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {name: _plain(message, name, value) for name, value in found.items()}


def _plain(message: Message, name: str, value: Any) -> Any:
    """Protobuf's JSON writes 64 bits as a string, because JavaScript cannot count so far."""
    field = message.DESCRIPTOR.fields_by_name[name]
    there = getattr(message, name)
    if field.message_type is not None and not field.message_type.GetOptions().map_entry:
        return [as_dict(one) for one in there] if isinstance(value, list) else as_dict(there)
    if field.message_type is not None:
        return dict(there)
    return list(there) if isinstance(value, list) else there


def short(store: str) -> str:
    """The beginning of a store's id."""
    return store[:SHORT]


def _stores(stores: Iterable[str]) -> str:
    return " ".join(map(short, stores))
