"""A follower that freezes and may not be let go: what its owner keeps for it is bounded."""

from __future__ import annotations

import pytest

from behaviour.hosting import Inbox, a_call, hosting, play, until
from roost import DurableObject, method
from roost.wire.messages import Status
from roost_node.core.log import Entry, Rows
from roost_node.host.shard import Shard
from roost_node.storage.memory import MemoryStore

PIECE = bytes(500_000)
BOUND = 2**20


class Blob(DurableObject):
    async def put(self, data: bytes) -> None:
        self.ctx.storage.put("data", data)

    @method(read_only=True)
    async def size(self) -> int:
        return len(self.ctx.storage.get("data", b"", type=bytes))


class Frozen:
    """Copies that acknowledge nothing: our own disk alone has the entries."""

    def on_appended(self, shard: Shard, entry: Entry) -> None: ...

    def rows(self, shard: Shard, entries: list[Entry]) -> Rows:
        return {}

    def on_durable(self, shard: Shard, index: int) -> None: ...


def test_what_waits_for_a_frozen_copy_is_bounded_and_goes_on_when_it_is_back() -> None:
    async def scenario() -> None:
        async with hosting(Blob, store=MemoryStore(shards=1), behind_bytes_max=BOUND) as host:
            shard = host.shard_of("Blob", "0", host.now_ms())
            shard.replica = Frozen()
            inbox = Inbox()
            number = 0

            async def put() -> None:
                nonlocal number
                number += 1
                last = shard.log.last
                call = a_call(host, number, "Blob", f"{number}", "put", PIECE)
                host.submit(call, inbox)
                await until(lambda: shard.log.last > last or number in inbox.replies)

            while not inbox.replies:
                assert number < 400, "200 MB wait, and nobody is refused"
                await put()
            assert inbox.replies[number].status == Status.OVERLOADED
            host.submit(a_call(host, 1_000, "Blob", "1", "size"), inbox)
            await until(
                lambda: shard.gate.waiting_count() == number
            )  # writers taken, and the reader
            shard.log.on_durable(shard.log.last)
            shard.leave(shard.gate.on_committed(shard.log.last))
            assert (await inbox.reply(1_000)).status == 0, "who only reads was let in"
            await until(lambda: host.behind_bytes == 0)
            await put()
            assert number not in inbox.replies, "it waits for its copies, like those before"

    play(scenario())


@pytest.mark.parametrize("together", [False, True])
def test_a_log_counts_the_bytes_of_what_is_not_in_the_state(together: bool) -> None:
    async def scenario() -> None:
        async with hosting(Blob, store=MemoryStore(shards=1)) as host:
            log = host.shard_of("Blob", "0", host.now_ms()).log
            sizes = [log.append(b"", {b"key": bytes(size)}, 1).size_bytes for size in (10, 20, 30)]
            assert log.size_bytes == sum(sizes)
            if not together:
                log.on_durable(log.last - 1)
                assert log.size_bytes == sizes[-1]
            log.on_durable(log.last)
            assert log.size_bytes == 0

    play(scenario())
