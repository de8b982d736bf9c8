"""Which maps a node believes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from roost_node.core.log import Op
from roost_node.core.record import ClusterConfig, Map
from roost_node.ownership.coordinator import Restored
from roost_node.replication.generation import Believed, read_generation, settle_generation
from roost_node.storage.memory import MemoryStore


def at(generation: int, revision: int) -> Map:
    return Map(revision, ClusterConfig("c", 4, b"", "", generation=generation), {}, {}, {})


class Disk:
    """Writes when it is told to."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.ordered: list[tuple[Sequence[Op], Callable[[], None]]] = []

    def write(self, ops: Sequence[Op], done: Callable[[], None]) -> None:
        self.ordered.append((ops, done))

    def flush(self) -> None:
        ordered, self.ordered = self.ordered, []
        for ops, done in ordered:
            self.store.write(ops)
            self.store.sync()
            done()


def test_a_higher_generation_is_on_the_disk_before_anything_of_it_is_acted_on() -> None:
    disk, again = Disk(), []
    believed = Believed(1, disk.write)

    def takes(generation: int, revision: int) -> bool:
        return believed.takes(at(generation, revision), None, lambda: again.append(1))

    assert takes(1, 10)
    assert not takes(2, 5)
    assert not takes(2, 6), "and it is written once"
    assert len(disk.ordered) == 1
    assert not again
    disk.flush()
    assert again == [1], "the node is to look again"
    assert read_generation(disk.store.crash()) == 2
    assert takes(2, 7)
    assert not takes(1, 900)


@pytest.mark.parametrize("restored", [None, Restored(90, 50)])
def test_in_a_generation_nothing_is_believed_once_the_store_went_back(
    restored: Restored | None, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    believed = Believed(1, disk.write)
    assert believed.takes(at(1, 90), None, list)
    revision = 50 if restored is None else 90
    for _ in range(3):
        assert not believed.takes(at(1, revision), restored, list)
    assert not believed.takes(at(1, 500), restored, list), "however far it comes"
    assert caplog.text.count("gone back in time") == 1
    assert not believed.takes(at(2, 7), restored, list)
    disk.flush()
    assert believed.takes(at(2, 8), restored, list)


def test_a_start_takes_the_higher_one_and_keeps_it(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    assert settle_generation(store, 1) == 1
    assert read_generation(store.crash()) == 1
    assert settle_generation(store, 3) == 3
    assert read_generation(store.crash()) == 3
    assert not caplog.records
    assert settle_generation(store, 2) == 3
    assert "older than this store" in caplog.text
    assert read_generation(store) == 3
