"""What is done to the cluster: each fault strikes, lasts for a while under load, and is over.

While it lasts every caller must be answered, also where a link is cut that its call would take: there is a way
round it. Only callers of a frozen router wait, until they notice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from crash.clients import Clients
from rounds.machines import GUEST, NODES, ROUTERS, Machines

HOLD_S = (5.0, 9.0)  # longer than a session (3 s), a promise (1.5 s), a follower's patience (1 s)


@dataclass(frozen=True)
class Scene:
    """What a fault may use."""

    machines: Machines
    clients: Clients
    random: random.Random
    etcd_down_s: float

    def two_nodes(self) -> tuple[str, str]:
        one, other = self.random.sample(NODES, 2)
        return one, other

    async def hold(self) -> None:
        """All are served, also when the fault has lasted longer than any lease."""
        await self.clients.move_on()
        await asyncio.sleep(self.random.uniform(*HOLD_S))
        await self.clients.move_on()

    async def cut(self, one: str, other: str, *, one_way: bool) -> None:
        """Nothing passes, or nothing but from the other to the one, until all is said and done."""
        network = self.machines.network
        ways = [(one, other)] if one_way else [(one, other), (other, one)]
        for way in ways:
            network.cut(*way)
        await self.hold()
        for way in ways:
            network.mend(*way)


Fault = Callable[[Scene], Awaitable[str]]
"""Returns what it did, to whom."""


async def kill_node(scene: Scene) -> str:
    node = scene.random.choice(NODES)
    await scene.machines.kill(node)
    await scene.clients.move_on()
    scene.machines.start(node)
    return f"kill -9 of node {node}"


async def kill_worker(scene: Scene) -> str:
    node = scene.random.choice(NODES)
    scene.machines.kill_worker(node)
    return f"kill -9 of node {node} before its supervisor's eyes"


async def kill_leaving_node(scene: Scene) -> str:
    """While it hands its shards over."""
    node, after_s = scene.random.choice(NODES), scene.random.uniform(0, 0.3)
    scene.machines.tell_to_stop(node)
    await asyncio.sleep(after_s)
    await scene.machines.kill(node)
    await scene.clients.move_on()
    scene.machines.start(node)
    return f"kill -9 of node {node} {after_s:.2f} s after it was told to stop"


async def kill_joining_node(scene: Scene) -> str:
    """While it gets its copies; it comes back with what it has of them, and is let go."""
    machines, after_s = scene.machines, scene.random.uniform(1, 3)
    machines.start(GUEST)
    await asyncio.sleep(after_s)
    await machines.kill(GUEST)
    await scene.clients.move_on()
    machines.start(GUEST)
    await machines.until_whole()
    await _empty(scene, GUEST)
    await machines.stop(GUEST)
    machines.wipe(GUEST)
    return f"kill -9 of node {GUEST} {after_s:.2f} s after it began to join"


async def kill_router(scene: Scene) -> str:
    router = scene.random.choice(ROUTERS)
    await scene.machines.kill(router)
    await scene.clients.move_on()
    scene.machines.start(router)
    return f"kill -9 of router {router}"


async def kill_etcd(scene: Scene) -> str:
    await scene.machines.kill("etcd")
    await asyncio.sleep(scene.random.uniform(0, 2))
    scene.machines.start("etcd")
    return "kill -9 of etcd"


async def stop_etcd(scene: Scene) -> str:
    await scene.machines.kill("etcd")
    loop = asyncio.get_running_loop()
    end = loop.time() + scene.etcd_down_s
    while loop.time() < end:
        await scene.clients.move_on()
    scene.machines.start("etcd")
    return f"etcd is down for {scene.etcd_down_s:g} s"


async def freeze_node(scene: Scene) -> str:
    node = scene.random.choice(NODES)
    scene.machines.freeze(node)
    await scene.hold()
    scene.machines.thaw(node)
    return f"node {node} is frozen and thaws"


async def freeze_router(scene: Scene) -> str:
    """Its clients notice after some seconds, and go to the other one."""
    router = scene.random.choice(ROUTERS)
    scene.machines.freeze(router)
    await scene.hold()
    scene.machines.thaw(router)
    return f"router {router} is frozen and thaws"


async def cut_nodes(scene: Scene) -> str:
    one, other = scene.two_nodes()
    await scene.cut(one, other, one_way=False)
    return f"nodes {one} and {other} are cut off from each other"


async def cut_nodes_one_way(scene: Scene) -> str:
    one, other = scene.two_nodes()
    await scene.cut(one, other, one_way=True)
    return f"nothing from node {one} reaches node {other}"


async def cut_etcd(scene: Scene) -> str:
    node = scene.random.choice(NODES)
    await scene.cut(node, "etcd", one_way=False)
    return f"node {node} and etcd are cut off from each other"


async def cut_etcd_one_way(scene: Scene) -> str:
    sender, to = scene.random.sample(["etcd", scene.random.choice(NODES)], 2)
    await scene.cut(sender, to, one_way=True)
    return f"nothing from {sender} reaches {to}"


async def isolate_node(scene: Scene) -> str:
    """Its whole machine: nobody reaches it, it reaches nobody."""
    network, node = scene.machines.network, scene.random.choice(NODES)
    others = [name for name in (*NODES, *ROUTERS, "etcd") if name != node]
    ways = [way for other in others for way in ((node, other), (other, node))]
    for way in ways:
        network.cut(*way)
    await scene.hold()
    for way in ways:
        network.mend(*way)
    return f"node {node} is cut off from all others"


async def cut_router(scene: Scene) -> str:
    """Nobody takes over: the router's calls go by way of another node."""
    ends = [scene.random.choice(ROUTERS), scene.random.choice(NODES)]
    one_way = scene.random.random() < 0.7
    scene.random.shuffle(ends)
    await scene.cut(ends[0], ends[1], one_way=one_way)
    return f"{ends[0]} and {ends[1]}: nothing from the first to the second" + (
        "" if one_way else ", nor back"
    )


