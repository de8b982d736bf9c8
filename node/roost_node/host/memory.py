"""Giving memory back when many objects have left.

Python gives memory back by the whole MiB, and only where nothing is left in it; the C library by the
page, and only when told. What objects took is strewn with what outlives them: so spare pieces that
Python keeps are dropped, tables that were sized for the objects are made anew, and so are the small
values that calls have left (`core/repack.py`), before the rest is trimmed. What that is worth stands
in docs/performance.md.

Not here: when that is (`keeper.py`), and which objects leave (`core/eviction.py`).
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from roost_node.core.repack import Part, repack

if TYPE_CHECKING:
    from roost_node.host.host import Host

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE_BLOCK_BYTES = 2**20  # memtables grow by this


class Memory:
    """Gives a host's memory back."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._trim = _malloc_trim()

    def trim(self) -> None:
        """What is free goes back to the system."""
        self._trim()

    def give_back(self, left: int) -> None:
        """After so many objects have left."""
        host = self._host
        if left > len(host.activations):  # else looking through these costs more than it frees
            _forget_spares()
            host.activations = dict(host.activations)
            host.ring.repack()
        parts: list[Part] = [host.admission, host.committer, *host.telemetry.parts()]
        for shard in host.objects.shards():
            parts += shard.parts()
        repack(parts)
        self._trim()


def _forget_spares() -> None:
    """Drop what Python keeps in case it is needed: spare tuples and lists, names of attributes.

    Each lies where it was last used, and keeps a whole MiB from being given back. Only a full
    collection drops the spares. It takes no time where everything can be set aside while it runs; where
    somebody has set things aside for good, nothing can be taken back but all of it.
    """
    if gc.get_freeze_count():
        gc.collect()
    else:
        gc.freeze()
        gc.collect()
        gc.unfreeze()
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
    clear()


def return_large_blocks() -> None:
    """Have the C library give blocks of a MiB and more back as soon as they are free.

    RocksDB's memtables consist of such, and the tables of many objects are. The library begins so,
    and stops with the first that is freed: from then on they come from its heap, and leave holes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def _malloc_trim() -> Callable[[], object]:
    """Give freed memory back to the system; the allocator keeps it otherwise."""
    libc = ctypes.CDLL(None)
    trim = getattr(libc, "malloc_trim", None)
    if trim is None:
        return lambda: None
    trim.argtypes = [ctypes.c_size_t]
    return lambda: trim(0)
