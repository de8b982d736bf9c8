"""A node that loses a shard while entries of it are on their way to its disk."""

from __future__ import annotations

from behaviour.hosting import Inbox, a_call, play, until
from replicating.node import B
from replicating.shell import ONLY, HeldFlusher, owning
from roost import DurableObject
from roost_node.core.record import Epoch, SessionId
from roost_node.core.replication.messages import Append, Appended, LogEntry, Register


class Counter(DurableObject):
    count: int = 0

    async def add(self) -> int:
        self.count += 1
        return self.count


def test_entries_that_a_new_owner_cuts_before_they_are_written_end_no_node() -> None:
    async def scenario() -> None:
        flusher = HeldFlusher()
        async with owning(Counter, flusher) as (host, replicator, peers):
            # Given: one entry in a slow flush, and three that wait for it.
            for number in range(1, 5):
                host.submit(a_call(host, number, "Counter", "c", "add"), Inbox())
                await until(lambda: flusher.is_busy)
            await until(lambda: host.committer.pending_count == 3)
            # When: another node owns the shard, and has none of them.
            stream = replicator.on_inbound(B, SessionId(2))
            theirs = LogEntry(Epoch(2), 2, Epoch(1), b"another hash, 16", 5, b"")
            replicator.on_from_owner(B, stream, Register(ONLY, Epoch(2)))
            replicator.on_from_owner(B, stream, Append(ONLY, Epoch(2), 1, Epoch(1), (theirs,), 0))
            await until(lambda: not replicator.shards())
            # Then: its log is ours, as soon as the disk gets to it.
            while host.committer.pending_count or flusher.is_busy:
                await until(lambda: flusher.is_busy)
                flusher.finish()
            said = Appended(ONLY, Epoch(2), 2, theirs.hash)
            await until(lambda: said in peers.said)
            rows = [entry.index for entry in replicator._log.entries(ONLY, 1, 9, 1000)]
            assert rows == [1, 2]

    play(scenario())