async def restart_all(scene: Scene) -> str:
    names = [*NODES, *ROUTERS]
    scene.random.shuffle(names)
    for name in names:
        await scene.machines.stop(name)
        scene.machines.start(name)
        await scene.clients.move_on()
        await scene.machines.until_whole()
    return f"{', '.join(names)} are restarted one after another"


async def drain_node(scene: Scene) -> str:
    node = scene.random.choice(NODES)
    await _empty(scene, node)
    await scene.machines.drain(scene.machines.address(node), off=True)
    return f"node {node} is drained, and taken back"


async def join_and_leave(scene: Scene) -> str:
    machines = scene.machines
    machines.start(GUEST)
    at = machines.address(GUEST)
    await machines.until(lambda found: any(n.owners for n in found.nodes if n.address == at))
    await machines.until_whole()
    await scene.clients.move_on()
    await _empty(scene, GUEST)
    await machines.stop(GUEST)
    machines.wipe(GUEST)
    return f"node {GUEST} joins, is drained and leaves"


async def wipe_node(scene: Scene) -> str:
    """It comes back as a new store, and has everything when the old one's grace (60 s) is over."""
    node = scene.random.choice(NODES)
    await scene.machines.kill(node)
    scene.machines.wipe(node)
    await scene.clients.move_on()
    scene.machines.start(node)
    return f"node {node} comes back with an empty disk"


async def replace_node(scene: Scene) -> str:
    """As above, but the operator does not wait: the lost store is drained."""
    machines, node = scene.machines, scene.random.choice(NODES)
    lost = await machines.store_of(node)
    await machines.kill(node)
    machines.wipe(node)
    await machines.drain(lost)
    await scene.clients.move_on()
    machines.start(node)
    return f"node {node} comes back with an empty disk, and its old store is drained"


async def _empty(scene: Scene, node: str) -> None:
    at = scene.machines.address(node)
    await scene.machines.drain(at)
    await scene.machines.until(
        lambda found: not any(n.owners or n.replicas for n in found.nodes if n.address == at)
    )
    await scene.clients.move_on()


SHORT: tuple[Fault, ...] = (
    kill_node, kill_worker, kill_leaving_node, kill_joining_node, kill_router, kill_etcd, stop_etcd,
    freeze_node, freeze_router, cut_nodes, cut_nodes_one_way, cut_etcd, cut_etcd_one_way, isolate_node,
    cut_router, drain_node, join_and_leave, replace_node,
)  # fmt: skip
LONG: tuple[Fault, ...] = (*SHORT, restart_all, wipe_node)
# What is not among the figures: callers whose only way is frozen, until that is noticed.
CUT_OFF: frozenset[Fault] = frozenset({freeze_router})
