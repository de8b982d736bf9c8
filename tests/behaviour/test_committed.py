"""Questions about what is stored: their answers are outputs too, and wait for the disk."""

from __future__ import annotations

import asyncio
import threading
from uuid import UUID

import roost
from behaviour.conftest import Run
from behaviour.hosting import Inbox, a_call, hosting, play, until
from roost import DurableObject
from roost.cluster.ids import request_id
from roost.errors import CorruptionError
from roost.wire.messages import Query, Status
from roost_node.core.log import Entry, Rows
from roost_node.host import catalog
from roost_node.host.shard import Shard
from roost_node.storage import layout
from roost_node.storage.memory import MemoryStore


class Count(DurableObject):
    count: int = 0

    async def add(self) -> int:
        self.count += 1
        return self.count


class SlowDisk(MemoryStore):
    """A flush takes until the test lets it."""

    def __init__(self) -> None:
        super().__init__(shards=1)
        self.may_flush = threading.Event()

    def sync(self) -> None:
        self.may_flush.wait(20)
        super().sync()


class BadDisk(MemoryStore):
    broken = False

    def get(self, key: bytes) -> bytes | None:
        if self.broken:
            raise CorruptionError("a block is not what was written")
        return super().get(key)


def test_nothing_that_is_still_being_flushed_is_shown_or_listed() -> None:
    async def scenario() -> None:
        store = SlowDisk()
        async with hosting(Count, store=store) as host:
            inbox = Inbox()
            for number, key in enumerate("abc"):  # several: they are flushed beside the loop
                host.submit(a_call(host, number, "Count", key, "add"), inbox)
            row = layout.record_key(0, layout.object_id("Count", "a"))
            await until(lambda: store.get(row) is not None)
            shown = asyncio.ensure_future(catalog.show_object(host, "Count", "a"))
            listed = asyncio.ensure_future(catalog.list_objects(host, "Count", "", 10, b""))
            await asyncio.sleep(0.1)
            assert not inbox.messages
            assert not shown.done()
            assert not listed.done()
            store.may_flush.set()
            detail = await shown
            assert detail is not None
            assert detail.fields_json == '{"count":1}'
            assert len((await listed)[0]) == 3

    play(scenario())


class Behind:
    """Of a shard with copies: what is committed comes into the state later (`Replicator`)."""

    def on_appended(self, shard: Shard, entry: Entry) -> None: ...

    def rows(self, shard: Shard, entries: list[Entry]) -> Rows:
        return {}

    def on_durable(self, shard: Shard, index: int) -> None:
        shard.leave(shard.gate.on_committed(index))


def test_what_a_caller_was_told_is_shown_and_listed_though_the_state_is_behind() -> None:
    async def scenario() -> None:
        store = MemoryStore(shards=1)
        async with hosting(Count, store=store) as host:
            host.shard_of("Count", "b", host.now_ms()).replica = Behind()
            inbox = Inbox()
            for number, key in enumerate("ba"):
                host.submit(a_call(host, number, "Count", key, "add"), inbox)
                assert (await inbox.reply(number)).status == 0
            detail = await catalog.show_object(host, "Count", "a")
            assert detail is not None
            assert detail.fields_json == '{"count":1}'
            page = await catalog.list_objects(host, "Count", "", 1, b"")
            assert [info.key for info in page.objects] == ["a"]
            page = await catalog.list_objects(host, "Count", "", 2, page.next_token)
            assert [info.key for info in page.objects] == ["b"]
            assert await catalog.list_objects(host, "Count", "c", 2, b"") == ([], b"", ())

    play(scenario())


def test_a_question_for_the_outcome_of_an_impossible_id_is_answered(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        count = cluster.object(Count, "c")
        assert await count.add() == 1
        never = UUID(bytes=request_id(2**48 - 1, 5))
        async with asyncio.timeout(5):
            assert isinstance(await roost.outcome(count, never), roost.Unknown)
        assert await count.add() == 2

    run(scenario, Count)


def test_a_question_for_an_outcome_that_cannot_be_read_says_so() -> None:
    async def scenario() -> None:
        store = BadDisk()
        async with hosting(Count, store=store) as host:
            inbox = Inbox()
            host.submit(a_call(host, 1, "Count", "c", "add"), inbox)
            await inbox.reply(1)
            store.broken = True
            host.query(Query(2, "Count", "c", request_id(host.now_ms(), 5)), inbox)
            await until(lambda: 2 in inbox.outcomes)
            assert inbox.outcomes[2].status == Status.CORRUPTION
            store.broken = False

    play(scenario())


class Writer(DurableObject):
    async def write(self, data: bytes) -> None:
        self.ctx.storage.put("row", data)

    async def churn(self, times: int) -> int:
        for _ in range(times):
            self.ctx.storage.put("k" * 1000, 1)
            self.ctx.storage.delete("k" * 1000)
        return times


def test_a_slow_disk_holds_back_callers_before_memory_is_full() -> None:
    async def scenario() -> None:
        store = SlowDisk()
        async with hosting(Writer, store=store) as host:
            inbox = Inbox()
            for number in range(150):
                data = b"x" * 1_000_000
                host.submit(a_call(host, number, "Writer", f"{number}", "write", data), inbox)
                await asyncio.sleep(0)
            await asyncio.sleep(0.05)
            refused = [r.status for r in inbox.replies.values()]
            assert set(refused) == {Status.OVERLOADED}
            assert 150 - len(refused) < 75
            store.may_flush.set()
            await until(lambda: len(inbox.replies) == 150)
            assert host.committer.backlog_bytes == 0
            host.submit(a_call(host, 200, "Writer", "w", "write", b""), inbox)
            assert (await inbox.reply(200)).status == 0

    play(scenario())


def test_a_row_written_and_deleted_over_and_over_takes_its_size_once(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        assert await cluster.object(Writer, "w").churn(5000) == 5000

    run(scenario, Writer)
