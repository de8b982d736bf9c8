"""A data directory: whose it is, what it holds, and that one process has it.

```
LOCK         flock'ed by the process that has the store open; holds its pid
ROOST.json   format, store id, cluster id, hash, seed, shards; written last on creation
DURABLE      the database's sequence number as of the last flush (see `rocks.py`)
db/          RocksDB
```

A directory that is not empty and has no ROOST.json is refused, unless all it holds is what an
unfinished creation of ours leaves behind.
"""

from __future__ import annotations

import fcntl
import json
import os
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
        cls, path: Path, *, shards: int = SHARDS_DEFAULT, cluster_id: str | None = None
    ) -> Directory:
        """Lock the directory and read who it is; create it where there is none.

        `finish` must follow on a new one, once the database in it exists. Raises `StoreError`.
        """
        if shards < 1 or shards > SHARDS_MAX or shards & (shards - 1):
            raise StoreError(f"{shards} shards: give a power of two up to {SHARDS_MAX}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()}
        except OSError as error:
            raise StoreError(f"{path} cannot be used as a data directory: {error}") from error
        if MARK not in names and names - OURS:
            raise StoreError(
                f"{path} is not a Roost data directory and is not empty (it has "
                f"{', '.join(sorted(names - OURS)[:3])}): give an empty or a new directory"
            )
        lock = _lock(path)
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
                secrets.token_bytes(16),
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


def _lock(path: Path) -> int:
    file = path / LOCK
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise StoreError(
            f"{path} is in use by process {holder}: stop that one, or give another directory"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _read(mark: Path) -> Identity:
    try:
        content = json.loads(mark.read_text())
        found = content["format"]
        if not isinstance(found, int) or found < 1:
            raise StoreError(f"{mark} has the unknown format {found!r}")
        if found > FORMAT:
            raise StoreError(
                f"{mark} has format {found}, this build reads up to {FORMAT}: run a newer build"
            )
        if content["hash"] != HASH_NAME:
            raise StoreError(
                f"{mark} names the unknown hash {content['hash']!r}: run a newer build"
            )
        return Identity(
            str(content["store_id"]),
            str(content["cluster_id"]),
            bytes.fromhex(content["seed"]),
            int(content["shards"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{mark} cannot be read ({error!r}): restore it from a backup") from error
