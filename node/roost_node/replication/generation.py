"""Which maps a node believes: those of the highest generation that it has seen, in their order (O7).

A coordination store that was restored from an old backup shows the cluster as it was. To act on that could
give a shard to a replica that has long left it. So a node keeps the cluster's generation on its disk and refuses
maps of a lower one; and within a generation it believes nothing more once the store has gone back. An
operator ends that by raising the generation (`roost cluster recover`); the higher one is on the disk before
anything of it is acted on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from roost.errors import StoreError
from roost_node.core.log import Op
from roost_node.core.record import Map
from roost_node.core.timeline import Timeline
from roost_node.ownership.coordinator import Restored
from roost_node.storage import layout, records
from roost_node.storage.engine import Store

log = logging.getLogger(__name__)


def read_generation(store: Store) -> int:
    """The highest that this store has seen; 0: none yet."""
    raw = store.get(layout.GENERATION_KEY)
    return records.decode_generation(raw) if raw is not None else 0


def generation_op(generation: int) -> Op:
    """The row."""
    return layout.GENERATION_KEY, records.encode_generation(generation)


def settle_generation(store: Store, agreed: int) -> int:
    """At a start: the higher one of the disk's and the coordination store's, on the disk from here on."""
    kept = read_generation(store)
    if kept > agreed:
        log.critical(
            "the coordination store is older than this store: no shard is owned until an operator"
            " recovers the cluster",
            extra={"generation": agreed, "seen": kept},
        )
    elif kept < agreed:
        if not store.write([generation_op(agreed)]):
            raise StoreError("the store is too busy to write at its start: start the node again")
        store.sync()
    return max(kept, agreed)


class Believed:
    """One node's judgement of the maps that it reads, one after the other."""

    def __init__(
        self, generation: int, write: Callable[[Sequence[Op], Callable[[], None]], None]
    ) -> None:
        """`write`: to be durable when it calls back."""
        self.generation = generation  # as it is on the disk
        self._write = write
        self._timeline = Timeline(generation)
        self._restored: Restored | None = None
        self._raising = generation
        self._is_alarmed = False

    def takes(self, found: Map, restored: Restored | None, again: Callable[[], object]) -> bool:
        """Whether to act on a map. False for now while its generation goes to the disk: then `again`."""
        if restored != self._restored:
            self._restored = restored
            self._timeline.on_restored()
        generation = found.config.generation
        is_forward = self._timeline.is_forward(generation, found.revision)
        if not is_forward and not self._is_alarmed:
            log.critical(
                "the coordination store has gone back in time: this node acts on nothing that it says until"
                " an operator recovers the cluster",
                extra={
                    "generation": generation,
                    "seen": self.generation,
                    "revision": found.revision,
                },
            )
        self._is_alarmed = not is_forward
        if not is_forward or generation == self.generation:
            return is_forward
        if generation > self._raising:
            self._raising = generation

            def durable() -> None:
                self.generation = max(self.generation, generation)
                log.warning("the cluster has a new generation", extra={"generation": generation})
                again()

            self._write([generation_op(generation)], durable)
        return False
