"""Faults of the disk, on the real store."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import roost
from roost.errors import CorruptionError
from roost_node.host.loader import specs_of
from roost_node.node import Node
from roost_node.storage import rocks
from roost_node.storage.ballast import BALLAST, keep_ballast
from roost_node.storage.rocks import RocksStore, verify


class Cell(roost.DurableObject):
    value: str = ""

    async def put(self, value: str) -> None:
        self.value = value

    async def get(self) -> str:
        return self.value

    @roost.method(read_only=True)
    async def read(self) -> str:
        return self.value


def written(path: Path, count: int) -> None:
    """A store that was killed after `count` flushed batches (a copy of its files, while it is open)."""
    store = RocksStore.open(path / "live")
    for number in range(count):
        store.write([(f"{number:06}".encode(), b"v" * 100)])
        store.sync()
    shutil.copytree(path / "live", path / "copy")
    store.close()


def wal(path: Path) -> Path:
    logs = sorted((path / "copy" / "db").glob("*.log"), key=lambda p: p.stat().st_size)
    return logs[-1]


def test_everything_flushed_is_there_after_a_kill(tmp_path: Path) -> None:
    written(tmp_path, 200)
    store = RocksStore.open(tmp_path / "copy")
    assert len(list(store.iterate(b"", b"\xff"))) == 200
    store.close()


def test_a_torn_tail_of_the_log_that_was_not_flushed_is_dropped(tmp_path: Path) -> None:
    written(tmp_path, 100)
    with wal(tmp_path).open("ab") as log:
        log.write(b"\x12\x34\x56\x78\x40\x00\x01half of a record that was being written")
    store = RocksStore.open(tmp_path / "copy")
    assert len(list(store.iterate(b"", b"\xff"))) == 100
    store.close()


def test_a_flipped_byte_in_the_flushed_log_is_noticed(tmp_path: Path) -> None:
    written(tmp_path, 1000)
    log = wal(tmp_path)
    raw = bytearray(log.read_bytes())
    raw[len(raw) // 2] ^= 0x40
    log.write_bytes(raw)
    with pytest.raises(CorruptionError, match=r"ends at \d+, but \d+ was flushed"):
        RocksStore.open(tmp_path / "copy")
    (tmp_path / "copy" / "DURABLE").unlink()  # the way out that the message names
    store = RocksStore.open(tmp_path / "copy")
    assert 0 < len(list(store.iterate(b"", b"\xff"))) < 1000
    store.close()


def test_a_flipped_byte_in_a_table_is_an_error_for_its_rows_alone(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    rng = random.Random(7)
    rows = {f"{number:06}".encode(): rng.randbytes(400) for number in range(5000)}
    store.write(list(rows.items()))
    store.flush()
    store.close()
    table = max((tmp_path / "db").glob("*.sst"), key=lambda p: p.stat().st_size)
    raw = bytearray(table.read_bytes())
    raw[len(raw) // 3] ^= 0x01
    table.write_bytes(raw)
    store = RocksStore.open(tmp_path)
    fine = corrupt = 0
    for key, value in rows.items():
        try:
            found = store.get(key)
        except CorruptionError as error:
            corrupt += key.hex() in str(error)
        else:
            fine += found == value
    assert 0 < corrupt < 100
    assert fine + corrupt == len(rows)
    with pytest.raises(CorruptionError):
        list(store.iterate(b"", b"\xff"))
    store.close()
    with pytest.raises(CorruptionError):
        verify(tmp_path)


def test_calls_to_objects_on_a_corrupt_block_fail_and_others_go_on(tmp_path: Path) -> None:
    text = {f"{n}": random.Random(n).randbytes(300).hex() for n in range(2000)}

    async def fill() -> None:
        async with roost.local(Cell, path=tmp_path) as cluster:
            await asyncio.gather(*(cluster.object(Cell, k).put(v) for k, v in text.items()))

    async def read() -> tuple[int, int]:
        fine = corrupt = 0
        async with roost.local(Cell, path=tmp_path) as cluster:
            for key, value in text.items():
                try:
                    assert await cluster.object(Cell, key).get() == value
                    fine += 1
                except CorruptionError:
                    corrupt += 1
        return fine, corrupt

    asyncio.run(fill())
    store = RocksStore.open(tmp_path)
    store.flush()
    store.close()
    table = max((tmp_path / "db").glob("*.sst"), key=lambda p: p.stat().st_size)
    raw = bytearray(table.read_bytes())
    raw[len(raw) // 3] ^= 0x01
    table.write_bytes(raw)
    fine, corrupt = asyncio.run(read())
    assert corrupt > 0
    assert fine > 1500


class Faulty(RocksStore):
    """A store whose next write stalls, or whose flush fails."""

    stalls = 0
    broken = False

    def write(self, ops: Any) -> bool:
        if self.stalls:
            self.stalls -= 1
            return False
        return super().write(ops)

    def sync(self) -> None:
        if self.broken:
            raise OSError(5, "Input/output error")
        super().sync()


def faulty(path: Path) -> Faulty:
    store = Faulty.open(path)
    assert isinstance(store, Faulty)
    return store


def test_a_write_stall_delays_and_loses_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = faulty(tmp_path)
        from roost.client import Cluster
        from roost_node.embedded import Embedded

        link = Embedded(None)
        link.node = await Node(tmp_path, specs_of([Cell]), link.on_fatal, store=store).__aenter__()
        async with Cluster(link) as cluster:
            store.stalls = 20
            await asyncio.gather(*(cluster.object(Cell, f"{n}").put("x") for n in range(50)))
            assert store.stalls == 0
            assert link.node.telemetry.write_stalls == 20
            assert await cluster.object(Cell, "7").get() == "x"

    asyncio.run(scenario())


def test_after_a_failed_flush_nothing_more_is_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = faulty(tmp_path)
        from roost.client import Cluster
        from roost_node.embedded import Embedded

        link = Embedded(None)
        link.node = await Node(tmp_path, specs_of([Cell]), link.on_fatal, store=store).__aenter__()
        async with Cluster(link) as cluster:
            await cluster.object(Cell, "a").put("before")
            store.broken = True
            with pytest.raises(roost.OutcomeUnknownError):
                await roost.options(cluster.object(Cell, "a"), timeout=0.3).put(
                    "never acknowledged"
                )
            with pytest.raises(roost.OutcomeUnknownError, match="store has failed"):
                await roost.options(cluster.object(Cell, "b"), timeout=3).get()
            store.broken = False  # only so that closing works

    asyncio.run(scenario())


SERVER = """
import sys
from roost_node.storage.rocks import RocksStore
import os
flush = RocksStore.sync
def sync(self):
    if os.path.exists(sys.argv[0] + ".broken"):
        raise OSError(5, "Input/output error")
    flush(self)
