"""A file that only takes up room, so that there is some when the disk is full.

A database that cannot write cannot be repaired or even opened, and on a full disk there is nothing of Roost's
that may be deleted by hand. This file may: `BALLAST` in the data directory. It comes back at the next start that
finds enough room.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

BALLAST = "BALLAST"
ROOM = 10  # it is made only where so many times its size is free


def keep_ballast(directory: Path, size_bytes: int) -> None:
    """Make the file, make it another size, or delete it (0)."""
    path = directory / BALLAST
    try:
        if path.exists() and path.stat().st_size == size_bytes:
            return
        path.unlink(missing_ok=True)
        disk = os.statvfs(directory)
        if not size_bytes or disk.f_bavail * disk.f_frsize < ROOM * size_bytes:
            return
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.posix_fallocate(handle, 0, size_bytes)
        finally:
            os.close(handle)
    except OSError as error:
        path.unlink(missing_ok=True)
        log.warning("no ballast", extra={"path": str(path), "why": error.strerror})
