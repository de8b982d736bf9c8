"""One object against a plain model of it, by random operations: nothing may ever differ."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import roost
from roost import DurableObject, method
from roost.client import Cluster
from roost_node.embedded import Embedded
from roost_node.host.loader import specs_of
from roost_node.node import Node
from roost_node.storage.memory import MemoryStore

T = TypeVar("T")
keys = st.sampled_from(["", "a", "aa", "ab", "b", "é", "\0", "z"])
values = st.one_of(st.integers(-5, 5), st.text(max_size=3), st.lists(st.integers(0, 3), max_size=3))


class Everything(DurableObject):
    number: int = 0
    items: list[int] = []
    table: dict[str, list[int]] = {}
    note: str | None = None

    async def assign(self, number: int, note: str | None, fail: bool) -> None:
        self.number = number
        self.note = note
        self._check(fail)

    async def append(self, item: int, fail: bool) -> None:
        self.items.append(item)
        self._check(fail)

    async def through_alias(self, key: str, item: int, fail: bool) -> None:
        inner = self.table.setdefault(key, [])
        inner.append(item)  # changes the field through a value inside it
        self._check(fail)

    async def keep_alias(self) -> None:
        self._alias = self.items

    async def write_alias(self, item: int) -> bool:
        alias = getattr(self, "_alias", None)
        if alias is None or alias is not self.items:
            return False
        alias.append(item)  # an alias of an earlier call
        return True

    async def put(self, rows: dict[str, Any], delete: list[str], clear: bool, fail: bool) -> None:
        storage = self.ctx.storage
        if clear:
            storage.delete_all()
        for key, value in rows.items():
            storage.put(key, value)
        for key in delete:
            storage.delete(key)
        self._check(fail)

    @method(read_only=True)
    async def show(self) -> list[Any]:
        return [self.number, self.note, self.items, self.table, dict(self.ctx.storage.list())]

    @method(read_only=True)
    async def scan(
        self, prefix: str, start: str | None, end: str | None, limit: int | None, reverse: bool
    ) -> list[str]:
        found = self.ctx.storage.list(
            prefix=prefix, start=start, end=end, limit=limit, reverse=reverse
        )
        return [key for key, _ in found]

    @method(read_only=True)
    async def sneak(self, item: int) -> None:
        self.items.append(item)

    def _check(self, fail: bool) -> None:
        if fail:
            raise ValueError("rolled back")


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.store = MemoryStore()
        self.number = 0
        self.note: str | None = None
        self.items: list[int] = []
        self.table: dict[str, list[int]] = {}
        self.rows: dict[str, Any] = {}
        self.done: list[tuple[UUID, int]] = []
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def _open(self) -> None:
        link = Embedded(None)
        from pathlib import Path

        link.node = Node(Path("unused"), specs_of([Everything]), link.on_fatal, store=self.store)
        await link.node.__aenter__()
        self.link = link
        self.cluster = await Cluster(link).__aenter__()
        self.object = self.cluster.object(Everything, "one")

    async def _close(self) -> None:
        await self.cluster.__aexit__(None, None, None)

    def teardown(self) -> None:
        self.run(self._close())
        self.runner.close()

    def attempt(self, work: Coroutine[Any, Any, Any], fail: bool) -> bool:
        if not fail:
            self.run(work)
            return True
        with pytest.raises(roost.ObjectError):
            self.run(work)
        return False

    @rule(number=st.integers(-9, 9), note=st.none() | st.text(max_size=3), fail=st.booleans())
    def assign(self, number: int, note: str | None, fail: bool) -> None:
        if self.attempt(self.object.assign(number, note, fail), fail):
            self.number, self.note = number, note

    @rule(item=st.integers(0, 9), fail=st.booleans())
    def append(self, item: int, fail: bool) -> None:
        if self.attempt(self.object.append(item, fail), fail):
            self.items.append(item)

    @rule(key=keys, item=st.integers(0, 9), fail=st.booleans())
    def through_alias(self, key: str, item: int, fail: bool) -> None:
        if self.attempt(self.object.through_alias(key, item, fail), fail):
            self.table.setdefault(key, []).append(item)

    @rule(item=st.integers(0, 9))
    def alias_of_an_earlier_call(self, item: int) -> None:
        self.run(self.object.keep_alias())
        if self.run(self.object.write_alias(item)):
            self.items.append(item)

    @rule(
        rows=st.dictionaries(keys, values, max_size=3),
        delete=st.lists(keys, max_size=2),
        clear=st.booleans(),
        fail=st.booleans(),
    )
    def put(self, rows: dict[str, Any], delete: list[str], clear: bool, fail: bool) -> None:
        if self.attempt(self.object.put(rows, delete, clear, fail), fail):
            if clear:
                self.rows.clear()
            self.rows.update(rows)
            for key in delete:
                self.rows.pop(key, None)

    @rule(item=st.integers(0, 9))
    def a_reader_cannot_change_anything(self, item: int) -> None:
        with pytest.raises(roost.ReadOnlyError):
            self.run(self.object.sneak(item))

    @rule(
        prefix=keys, start=st.none() | keys, end=st.none() | keys,
        limit=st.none() | st.integers(0, 4), reverse=st.booleans(),
    )  # fmt: skip
    def scan(
        self, prefix: str, start: str | None, end: str | None, limit: int | None, reverse: bool
    ) -> None:
        expected = sorted(
            (
                key
                for key in self.rows
                if key.startswith(prefix)
                and (start is None or key.encode() >= start.encode())
                and (end is None or key.encode() < end.encode())
            ),
            key=str.encode,
            reverse=reverse,
        )[:limit]
        assert self.run(self.object.scan(prefix, start, end, limit, reverse)) == expected

    @rule(number=st.integers(-9, 9))
    def once(self, number: int) -> None:
        rid = roost.new_request_id()
        for _ in range(2):
            self.run(roost.options(self.object, request_id=rid).append(number, False))
        self.items.append(number)
        self.done.append((rid, number))

    @rule(data=st.data())
    def an_old_request_again(self, data: st.DataObject) -> None:
        if self.done:
            rid, number = data.draw(st.sampled_from(self.done))
            self.run(roost.options(self.object, request_id=rid).append(number, False))

    @rule()
    def leave_memory(self) -> None:
        for activation in list(self.link.node.host.activations.values()):
            self.link.node.host.deactivate(activation, "idle")

    @rule()
    def reset(self) -> None:
        for activation in list(self.link.node.host.activations.values()):
            self.link.node.host.reset(activation, "a test")

    @rule()
    def crash(self) -> None:
        """What was acknowledged is all there is: every call before has been awaited."""
        after = self.store.crash()
        self.run(self._close())
        self.store = after
        self.run(self._open())

    @rule()
    def delete(self) -> None:
        self.run(self.cluster.delete(Everything, "one"))
        self.number, self.note = 0, None
        self.items, self.table, self.rows = [], {}, {}

    @invariant()
    def nothing_differs(self) -> None:
        found = self.run(self.object.show())
        assert found == [self.number, self.note, self.items, self.table, self.rows]
        stored = self.run(self.cluster.show(Everything, "one"))
        if stored is None:
            assert not self.rows


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
