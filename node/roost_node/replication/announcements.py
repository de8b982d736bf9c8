"""What is logged when shards come and go: a line for each, or one line for many at once.

A node that starts owns hundreds within a second; a thousand lines would hide the one that matters.
"""

from __future__ import annotations

import logging

from roost.cluster.ids import ShardId, ranges
from roost_node.core.record import Epoch

FEW = 8
SHOWN = 20
"""Runs of shards in a line: shards that were dealt out singly would make it endless."""


class Announcements:
    """Gathered for a moment, then said."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._news: dict[str, list[tuple[ShardId, Epoch]]] = {}

    def add(self, what: str, shard: ShardId, epoch: Epoch) -> None:
        """`what`, as in "own shard"."""
        self._news.setdefault(what, []).append((shard, epoch))

    def say(self) -> None:
        """All that was gathered."""
        news, self._news = self._news, {}
        for what, of in news.items():
            if len(of) <= FEW:
                for shard, epoch in of:
                    self._log.info(what, extra={"shard": shard, "epoch": epoch})
            else:
                many = what.replace("shard", "shards")
                shards = ranges((shard for shard, _ in of), SHOWN)
                self._log.info(many, extra={"count": len(of), "shards": shards})
