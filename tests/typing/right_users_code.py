"""What users write, and mypy --strict accepts."""

from collections.abc import AsyncIterator
from typing import Any, assert_type
from uuid import UUID

import roost
from roost import DurableObject, method, migrate


class Counter(DurableObject, idle_after=5.0, version=2, mailbox_max=10, reset_on_error=True):
    count: int = 0
    notes: list[str] = []
    _cache: dict[str, int]

    async def increment(self, by: int = 1) -> int:
        self.count += by
        self._helper()
        return self.count

    @method(read_only=True)
    async def value(self) -> int:
        return self.count

    async def tail(self, count: int) -> AsyncIterator[str]:
        for note in self.notes[-count:]:
            yield note

    @method(interleave=True, timeout=2.0)
    async def copy_from(self, key: str) -> int:
        other = self.ctx.object(Counter, key)
        assert_type(other, Counter)
        self.count = await other.value()
        found = self.ctx.storage.get("k", type=int)
        assert_type(found, int | None)
        assert_type(self.ctx.storage.get("k", 0, type=int), int)
        for key, row in self.ctx.storage.list(prefix="a", type=str):
            assert_type(key, str)
            assert_type(row, str)
        async with self.ctx.exclusive():
            self.ctx.storage.put("k", 1)
        return self.count

    def _helper(self) -> None: ...

    @migrate(from_version=1)
    @staticmethod
    def _from_1(state: dict[str, Any]) -> dict[str, Any]:
        return state

    async def on_deactivate(self, reason: roost.DeactivationReason) -> None:
        assert_type(reason.value, str)


async def asynchronous() -> None:
    async with roost.connect("localhost:7400") as cluster:
        counter = cluster.object(Counter, "page-42")
        assert_type(counter, Counter)
        assert_type(await counter.increment(by=2), int)
        rid = roost.new_request_id()
        assert_type(rid, UUID)
        assert_type(await roost.options(counter, timeout=1.0, request_id=rid).increment(), int)
        async for note in counter.tail(5):
            assert_type(note, str)
        outcome = await roost.outcome(counter, rid)
        if isinstance(outcome, roost.Committed):
            print(outcome.result)
        async for info in cluster.objects(Counter, prefix="page-"):
            print(info.key, info.owner, info.size_bytes, info.changed_at)
        anything = cluster.object("Counter", "page-42")
        assert_type(anything, Any)
    async with roost.local(Counter, path="data") as cluster:
        assert_type(await cluster.object(Counter, "a").value(), int)


def blocking() -> None:
    with roost.sync.connect("localhost:7400") as cluster:
        counter = cluster.object(Counter, "page-42")
        assert_type(cluster.call(counter.increment, by=2), int)
        for note in cluster.iterate(counter.tail, 3):
            assert_type(note, str)
        cluster.outcome(counter, roost.new_request_id())


class PoorError(roost.ApplicationError): ...


def errors(error: roost.RoostError) -> None:
    assert_type(error.retryable, bool)
    if isinstance(error, roost.OverloadedError):
        assert_type(error.retry_after_s, float)
    if isinstance(error, roost.DeadlockError):
        assert_type(error.chain, tuple[str, ...])
