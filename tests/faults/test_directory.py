"""A data directory that is not what it should be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from roost.errors import CorruptionError, StoreError
from roost_node.storage.directory import DATABASE, DURABLE, LOCK, MARK, Directory
from roost_node.storage.rocks import RocksStore


def change(path: Path, **values: object) -> None:
    mark = path / MARK
    mark.write_text(json.dumps({**json.loads(mark.read_text()), **values}))


def test_a_directory_keeps_its_identity(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path / "s", shards=64)
    identity = (store.store_id, store.cluster_id, store.seed, store.shards)
    store.close()
    store = RocksStore.open(tmp_path / "s", shards=1024)
    assert (store.store_id, store.cluster_id, store.seed, store.shards) == identity
    store.close()


def test_a_directory_is_open_once(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    with pytest.raises(StoreError, match="in use by process"):
        RocksStore.open(tmp_path)
    store.close()
    RocksStore.open(tmp_path).close()


def test_somebody_elses_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match=r"not a Roost data directory.*thesis\.tex"):
        RocksStore.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 2}, "newer build"),
        ({"format": "x"}, "unknown format"),
        ({"hash": "md5"}, "unknown hash"),
        ({"seed": "zz"}, "cannot be read"),
        ({"seed": "00" * 65}, "cannot be read"),
        ({"shards": 1000}, "cannot be read"),
    ],
)
def test_an_identity_that_is_not_understood_is_refused(
    tmp_path: Path, values: dict[str, object], message: str
) -> None:
    RocksStore.open(tmp_path).close()
    change(tmp_path, **values)
    with pytest.raises(StoreError, match=message):
        RocksStore.open(tmp_path)


def test_another_clusters_directory_is_refused(tmp_path: Path) -> None:
    RocksStore.open(tmp_path, cluster_id="one").close()
    with pytest.raises(StoreError, match="belongs to cluster one"):
        RocksStore.open(tmp_path, cluster_id="two")


@pytest.mark.parametrize("left", [[], [DURABLE], [DURABLE, DATABASE], [MARK + ".tmp", DATABASE]])
def test_an_unfinished_creation_is_finished(tmp_path: Path, left: list[str]) -> None:
    (tmp_path / LOCK).write_text("4711\n")  # comes first
    for name in left:
        if name == DATABASE:
            (tmp_path / name).mkdir()
            (tmp_path / name / "CURRENT").write_text("half")
        else:
            (tmp_path / name).write_bytes(b"x" * 12)
    store = RocksStore.open(tmp_path)
    store.write([(b"k", b"v")])
    store.close()
    assert RocksStore.open(tmp_path).get(b"k") == b"v"


@pytest.mark.parametrize("lock", [None, "", "held by thesis.tex\n"])
def test_a_folder_that_only_looks_like_an_unfinished_creation_is_left_alone(
    tmp_path: Path, lock: str | None
) -> None:
    (tmp_path / DATABASE).mkdir()
    (tmp_path / DATABASE / "customers.mdb").write_text("mine")
    if lock is not None:
        (tmp_path / LOCK).write_text(lock)
    with pytest.raises(StoreError, match="not a Roost data directory"):
        RocksStore.open(tmp_path)
    assert (tmp_path / DATABASE / "customers.mdb").read_text() == "mine"


def test_the_root_of_a_fresh_file_system_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    RocksStore.open(tmp_path).close()
    assert (tmp_path / "lost+found").exists()


def test_the_lock_names_its_holder_and_a_lock_without_one_can_be_taken(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()  # killed before it wrote its pid
    store = RocksStore.open(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    store.close()


def test_a_creation_that_is_killed_at_any_step_leaves_nothing_half_done(tmp_path: Path) -> None:
    directory = Directory.open(tmp_path)
    directory.close()  # as if the process had ended before `finish`
    store = RocksStore.open(tmp_path)
    store.close()
    assert (tmp_path / MARK).exists()


def test_a_directory_without_its_database_is_corrupt_not_empty(tmp_path: Path) -> None:
    store = RocksStore.open(tmp_path)
    store.write([(b"k", b"v")])
    store.sync()
    store.close()
    for file in (tmp_path / DATABASE).iterdir():
        file.unlink()
    (tmp_path / DURABLE).unlink()  # without a mark an empty database would look fine
    with pytest.raises(CorruptionError, match="has no database"):
        RocksStore.open(tmp_path)
    assert not list((tmp_path / DATABASE).iterdir())


def test_a_node_refuses_to_run_without_assertions(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("from roost import DurableObject\nclass A(DurableObject): pass\n")
    command = [
        sys.executable,
        "-O",
        "-m",
        "roost_node",
        "node",
        str(app),
        "--data",
        str(tmp_path / "d"),
    ]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
    assert b"python -O" in done.stderr
