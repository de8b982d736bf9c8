"""A data directory: whose it is, what it holds, and that one process has it.

```
LOCK         flock'ed by the process that has the store open; holds its pid; written first on creation
ROOST.json   format, store id, cluster id, hash, seed, shards; written last on creation
DURABLE      how far the database was flushed (see `durable.py`)
BALLAST      takes up room, to be deleted when there is none (see `ballast.py`)
db/          RocksDB
recovering/  second names of the log's files while the database opens (see `rocks.py`)
damaged-log/ the same, left by an opening that was refused
```

A directory that is not empty and has no ROOST.json is refused, unless all it holds is what an
unfinished creation of ours leaves behind: that is thrown away, so it must be told from somebody's
folder that has a `db` in it. Ours has LOCK with a pid, on the disk before anything else.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from roost.cluster.ids import HASH_NAME, SHARDS_DEFAULT, SHARDS_MAX
from roost.errors import StoreError

FORMAT = 1
LOCK = "LOCK"
MARK = "ROOST.json"
DURABLE = "DURABLE"
DATABASE = "db"
OURS = {LOCK, DURABLE, DATABASE, MARK + ".tmp"}
IGNORED = {"lost+found"}  # what a fresh file system has in its root
SEED_BYTES_MAX = 64
PID = re.compile(rb"[0-9]+\n")


@dataclass(frozen=True, slots=True)
class Identity:
    """What ROOST.json says: fixed when the directory is created."""

    store_id: str
    cluster_id: str
    seed: bytes
    shards: int


class Directory:
    """An open data directory, locked by this process."""

    def __init__(self, path: Path, lock: int, identity: Identity, *, created: bool) -> None:
        self.path = path
        self.identity = identity
        self.created = created
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        shards: int = SHARDS_DEFAULT,
        cluster_id: str | None = None,
        seed: bytes | None = None,
        create: bool = True,
    ) -> Directory:
        """Lock the directory and read who it is; create it where there is none, if `create`.

        `finish` must follow on a new one, once the database in it exists. Raises `StoreError`.
        """
        if not _is_count_of_shards(shards):
            raise StoreError(f"{shards} shards: give a power of two up to {SHARDS_MAX}")
        if not create and not (path / MARK).exists():
            raise StoreError(f"{path} is not a Roost data directory: it has no {MARK}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()} - IGNORED
            if names and MARK not in names:
                _check_unfinished(path, names)
            lock = _lock(path)
        except OSError as error:
            raise StoreError(f"{path} cannot be used as a data directory: {error}") from error
        try:
            mark = path / MARK
            if mark.exists():
                identity = _read(mark)
                if cluster_id is not None and identity.cluster_id != cluster_id:
                    raise StoreError(
                        f"{path} belongs to cluster {identity.cluster_id}, not to {cluster_id}: "
                        f"give this cluster's directory, or an empty one"
                    )
                return cls(path, lock, identity, created=False)
            identity = Identity(
                secrets.token_hex(16),
                cluster_id or secrets.token_hex(16),
                seed if seed is not None else secrets.token_bytes(16),
                shards,
            )
            return cls(path, lock, identity, created=True)
        except BaseException:
            os.close(lock)
            raise

    def finish(self) -> None:
        """Creation is complete: write ROOST.json so that it is there whole or not at all."""
        identity = self.identity
        temporary = self.path / (MARK + ".tmp")
        text = json.dumps(
            {
                "format": FORMAT,
                "store_id": identity.store_id,
                "cluster_id": identity.cluster_id,
                "hash": HASH_NAME,
                "seed": identity.seed.hex(),
                "shards": identity.shards,
            },
            indent=2,
        )
        with temporary.open("w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path / MARK)
        sync_directory(self.path)
        sync_directory(self.path.parent)
        self.created = False

    def close(self) -> None:
        """Let others have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_count_of_shards(shards: int) -> bool:
    return 1 <= shards <= SHARDS_MAX and not shards & (shards - 1)


def _check_unfinished(path: Path, names: set[str]) -> None:
    """Refuse a directory without identity unless all of it is an unfinished creation of ours."""
    others = names - OURS
    if not others and (names == {LOCK} or _is_pid(path / LOCK)):
        return
    raise StoreError(
        f"{path} is not a Roost data directory and is not empty (it has "
        f"{', '.join(sorted(others or names)[:3])}): give an empty or a new directory"
    )


def _is_pid(lock: Path) -> bool:
    return lock.is_file() and PID.fullmatch(lock.read_bytes()[:32]) is not None


def _lock(path: Path) -> int:
    file = path / LOCK
    new = not file.exists()
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise  # a file system without locks cannot hold a store
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StoreError(
                f"{path} is in use by process {holder}: stop that one, or give another directory"
            ) from None
        pid = f"{os.getpid()}\n".encode()
        os.pwrite(handle, pid, 0)  # before the cut: a kill between them leaves a number
        os.ftruncate(handle, len(pid))
        if new:
            os.fsync(handle)
            sync_directory(path)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _read(mark: Path) -> Identity:
    try:
        content = json.loads(mark.read_text())
        found = content["format"]
        if not isinstance(found, int) or found < 1:
            raise StoreError(
                f"{mark} has the unknown format {found!r}: restore it from a backup, or run the "
                f"build that wrote it"
            )
        if found > FORMAT:
            raise StoreError(
                f"{mark} has format {found}, this build reads up to {FORMAT}: run a newer build"
            )
        if content["hash"] != HASH_NAME:
            raise StoreError(
                f"{mark} names the unknown hash {content['hash']!r}: run a newer build"
            )
        seed, shards = bytes.fromhex(content["seed"]), int(content["shards"])
        if len(seed) > SEED_BYTES_MAX or not _is_count_of_shards(shards):
            raise ValueError(f"{len(seed)} bytes of seed, {shards} shards")
        return Identity(str(content["store_id"]), str(content["cluster_id"]), seed, shards)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{mark} cannot be read ({error!r}): restore it from a backup") from error
