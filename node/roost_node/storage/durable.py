"""How far the database was flushed, kept beside it: so that a lost tail is noticed.

RocksDB takes a damaged record in its write-ahead log for the end of the log, and opens without an
error and without everything after it. The file DURABLE says how far the log reached when it was last
flushed; a database that opens below that has lost something.

```
DURABLE = sequence number (8 bytes, big-endian) crc32 of it (4 bytes)
```

Invariant: the number is never above what a flush has made durable. Below is harmless, so the file has
no flush of its own: a kill keeps it whole (it is in the page cache), a power cut may bring an older one
back. It is smaller than a sector, and written in place. On disks already: this can never change.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

DURABLE_BYTES = 12


class DurableMark:
    """The open file, and what it says."""

    def __init__(self, path: Path) -> None:
        new = not path.exists()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if new:
            os.pwrite(self._handle, bytes(DURABLE_BYTES), 0)
            os.fsync(self._handle)
        self.sequence = _parse(os.pread(self._handle, DURABLE_BYTES, 0))

    def raise_to(self, sequence: int) -> None:
        """Everything up to `sequence` has been flushed."""
        if sequence > self.sequence:
            raw = struct.pack(">Q", sequence)
            os.pwrite(self._handle, raw + struct.pack(">I", zlib.crc32(raw)), 0)
            self.sequence = sequence

    def close(self) -> None:
        """Let go of the file; closing twice is nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _parse(raw: bytes) -> int:
    """The sequence number; 0 where there is none that its checksum vouches for."""
    if len(raw) < DURABLE_BYTES or struct.unpack(">I", raw[8:])[0] != zlib.crc32(raw[:8]):
        return 0
    number: int = struct.unpack(">Q", raw[:8])[0]
    return number
