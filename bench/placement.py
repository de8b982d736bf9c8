"""How even the plan is, how much it moves and how long it takes: `python -m bench.placement`.

A cluster of n stores is laid out; then one store joins, then another leaves. Beside it the same with a plain
ring (each shard to the first stores that the ring names) and with bounded load (the ring, but no store above
1.05 times the mean), so that the table shows what the plan is for. Counts are exact and the same on every
machine; only the times are not.

peak: the fullest store / the mean. moved: what moved / the least that had to.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.table import Table

from roost.cluster.ids import ShardId
from roost_node.core.placement.plan import MEMBERS, Situation, plan, spots_of
from roost_node.core.placement.rehearsal import simulate_to_rest
from roost_node.core.placement.ring import ring_of
from roost_node.core.placement.roster import Place, Standing
from roost_node.core.placement.starts import Budgets
from roost_node.core.record import ClusterConfig, Map, SessionId, SessionInfo, StoreId

REPLICAS = 3
ALL_AT_ONCE = Budgets(copies_max=10**6, copies_per_store_max=10**6, handoffs_max=10**6)
NODES = (3, 5, 10, 30, 100)
SHARDS = (1024, 4096)

Layout = dict[int, tuple[str, ...]]  # the owner first


class Figures(msgspec.Struct):
    """One line of the table."""

    peak_owners: float
    peak_copies: float
    join_owners: float
    join_copies: float
    leave_owners: float
    leave_copies: float


def names(count: int) -> list[str]:
    return [f"store-{number:03}" for number in range(count)]


def figures(shards: int, count: int, lay_out: Callable[[list[str], Layout], Layout]) -> Figures:
    """Lay out `count` stores; then one joins; then the first leaves."""
    start = lay_out(names(count), {})
    joined = lay_out(names(count + 1), start)
    left = lay_out(names(count + 1)[1:], joined)
    copies = min(REPLICAS, count)
    new_copies = min(REPLICAS, count + 1) * shards / (count + 1)
    gone = names(1)[0]
    owned = sum(stores[0] == gone for stores in joined.values())
    held = sum(gone in stores for stores in joined.values())
    return Figures(
        peak_owners=peak(Counter(stores[0] for stores in start.values()), shards / count),
        peak_copies=peak(
            Counter(store for stores in start.values() for store in stores),
            copies * shards / count,
        ),
        join_owners=owners_moved(start, joined) / (shards / (count + 1)),
        join_copies=copies_moved(start, joined) / new_copies,
        leave_owners=owners_moved(joined, left) / max(1, owned),
        leave_copies=copies_moved(joined, left) / max(1, held) if count > REPLICAS else 0.0,
    )


def peak(counts: Counter[str], mean: float) -> float:
    return max(counts.values()) / mean


def owners_moved(before: Layout, after: Layout) -> int:
    return sum(before[shard][0] != after[shard][0] for shard in before)


def copies_moved(before: Layout, after: Layout) -> int:
    return sum(len(set(after[shard]) - set(before[shard])) for shard in before)


# ---------------------------------------------------------------------------- three ways to lay out


def plain_ring(shards: int) -> Callable[[list[str], Layout], Layout]:
    def lay_out(stores: list[str], _: Layout) -> Layout:
        ring = ring_of(spots_of(places(stores), MEMBERS))
        return {s: ring.preference(ShardId(s))[:REPLICAS] for s in range(shards)}

    return lay_out


def bounded_load(shards: int) -> Callable[[list[str], Layout], Layout]:
    """Consistent hashing with bounded loads (Mirrokni et al., 2016), for owners and for copies."""

    def lay_out(stores: list[str], _: Layout) -> Layout:
        ring = ring_of(spots_of(places(stores), MEMBERS))
        copies = min(REPLICAS, len(stores))
        owner_max = math.ceil(1.05 * shards / len(stores))
        copy_max = math.ceil(1.05 * shards * copies / len(stores))
        owners: Counter[str] = Counter()
        held: Counter[str] = Counter()
        layout: Layout = {}
        for shard in range(shards):
            preference = ring.preference(ShardId(shard))
            chosen = [s for s in preference if held[s] < copy_max][:copies]
            chosen += [s for s in preference if s not in chosen][: copies - len(chosen)]
            owner = next((s for s in chosen if owners[s] < owner_max), chosen[0])
            owners[owner] += 1
            held.update(chosen)
            layout[shard] = (owner, *(s for s in chosen if s != owner))
        return layout

    return lay_out


class Planned:
    """The plan, carried out by perfect owners; keeps the longest time of one plan."""

    def __init__(self, shards: int) -> None:
        self._config = ClusterConfig("bench", shards, b"", "blake2b-64", REPLICAS, 2)
        self._situation: Situation | None = None
        self.plan_ms = 0.0
        self.idle_ms = 0.0

    def lay_out(self, stores: list[str], _: Layout) -> Layout:
        found = places(stores)
        before = self._situation
        if before is not None:  # one that leaves drains, and is there until it holds nothing
            leaving = set(before.places) - set(found)
            found |= {store: Place(Standing.DRAINING) for store in leaving}
        sessions = {
            store: SessionInfo(store, SessionId(int(store[-3:]) + 1), "") for store in found
        }
        old = before.map if before else None
        situation = Situation(
            Map(
                1, self._config, sessions, {}, old.shards if old else {}, old.wishes if old else {}
            ),
            found,
        )
        ring_of(spots_of(found, MEMBERS))
        started = time.perf_counter()
        plan(situation, ALL_AT_ONCE)
        self.plan_ms = max(self.plan_ms, (time.perf_counter() - started) * 1000)
        done = self._situation = simulate_to_rest(situation, ALL_AT_ONCE)
        started = time.perf_counter()
        assert plan(done, ALL_AT_ONCE) == (), "at rest"
        self.idle_ms = (time.perf_counter() - started) * 1000
        return {
            shard: (record.owner, *(s for s in record.in_sync if s != record.owner))
            for shard, record in ((s, v.record) for s, v in done.map.shards.items())
        }


def places(stores: list[str]) -> dict[StoreId, Place]:
    return {StoreId(store): Place(Standing.LIVE) for store in stores}


# ---------------------------------------------------------------------------- the table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="*", default=NODES)
    parser.add_argument("--shards", type=int, nargs="*", default=SHARDS)
    parser.add_argument("--markdown", action="store_true", help="for docs/PLACEMENT.md")
    arguments = parser.parse_args()
    head = (
        "shards", "nodes", "layout", "peak owners", "peak copies", "join: owners moved",
        "join: copies moved", "leave: owners moved", "leave: copies moved", "a plan", "at rest",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for shards in arguments.shards:
        for count in arguments.nodes:
            planned = Planned(shards)
            for name, lay_out in (
                ("plain ring", plain_ring(shards)),
                ("bounded 1.05", bounded_load(shards)),
                ("plan", planned.lay_out),
            ):
                line = msgspec.structs.astuple(figures(shards, count, lay_out))
                times = ("", "")
                if name == "plan":
                    times = (f"{planned.plan_ms:.0f} ms", f"{planned.idle_ms:.0f} ms")
                cells = (f"{value:.2f}" if value else "-" for value in line)
                rows.append((str(shards), str(count), name, *cells, *times))
    if arguments.markdown:
        print("| " + " | ".join(head) + " |")
        print("|" + " --- |" * len(head))
        for row in rows:
            print("| " + " | ".join(row) + " |")
        return
    table = Table(*head, title=f"Placement with {REPLICAS} replicas")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
