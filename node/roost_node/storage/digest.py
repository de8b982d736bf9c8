"""The hash of a piece of a shard's state, row by row: equal at all stores whose state is at the same entry.

Left out is what each store writes for itself: how far its state has come (head) and what it knows of its copy
(replica); and the log, which stores cut at different places. All other rows came from the owner, byte for byte; what a
sweep of records deletes, it deletes by an entry, so it is gone everywhere after the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from roost_node.storage import layout
from roost_node.storage.engine import Store

LENGTH_BYTES = 4


class PieceDigest:
    """Hashes one piece as it was when this was made, some bytes at a time; any thread may do it.

    The store keeps what is replaced meanwhile: see it to its end, or `close` it.
    """

    def __init__(self, store: Store, shard: int, start: bytes, bytes_max: int) -> None:
        first, end = layout.audited_range(shard)
        self._rows: Iterator[tuple[bytes, bytes]] = store.iterate(max(first, start), end)
        self._left = bytes_max
        self._hash = hashlib.blake2b(digest_size=32)
        self.next_key = b""  # the first of the next piece; empty: this was the last one
        self.digest = b""
        self.size_bytes = 0

    def go_on(self, bytes_max: int) -> bool:
        """Hash about so many bytes. False: that was the end. Raises CorruptionError."""
        add = self._hash.update
        for key, value in self._rows:
            if self._left <= 0:
                self.next_key = key
                break
            for part in (key, value):
                add(len(part).to_bytes(LENGTH_BYTES, "big"))
                add(part)
            size = len(key) + len(value)
            self.size_bytes += size
            self._left -= size
            bytes_max -= size
            if bytes_max <= 0:
                return True
        add(self.next_key)
        self.digest = self._hash.digest()
        self.close()
        return False

    def close(self) -> None:
        """Let the store forget what it kept for this."""
        self._rows = iter(())
