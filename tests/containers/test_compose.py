"""docker-compose.yml as it is: what is done to its containers is a pause to callers, never an error.

The tests share one project and its callers, and leave three nodes in sync. What callers were told is compared
with what is there when the last test has ended (`load`).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

import roost
from chat import Room
from containers.load import Load
from containers.project import Project, cut, ip_of, mend, wait_until

pytestmark = pytest.mark.timeout(600)
NODES = 3


def test_the_chat_room_is_open_on_both_routers(project: Project, load: Load) -> None:
    async def post(address: str) -> int:
        async with roost.connect(address, timeout=60.0) as cluster:
            return await cluster.object(Room, "lobby").post("ann", f"by {address}")

    assert [asyncio.run(post(address)) for address in project.addresses()] == [1, 2]


def test_containers_are_healthy_and_may_do_nothing(project: Project, load: Load) -> None:
    for service in ("etcd", "node", "router"):
        for one in project.containers(service):
            wait_until(partial(is_healthy, one), project.logs)
            host = one.attrs["HostConfig"]
            assert host["ReadonlyRootfs"]
            assert host["CapDrop"] == ["ALL"]
            assert host["SecurityOpt"] == ["no-new-privileges:true"]
            if service != "etcd":  # whose public image is of its makers
                assert one.attrs["Config"]["User"] == "roost"
            ports = [port for found in host["PortBindings"].values() for port in found]
            assert {port["HostIp"] for port in ports} == (
                {"127.0.0.1"} if service == "router" else set()
            )


def test_a_fourth_node_takes_its_part_and_leaves_when_drained(project: Project, load: Load) -> None:
    project.run("up", "--detach", "--scale", f"node={NODES + 1}")
    project.wait_until_in_sync(NODES + 1)
    # Copies come before owners, so a quick machine may be looked at in between.
    wait_until(lambda: all(n["owners"] > 0 for n in project.live().values()), project.logs)
    load.move_on()

    store = project.store_of(project.containers("node")[-1])
    assert project.roost("drain", store).returncode == 0
    wait_until(lambda: count(project, store, "replicas") == 0, project.logs)
    load.move_on()
    project.run("up", "--detach", "--scale", f"node={NODES}")
    load.move_on()
    project.wait_until_in_sync(NODES)


def test_a_node_hands_its_shards_over_and_a_new_container_takes_its_store(
    project: Project, load: Load
) -> None:
    stores = set(project.live())
    leaver = project.containers("node")[0]
    leaver.stop(timeout=60)
    assert exit_status(leaver) == 0
    load.move_on()
    leaver.remove()
    project.run("up", "--detach", "--no-recreate")
    load.move_on()
    project.wait_until_in_sync(NODES)
    assert set(project.live()) == stores


def test_a_paused_node_is_replaced_and_thaws(project: Project, load: Load) -> None:
    frozen = project.containers("node")[0]
    frozen.pause()
    wait_until(lambda: len(project.live()) == NODES - 1, project.logs)
    load.move_on()
    frozen.unpause()
    load.move_on()
    project.wait_until_in_sync(NODES)


def test_a_killed_node_comes_back(project: Project, load: Load) -> None:
    victim = project.containers("node")[1]
    victim.kill()
    load.move_on()
    victim.start()
    load.move_on()
    project.wait_until_in_sync(NODES)


def test_a_node_without_etcd_is_replaced(project: Project, load: Load) -> None:
    node = project.containers("node")[0]
    cut(node, project.containers("etcd"))
    wait_until(lambda: len(project.live()) == NODES - 1, project.logs)
    load.move_on()
    mend(node)
    load.move_on()
    project.wait_until_in_sync(NODES)


def test_a_node_without_its_peers_is_replaced(project: Project, load: Load) -> None:
    node, *others = project.containers("node")
    store = project.store_of(node)
    cut(node, others)
    wait_until(lambda: count(project, store, "owners") == 0, project.logs)
    load.move_on()
    mend(node)
    load.move_on()
    project.wait_until_in_sync(NODES)


def test_calls_find_a_way_to_a_node_that_no_router_reaches(project: Project, load: Load) -> None:
    node = project.containers("node")[0]
    routers = project.containers("router")
    lost = [said(one, "link lost") for one in routers]
    cut(node, routers)
    wait_until(
        lambda: all(said(one, "link lost") > was for one, was in zip(routers, lost, strict=True)),
        project.logs,
    )
    load.move_on()
    mend(node)
    load.move_on()
    project.wait_until_in_sync(NODES)


def test_a_node_is_taken_off_the_network(project: Project, load: Load) -> None:
    node = project.containers("node")[2]
    network = project.network()
    network.disconnect(node)
    wait_until(lambda: len(project.live()) == NODES - 1, project.logs)
    load.move_on()
    network.connect(node, aliases=["node"])
    assert ip_of(node)
    load.move_on()
    project.wait_until_in_sync(NODES)


def test_a_router_that_is_stopped_sends_its_clients_to_the_other(
    project: Project, load: Load
) -> None:
    for router in project.containers("router"):
        router.stop(timeout=60)
        assert exit_status(router) == 0
        load.move_on()
        router.start()
        wait_until(partial(is_healthy, router), project.logs)


def test_down_and_up_find_the_stores_again(project: Project, load: Load) -> None:
    stores = set(project.live())
    project.run("down")
    project.run("up", "--detach")
    load.move_on()
    project.wait_until_in_sync(NODES)
    assert set(project.live()) == stores


def is_healthy(container: Any) -> bool:
    container.reload()
    return bool(container.attrs["State"]["Health"]["Status"] == "healthy")


def exit_status(container: Any) -> int:
    container.reload()
    return int(container.attrs["State"]["ExitCode"])


def said(container: Any, words: str) -> int:
    return int(container.logs().decode(errors="replace").count(words))


def count(project: Project, store: str, what: str) -> int:
    """How many shards it owns, or holds copies of; -1: nobody says."""
    counts = [one[what] for one in project.status()["nodes"] if one["store_id"] == store]
    return counts[0] if counts else -1
