"""What a node keeps in memory of logs that are on every disk."""

from __future__ import annotations

from behaviour.hosting import Inbox, a_call, play, until
from replicating.node import B
from replicating.shell import ONLY, HeldFlusher, owning
from roost import DurableObject
from roost_node.core.record import Epoch
from roost_node.core.replication.messages import Appended, Registered

COUNT = 40


class Counter(DurableObject):
    count: int = 0

    async def add(self) -> int:
        self.count += 1
        return self.count


def test_entries_that_everybody_has_are_read_from_the_disk() -> None:
    async def scenario() -> None:
        flusher = HeldFlusher()
        async with owning(Counter, flusher) as (host, replicator, _):

            async def flush() -> None:
                while host.committer.pending_count or flusher.is_busy:
                    await until(lambda: flusher.is_busy)
                    flusher.finish()

            def in_memory() -> list[int]:
                return sorted(replicator._tails[ONLY])

            # Given: a log that is flushed here, and that the other copy has half of.
            inbox = Inbox()
            for number in range(1, COUNT + 1):
                host.submit(a_call(host, number, "Counter", "c", "add"), inbox)
            end = replicator.replicas.kept_of(ONLY).shape.end + COUNT
            await until(lambda: replicator.shards()[ONLY].log.last == end)
            await flush()
            replicator.on_link(B)
            shape = replicator.replicas.kept_of(ONLY).shape
            replicator.on_from_follower(B, Registered(ONLY, Epoch(1), shape.cut(end - COUNT)))
            half = end - COUNT // 2
            hashes = {e.index: e.hash for e in replicator._log.entries(ONLY, 1, end, 2**20)}

            async def look_after_acknowledged(index: int) -> None:
                replicator.on_from_follower(B, Appended(ONLY, Epoch(1), index, hashes[index]))
                await until(lambda: replicator._to_apply.get(ONLY) == index)
                replicator._apply()
                for _ in range(2):
                    replicator._trim()

            # When, then: what it has acknowledged goes, the rest stays.
            await look_after_acknowledged(half)
            assert in_memory() == list(range(half + 1, end + 1))
            await look_after_acknowledged(end)
            assert in_memory() == []
            entries = replicator._entries(ONLY, 1, end)
            assert [entry.index for entry in entries] == list(range(1, end + 1))
            await until(lambda: len(inbox.replies) == COUNT)

    play(scenario())
