"""A directory that a node alone has written begins a cluster: whoever else starts at once, and wherever it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import roost
from cluster.app import Counter
from roost.errors import StoreError
from roost_node.cluster import cluster_store
from roost_node.config import NodeConfig
from roost_node.core.record import ClusterConfig
from roost_node.ownership.faulty_registry import FaultyRegistry
from roost_node.ownership.memory import FAIR, Fate, MemoryCoordinator
from roost_node.storage.rocks import RocksStore

NAMES = ("alone", "b", "c")


def write_alone(path: Path) -> None:
    async def write() -> None:
        async with roost.local(Counter, path=path) as cluster:
            assert await cluster.object(Counter, "kept").increment() == 1

    asyncio.run(write())


class Door:
    """Where nodes begin, over one coordination store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = FaultyRegistry()
        self.fate = FAIR
        self.store_ids: dict[str, str] = {}

    async def begin(self, name: str) -> ClusterConfig:
        coordinator = MemoryCoordinator(self.registry, lambda _: self.fate, request_s=0.1)
        store, config = await cluster_store(coordinator, NodeConfig(data=self.folder / name))
        self.store_ids[name] = store.store_id
        store.close()
        return config


def played(folder: Path, story: Callable[[Door], Awaitable[None]]) -> None:
    write_alone(folder / "alone")

    async def run() -> None:
        await story(Door(folder))

    asyncio.run(run())


def test_the_first_record_of_the_cluster_names_its_founder(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        config = await door.begin("alone")
        assert (config.founder, config.first_epoch) == (door.store_ids["alone"], 2)
        for name in ("b", "c", "alone"):  # it may die before it has a session, and begin again
            assert await door.begin(name) == config

    played(tmp_path, story)


def test_in_a_cluster_that_others_began_it_is_refused(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        assert (await door.begin("b")).founder == ""
        for _ in range(2):
            with pytest.raises(StoreError, match="it can begin a cluster, not join one"):
                await door.begin("alone")
        write_here = await asyncio.to_thread(_read_alone, tmp_path / "alone")
        assert write_here == 1, "what was refused was left as it was"

    played(tmp_path, story)


def test_objects_that_came_after_the_cluster_are_not_its_first(tmp_path: Path) -> None:
    door = Door(tmp_path)
    RocksStore.open(tmp_path / "alone").close()
    assert asyncio.run(door.begin("alone")).founder == "", (
        "it had nothing, and died before it had a session"
    )
    write_alone(tmp_path / "alone")
    with pytest.raises(StoreError, match="it can begin a cluster, not join one"):
        asyncio.run(door.begin("alone"))


@pytest.mark.parametrize("turn", range(3))
def test_of_nodes_that_start_at_once_one_begins_the_cluster(tmp_path: Path, turn: int) -> None:
    async def story(door: Door) -> None:
        order = NAMES[turn:] + NAMES[:turn]
        found = await asyncio.gather(*map(door.begin, order), return_exceptions=True)
        configs = [each for each in found if isinstance(each, ClusterConfig)]
        assert len({config.cluster_id for config in configs}) == 1
        alone = found[order.index("alone")]
        if isinstance(alone, ClusterConfig):
            assert alone.founder == door.store_ids["alone"]
        else:
            assert isinstance(alone, StoreError)
            assert configs[0].founder == ""

    played(tmp_path, story)


def test_an_answer_that_was_lost_is_asked_for_again(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        door.fate = Fate(answer_lost=True)
        beginning = asyncio.create_task(door.begin("alone"))
        async with asyncio.timeout(30):
            while door.registry.registry.config is None:
                await asyncio.sleep(0.01)
        door.fate = FAIR
        config = await beginning
        assert config == door.registry.registry.config
        assert config.founder == door.store_ids["alone"]

    played(tmp_path, story)


def _read_alone(path: Path) -> int:
    async def read() -> int:
        async with roost.local(Counter, path=path) as cluster:
            return await cluster.object(Counter, "kept").get()

    return asyncio.run(read())
