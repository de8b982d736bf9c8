"""A cluster whose etcd was restored or lost, and one that lost the last copies: real nodes, real etcd."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

import roost
from cluster.app import Counter
from cluster.processes import Processes, running_cluster
from cluster.test_operators import ask, command, until
from roost.adapters.operators import ask as ask_server
from roost.errors import ExpiredRequestError
from roost.v1 import admin_pb2
from roost_node.core.record import FORMAT_LEVEL

SHARDS = 4
KEYS = [f"key-{n}" for n in range(12)]


def status(processes: Processes, at: str) -> admin_pb2.ClusterStatusReply:
    """Asked here: starting the command takes longer than what is waited for."""
    request = admin_pb2.ClusterStatusRequest()
    address = [processes.address(at)]
    return asyncio.run(ask_server(address, 60, lambda s, t: s.ClusterStatus(request, timeout=t)))


def states(processes: Processes, at: str) -> dict[str, int]:
    return dict(status(processes, at).states)


def store(processes: Processes, at: str, name: str) -> str:
    address = processes.address(name)
    (found,) = [n.store_id for n in status(processes, at).nodes if n.address == address]
    return found


def held(processes: Processes, at: str, store: str) -> int:
    return sum(n.replicas for n in status(processes, at).nodes if n.store_id == store)


def live(processes: Processes, at: str) -> int:
    return sum(n.standing == "live" for n in status(processes, at).nodes)


def count(
    processes: Processes, *nodes: str, times: int, keys: Sequence[str] = KEYS
) -> dict[str, int]:
    """Increment these counters; what was acknowledged last."""

    async def work() -> dict[str, int]:
        async with roost.connect(
            *map(processes.address, nodes), timeout=60, direct=True
        ) as cluster:
            found = {}
            for key in keys:
                for _ in range(times):
                    found[key] = await cluster.object(Counter, key).increment()
            return found

    return asyncio.run(work())


def values(processes: Processes, *nodes: str) -> dict[str, int]:
    async def work() -> dict[str, int]:
        async with roost.connect(
            *map(processes.address, nodes), timeout=60, direct=True
        ) as cluster:
            return {key: await cluster.object(Counter, key).get() for key in KEYS}

    return asyncio.run(work())


def test_after_a_restore_of_etcd_nothing_moves_until_the_cluster_is_recovered(
    tmp_path: Path,
) -> None:
    with running_cluster(tmp_path, "a", "b", "c", shards=SHARDS) as processes:
        until(lambda: states(processes, "a") == {"in sync": SHARDS})
        count(processes, "a", "b", times=1)
        snapshot = tmp_path / "snapshot"
        processes.etcd.ctl("snapshot", "save", str(snapshot))
        # What the backup does not know: a node more, one less, and what they wrote.
        processes.start_node("d")
        until(lambda: "own shard" in processes.log("d"))
        ask(processes, "b", "drain", processes.address("a"))
        until(lambda: set(states(processes, "b")) == {"in sync"})
        a = store(processes, "b", "a")
        until(lambda: held(processes, "b", a) == 0)
        wanted = count(processes, "b", "c", "d", times=2)

        processes.etcd.kill()
        processes.etcd.restore(snapshot)
        processes.etcd.start()
        until(lambda: all("gone back in time" in processes.log(name) for name in ("b", "c", "d")))
        for name in ("a", "b"):  # who has not seen the newer etcd, has its disk
            processes.end(name, signal.SIGKILL)
            processes.start_node(name)
        refused = command(processes, "c", "cluster", "recover", "--without", a, "--yes")
        assert refused.returncode == 1
        until(lambda: live(processes, "c") == 4)
        processes.start_router("router", "a", "b", "c", "d")

        look = command(processes, "c", "cluster", "recover")
        assert look.returncode == 1, "nobody has said yes"
        assert "Write these records" in look.stdout
        until(
            lambda: command(processes, "c", "cluster", "recover", "--yes", "--json").returncode == 0
        )
        assert values(processes, "a", "b", "c", "d") == wanted, "nothing is lost"
        until(lambda: set(states(processes, "router")) == {"in sync"})
        (event,) = ask(processes, "router", "cluster", "events")
        assert event["generation"] == 2
        assert len(event["shards"]) == SHARDS
        assert "recovered" in command(processes, "router", "cluster", "events").stdout
        after = count(processes, "b", "c", times=1)
        assert after == {key: value + 1 for key, value in wanted.items()}

        # All of it is lost, and the nodes start before anybody has said so.
        for name in ("a", "b", "c", "d"):
            processes.end(name, signal.SIGKILL)
        processes.etcd.kill()
        shutil.rmtree(processes.etcd.directory)
        processes.etcd.start()
        for name in ("a", "b", "c", "d"):
            processes.start_node(name)
        until(lambda: live(processes, "d") == 4)
        assert states(processes, "d") == {"missing": SHARDS}, "they are not created anew"
        until(
            lambda: command(processes, "d", "cluster", "recover", "--yes", "--json").returncode == 0
        )
        assert values(processes, "a", "b", "c", "d") == after
        (event,) = ask(processes, "a", "cluster", "events")
        assert event["generation"] == 3, "above the highest on the disks"


def test_the_last_copies_are_given_up_only_on_purpose_and_never_mixed_with_what_comes_back(
    tmp_path: Path,
) -> None:
    with running_cluster(tmp_path, "a", "b", "c", shards=SHARDS) as processes:
        until(lambda: states(processes, "c") == {"in sync": SHARDS})
        old = count(processes, "a", "b", times=2)
        c = store(processes, "a", "c")
        processes.end("c", signal.SIGKILL)
        until(lambda: held(processes, "a", c) == 0)
        request = roost.new_request_id()
        count(processes, "a", "b", times=5)
        for name in ("a", "b"):
            processes.end(name, signal.SIGKILL)
        processes.start_node("c")
        until(lambda: states(processes, "c") == {"waiting": SHARDS})

        numbers = [str(shard) for shard in range(SHARDS)]
        look = command(processes, "c", "cluster", "give-up", *numbers)
        assert look.returncode == 0
        assert "nothing was changed" in look.stdout
        assert states(processes, "c") == {"waiting": SHARDS}
        done = ask(processes, "c", "cluster", "give-up", *numbers, "--accept-data-loss")
        assert [shard["in_sync"] for shard in done["shards"]] == [[c]] * SHARDS
        assert values(processes, "c") == old, "what c had"
        (event,) = ask(processes, "c", "cluster", "events")
        assert event["what"] == "data was given up"
        assert len(event["stores"]) == 2

        # The lost ones come back, with entries that c has never seen.
        processes.start_node("a")
        processes.start_node("b")
        until(lambda: states(processes, "c") == {"in sync": SHARDS})
        new = {**old, **count(processes, "c", times=1, keys=KEYS[:6])}
        assert new == {key: value + (key in KEYS[:6]) for key, value in old.items()}

        async def again() -> None:
            async with roost.connect(processes.address("c"), timeout=60, direct=True) as cluster:
                stub = cluster.object(Counter, KEYS[0])
                with pytest.raises(ExpiredRequestError, match="given up"):
                    await roost.options(stub, request_id=request).increment()
                assert isinstance(await roost.outcome(stub, request), roost.Expired)

        asyncio.run(again())
        processes.end("c", signal.SIGKILL)
        assert values(processes, "a", "b") == new, "the others have c's history, not their own"
        refused = command(processes, "a", "cluster", "give-up", "0", "--accept-data-loss")
        assert refused.returncode == 1
        assert "nothing is to be given up" in refused.stderr


def pages(processes: Processes, at: str, prefix: str, limit: int) -> list[str]:
    """The keys of all objects, asked for a few at a time."""
    found: list[str] = []
    token = b""
    while True:
        request = admin_pb2.ListObjectsRequest(
            class_name="Counter", prefix=prefix, limit=limit, page_token=token
        )
        address = [processes.address(at)]
        page = asyncio.run(ask_server(address, 60, lambda s, t: s.ListObjects(request, timeout=t)))  # noqa: B023
        assert len(page.objects) <= limit
        found += [one.key for one in page.objects]
        token = page.next_page_token
        if not token:
            return sorted(found)


def test_a_store_that_is_short_of_disk_gives_its_shards_away(tmp_path: Path) -> None:
    with running_cluster(tmp_path, "a", "b", "c", shards=SHARDS) as processes:
        until(lambda: states(processes, "a") == {"in sync": SHARDS})
        c = store(processes, "a", "c")
        processes.end("c", signal.SIGTERM)
        processes.start_node("c", "--free-disk-percent-min", "100")  # no disk has so much
        until(lambda: "its disk is nearly full" in command(processes, "a", "status").stdout)
        until(lambda: held(processes, "a", c) == 0)
        count(processes, "a", "b", times=1)
        processes.start_router("router", "a", "b")
        assert pages(processes, "router", "key-", 5) == sorted(KEYS), "of all owners, page by page"
        assert pages(processes, "router", "key-1", 2) == ["key-1", "key-10", "key-11"]
        listed = ask(
            processes, "router", "objects", "list", "--class", "Counter", "--prefix", "key-1"
        )
        assert sorted(one["key"] for one in listed) == ["key-1", "key-10", "key-11"]
        processes.end("c", signal.SIGTERM)
        processes.start_node("c")
        until(lambda: held(processes, "a", c) == SHARDS)


def test_the_format_rises_when_all_can_and_a_node_that_cannot_is_refused_by_name(
    tmp_path: Path,
) -> None:
    with running_cluster(tmp_path, "a", "b", shards=SHARDS) as processes:
        until(lambda: live(processes, "a") == 2)
        a, b = store(processes, "a", "a"), store(processes, "a", "b")
        assert ask(processes, "a", "cluster", "raise-format") == {"level": FORMAT_LEVEL}
        refused = command(processes, "b", "cluster", "raise-format", str(FORMAT_LEVEL + 1))
        assert refused.returncode == 1
        assert a in refused.stderr
        assert b in refused.stderr
        # As if a newer build had raised it.
        key = "/roost/default/config"
        config = json.loads(processes.etcd.ctl("get", "--print-value-only", key).stdout)
        config["format_level"] = FORMAT_LEVEL + 1
        processes.etcd.ctl("put", key, json.dumps(config))
        processes.end("b", signal.SIGTERM)
        processes.start_node("b")
        assert processes.wait("b") == 1
        said = processes.log("b").splitlines()[-3:]
        assert any(b in line and "install a newer build" in line for line in said), said
