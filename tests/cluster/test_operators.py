"""What operators see and order, with the command against real nodes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.processes import Processes, running_cluster

UP_S = 90


def command(processes: Processes, at: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from roost.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ROOST_ADDRESS": processes.address(at)},
        timeout=UP_S,
    )


def ask(processes: Processes, at: str, *arguments: str) -> Any:
    done = command(processes, at, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + UP_S
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.2)


def test_an_operator_sees_the_cluster_drains_a_node_and_moves_a_shard(tmp_path: Path) -> None:
    with running_cluster(tmp_path, "a", "b", "c", "d") as processes:
        processes.start_router("router", "a", "b", "c", "d")

        def status() -> Any:
            return ask(processes, "router", "status")

        def node(name: str) -> Any:
            return next(n for n in status()["nodes"] if n["address"] == processes.address(name))

        def is_at_rest() -> bool:
            """All four have their part: one that registers late gets it by moves."""
            found = status()
            is_shared = sorted(n["replicas"] for n in found["nodes"]) == [12] * 4
            return is_shared and found["states"] == {"in sync": 16}

        until(is_at_rest)
        found = status()
        assert [n["standing"] for n in found["nodes"]] == ["live"] * 4
        assert sum(n["owners"] for n in found["nodes"]) == 16
        assert sum(n["replicas"] for n in found["nodes"]) == 48
        assert sum(n["controller"] for n in found["nodes"]) == 1
        shown = command(processes, "a", "status").stdout
        assert "16 shards: 16 in sync" in shown
        assert "controller" in shown

        d = node("d")
        until(lambda: ask(processes, "b", "plan", "--drain", d["store_id"][:8])["bytes"] > 0)
        plan = ask(processes, "b", "plan", "--drain", d["store_id"][:8])
        assert plan["copies"] == d["replicas"]
        (load,) = [load for load in plan["loads"] if load["store_id"] == d["store_id"]]
        assert (load["copies_before"], load["copies_after"]) == (d["replicas"], 0)
        assert ask(processes, "b", "plan")["moves"] == []

        drained = ask(processes, "router", "drain", processes.address("d"))
        assert drained == {"store_id": d["store_id"]}
        until(lambda: (node("d")["owners"], node("d")["replicas"]) == (0, 0))
        processes.end("d", signal.SIGTERM)
        processes.start_node("d")
        until(  # it is back; while it is away nobody knows its address
            lambda: any(
                n["store_id"] == d["store_id"] and n["session"] not in ("", d["session"])
                for n in status()["nodes"]
            )
        )
        assert node("d")["standing"] == "draining", "the order outlives the process"
        assert node("d")["replicas"] == 0

        done = command(processes, "router", "move", "3", d["store_id"])
        assert done.returncode == 1
        assert "is draining" in done.stderr
        ask(processes, "router", "drain", d["store_id"], "--off")
        ask(processes, "router", "move", "3", d["store_id"])
        until(lambda: ask(processes, "a", "shards")[3]["owner"] == d["store_id"])
        until(lambda: status()["states"] == {"in sync": 16})
        assert ask(processes, "a", "shards")[3]["pinned"] == d["store_id"]
        assert "moved to" in command(processes, "c", "shards", "--store", d["store_id"]).stdout

        for at in ("router", "a", "b"):
            explained = ask(processes, at, "explain", "Counter", "x")
            shard = ask(processes, "a", "shards")[explained["shard"]["shard"]]
            assert explained["shard"]["owner"] == shard["owner"]
            assert explained["local"], "whoever is asked, the owner answers"
            assert not explained["live"]
        key = next(  # one of the shard that was moved
            key
            for key in map(str, itertools.count())
            if ask(processes, "a", "explain", "Counter", key)["shard"]["shard"] == 3
        )
        moves = ask(processes, "router", "explain", "Counter", key)["moves"]
        assert moves[-1]["owner"] == d["store_id"]
        assert moves[-1]["how"] == "handoff"
        assert moves[-1]["epoch"] > moves[0]["epoch"]
        assert moves[-1]["seen_ms"] > 0
        assert moves[-1]["why"] == "an operator's move"
        shown = command(processes, "router", "explain", "Counter", key).stdout
        assert "an operator's move" in shown
        done = command(processes, "router", "explain", "Cuonter", "x")
        assert done.returncode == 1
        assert "no class 'Cuonter' is served here: there is Counter" in done.stderr
        for name in "abc":  # whoever owns it
            assert command(processes, name, "call", "Counter", "x", "increment").returncode == 0
        assert [o["key"] for o in ask(processes, "router", "objects", "list")] == ["x"]
        done = command(processes, "a", "objects", "list", "--json")
        assert done.returncode == 1, "a node lists its own"
        assert "the list is incomplete: nobody who was asked owns" in done.stderr
        done = command(processes, "router", "cluster", "recover", "--json")
        assert "generation" not in json.loads(done.stdout).get("event", {}), "it only looked"
        assert ask(processes, "router", "cluster", "events") == []
        assert ask(processes, "c", "explain", "Counter", "x")["live"]

        done = command(processes, "router", "drain", "nobody")
        assert done.returncode == 1
        assert "no store is called 'nobody'" in done.stderr
        assert f"{d['store_id']} ({d['address']})" in done.stderr, "whom one may name"
        done = command(processes, "router", "shards", "--state", "waitng")
        assert done.returncode == 1
        assert "never 'waitng': they are waiting, " in done.stderr
        assert command(processes, "router", "move", "99", d["store_id"]).returncode == 1

        survivors = {node(name)["store_id"] for name in "cd"}
        for name in "ab":
            processes.end(name, signal.SIGKILL)
        until(lambda: ask(processes, "c", "status")["waits_for"] != {} or _settled(processes))
        for shard in ask(processes, "c", "shards", "--state", "waiting"):
            assert not survivors & set(shard["waits_for"])


def _settled(processes: Processes) -> bool:
    states = ask(processes, "c", "status")["states"]
    return set(states) <= {"read-only", "under-replicated", "catching up", "in sync", "moving"}
