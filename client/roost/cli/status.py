"""`roost status`: the nodes, how the shards are, and how far what is under way has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable

import click

from roost.cli.cluster import as_dict, get, short
from roost.cli.output import many, moment, print_json, print_table, remote
from roost.v1 import admin_pb2

MOVING = "moving"
LEAVING = ("draining", "gone")
"""What is no place for copies."""


@click.command()
@remote
def status(address: str, timeout: float, as_json: bool) -> None:
    """Show the nodes, how the shards are, and what the server says of itself."""
    found = get(
        address, timeout, lambda s, t: s.ClusterStatus(admin_pb2.ClusterStatusRequest(), timeout=t)
    )
    own = get(address, timeout, lambda s, t: s.Status(admin_pb2.StatusRequest(), timeout=t))
    if as_json:
        print_json({**as_dict(own), **as_dict(found)})
        return
    moving: Iterable[admin_pb2.ShardInfo] = ()
    if found.states.get(MOVING):
        request = admin_pb2.ShardsRequest(state=MOVING)
        moving = get(address, timeout, lambda s, t: s.Shards(request, timeout=t)).shards
    print_table(
        ("store", "", "address", "zone", "weight", "owns", "holds", "learns", "build", "notes"),
        [
            (
                short(node.store_id),
                node.standing,
                node.address,
                node.zone,
                node.weight or "",
                node.owners,
                node.replicas,
                node.learners,
                node.build,
                "; ".join(_notes(node)),
            )
            for node in found.nodes
        ],
    )
    states = [f"{count:,} {state}" for state, count in found.states.items()]
    click.echo(f"\n{many(found.shards, 'shard')}: {', '.join(states)}")
    staying = sum(node.standing not in LEAVING for node in found.nodes)
    if staying < found.replicas:
        click.echo(
            f"{many(staying, 'store')} may hold copies, so a shard has no more of the"
            f" {found.replicas} that are wanted: add a node"
        )
    for store, count in found.waits_for.items():
        click.echo(f"{many(count, 'shard waits', 'shards wait')} for store {store}")
    away = {node.store_id for node in found.nodes if node.standing == "away"}
    for line in (*_moving(moving), *_catching_up(own.behind, away), *_audited(own.audits)):
        click.echo(line)
    click.echo(
        f"cluster {found.cluster_id}, {many(found.replicas, 'copy', 'copies')} wanted of each shard;"
        f" {many(own.activations, 'live object')}, {many(own.calls_running, 'open call')},"
        f" {own.calls_queued} ready; classes: {', '.join(own.classes)}"
    )


def _moving(shards: Iterable[admin_pb2.ShardInfo]) -> Iterable[str]:
    """How far the moves under way are, a line for each stage and store."""
    stages = Counter(_stage(shard) for shard in shards)
    for stage, count in sorted(stages.items()):
        yield f"{many(count, 'shard')} on the move: {stage}"


def _stage(shard: admin_pb2.ShardInfo) -> str:
    if not shard.begun:
        return "waiting for others to arrive"
    new = [store for store in shard.wished if store not in shard.in_sync]
    if new:
        return f"copied to {' and '.join(map(short, new))}"
    if shard.wished_owner != shard.owner:
        return f"handed over to {short(shard.wished_owner)}"
    return "old copies are let go"


def _catching_up(
    behind: Iterable[admin_pb2.LearnerBehind], away: Container[str] = ()
) -> Iterable[str]:
    """A line for each store that gets copies: how much is missing, how fast it comes, how long that takes."""
    stores: dict[str, list[admin_pb2.LearnerBehind]] = {}
    for one in behind:
        stores.setdefault(one.store_id, []).append(one)
    for store, learning in sorted(stores.items()):
        missing = sum(one.entries for one in learning)
        if store in away:
            of = many(len(learning), "shard")
            yield f"store {short(store)} is away: {many(missing, 'entry', 'entries')} of {of} behind"
            continue
        rate = sum(one.entries_per_s for one in learning)
        left = f", {_left(missing, rate)}"
        copied = [one for one in learning if one.snapshot_of]
        if copied:
            sent = sum(one.snapshot_bytes for one in copied)
            about = sum(one.snapshot_of for one in copied)
            speed = sum(one.bytes_per_s for one in copied)
            left = (
                f"; snapshots of {many(len(copied), 'shard')}: {_mb(sent)} of about {_mb(about)}"
                f", {_mb(speed)}/s, {_left(about - sent, speed)}"
            )
        yield (
            f"store {short(store)} is catching up with {many(len(learning), 'shard')}:"
            f" {many(missing, 'entry', 'entries')} missing, {rate:,.0f}/s{left}"
        )


def _left(missing: float, rate: float) -> str:
    return f"about {missing / rate:,.0f} s left" if rate >= 1 else "waiting"


def _mb(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def _audited(audits: Iterable[admin_pb2.ShardAudit]) -> Iterable[str]:
    """How far the auditor has come, and a line for each shard in which it found something."""
    found = list(audits)
    fine = [one for one in found if not (one.bad or one.differ)]
    if fine:
        since = moment(min(one.at_ms for one in fine))
        those = many(len(fine), "shard")
        yield f"copies of {those} were compared, and are equal, none of it before {since}"
    for one in found:
        if one.bad or one.differ:
            stores = ", ".join(map(short, one.bad))
            which = f"is wrong ({stores})" if one.bad else "is wrong"
            yield f"shard {one.shard}: a copy {which}, found {moment(one.at_ms)}: see `roost cluster events`"


def _notes(node: admin_pb2.NodeInfo) -> Iterable[str]:
    if node.controller:
        yield "controller"
    if node.drained and node.standing != "draining":
        yield "drained by order"
    if node.short_of_disk:
        yield "its disk is nearly full"
    if node.unreachable:
        yield f"cannot reach {', '.join(map(short, node.unreachable))}"
    if node.stuck_on:
        yield f"stuck on {', '.join(map(short, node.stuck_on))}"