RocksStore.sync = sync
from roost.cli import main
main()
"""


def test_a_failed_flush_ends_the_process_and_a_restart_is_clean(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    app = tmp_path / "app.py"
    app.write_text(
        "import roost\nclass Cell(roost.DurableObject):\n    value: str = ''\n"
        "    async def put(self, value: str) -> None:\n        self.value = value\n"
        "    async def get(self) -> str:\n        return self.value\n"
    )
    port = 20_000 + os.getpid() % 20_000
    command = [
        sys.executable,
        str(script),
        "node",
        str(app),
        "--data",
        str(tmp_path / "d"),
        "--port",
        str(port),
    ]

    async def put(value: str) -> None:
        async with roost.connect(f"127.0.0.1:{port}", timeout=3.0, connect_timeout=15.0) as cluster:
            await cluster.object("Cell", "c").put(value)

    async def get() -> str:
        async with roost.connect(f"127.0.0.1:{port}", connect_timeout=15.0) as cluster:
            value: str = await cluster.object("Cell", "c").get()
            return value

    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    asyncio.run(put("kept"))
    Path(str(script) + ".broken").touch()
    with pytest.raises(roost.RoostError):
        asyncio.run(put("not acknowledged"))
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 70
    assert b"the store failed" in stderr
    Path(str(script) + ".broken").unlink()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        assert asyncio.run(get()) in ("kept", "not acknowledged")
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_a_full_disk_refuses_writes_and_serves_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with roost.local(Cell, path=tmp_path) as cluster:
            cell = cluster.object(Cell, "c")
            await cell.put("x")
            monkeypatch.setattr(RocksStore, "free_bytes", lambda self: 10)
            monkeypatch.setattr(RocksStore, "total_bytes", lambda self: 1000)
            refused = None
            while refused is None:  # free space is looked at now and then
                try:
                    await roost.options(cell, timeout=0.2).put("y")
                    await asyncio.sleep(0.02)
                except roost.DiskFullError as error:
                    refused = error
            assert "10 of 1000 bytes free" in str(refused)
            assert await cluster.object(Cell, "other").read() == ""
            monkeypatch.undo()
            await cell.put("z")  # retried until there is room again
            assert await cell.get() == "z"

    asyncio.run(scenario())


def test_raw_mode_is_on_so_nothing_is_ever_pickled(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    with pytest.raises(Exception, match=r"."):
        store._database.put("a str", object())
    store.close()
    assert "pickle" not in Path(rocks.__file__).read_text().replace("never pickle", "")


def test_a_store_that_is_short_of_disk_says_so_until_there_is_clearly_more_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 100
    monkeypatch.setattr(RocksStore, "free_bytes", lambda _: free)
    monkeypatch.setattr(RocksStore, "total_bytes", lambda _: 1000)

    async def story() -> None:
        nonlocal free
        async with Node(tmp_path / "data", specs_of([Cell]), _fail) as node:
            host = node.host
            for free, is_short, refuses in (
                (51, False, False),
                (49, True, True),
                (60, True, False),  # writes go on, but nothing comes back yet
                (74, True, False),
                (75, False, False),
                (60, False, False),
            ):
                host.keeper._watch_disk()
                found = host.is_short_of_disk, host.refuse_writes is not None
                assert found == (is_short, refuses), free

    asyncio.run(story())


def _fail(error: BaseException) -> None:
    raise error


def test_the_ballast_is_real_room_and_comes_back_when_there_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / BALLAST
    keep_ballast(tmp_path, 2**20)
    assert file.stat().st_blocks * 512 >= 2**20, "not a hole"
    keep_ballast(tmp_path, 2**16)
    assert file.stat().st_size == 2**16
    keep_ballast(tmp_path, 0)
    assert not file.exists()
    keep_ballast(tmp_path, 2**60)  # more than there is
    assert not file.exists()

    def full(_: int, __: int, ___: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    keep_ballast(tmp_path, 2**16)
    assert not file.exists(), "half a file would be no help"
