"""How large shards are thought to be."""

from __future__ import annotations

from pathlib import Path

from roost.cluster.ids import ShardId
from roost_node.storage.engine import TableFile
from roost_node.storage.rocks import RocksStore
from roost_node.storage.sizes import FRESH_S, ShardSizes, estimate


def shards(*numbers: int) -> list[ShardId]:
    return [ShardId(number) for number in numbers]


def test_a_file_is_shared_by_the_copies_between_its_ends_and_memory_by_all() -> None:
    files = [TableFile(900, 0, 2), TableFile(100, 2, 0xFFFF)]
    assert estimate(files, 30, shards(0, 1, 2), 3) == {0: 310, 1: 310, 2: 410}


def test_a_shard_without_a_copy_here_is_as_large_as_the_mean() -> None:
    files = [TableFile(900, 0, 3)]
    assert estimate(files, 0, shards(1, 2), 4) == {0: 450, 1: 450, 2: 450, 3: 450}
    assert estimate(files, 10, [], 4) == {}


def test_a_store_tells_what_its_files_and_its_memory_hold_and_is_not_asked_all_the_time(
    tmp_path: Path,
) -> None:
    store = RocksStore.open(tmp_path, shards=4, cluster_id="c", seed=bytes(16))
    now_s = 100.0
    held: list[ShardId] = []
    sizes = ShardSizes(store, lambda: held, lambda: now_s)

    def fill(shard: int, count: int) -> None:
        rows = [
            (shard.to_bytes(2, "big") + b"\x20%d" % n, b"%d" % hash((shard, n)) * 50)
            for n in range(count)
        ]
        assert store.write(rows)

    try:
        assert sizes() == {}
        held += shards(0, 1)  # seen at once: of nothing there is no estimate to be fresh
        fill(0, 400)
        in_memory = sizes()[ShardId(0)]
        assert in_memory > 100_000
        store.flush()
        fill(1, 10)
        assert sizes()[ShardId(0)] == in_memory, "it is fresh enough"
        now_s += FRESH_S
        assert sizes()[ShardId(0)] > sizes()[ShardId(1)] > 0
    finally:
        store.close()
