"""Lists of an object's rows: pages, and what a list shows of writes that come after it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import roost
from behaviour.conftest import Run
from roost import DurableObject, method

WRITES = ("put", "change", "delete", "delete all")


class Rows(DurableObject):
    async def fill(self, keys: list[str]) -> None:
        for key in keys:
            self.ctx.storage.put(key, f"first {key}")

    async def write(self, what: str) -> None:
        self._write(what)

    def _write(self, what: str) -> None:
        storage = self.ctx.storage
        if what == "put":
            storage.put_many({"aa": "new", "z": "new"})
        elif what == "change":
            storage.put("c", "changed")
        elif what == "delete":
            storage.delete("d")
        else:
            storage.delete_all()

    @method(read_only=True)
    async def get(self) -> dict[str, str]:
        return dict(self.ctx.storage.list())

    @method(read_only=True)
    async def page(
        self, after: str | None, limit: int, reverse: bool, start: str | None, end: str | None
    ) -> list[str]:
        found = self.ctx.storage.list(
            after=after, start=start, end=end, limit=limit, reverse=reverse
        )
        return [key for key, _ in found]

    @method(read_only=True)
    async def after_and_start(self) -> list[Any]:
        return list(self.ctx.storage.list(after="a", start="a"))

    async def list_then_write(self, what: str, reverse: bool) -> list[tuple[str, str]]:
        """In one turn: the writes come when a part of the list has been read."""
        self.ctx.storage.put("e", "of this turn")
        rows = self.ctx.storage.list(reverse=reverse)
        seen = [next(rows)]
        self._write(what)
        return [*seen, *rows]

    @method(interleave=True)
    async def list_slowly(self, reverse: bool, writes: int) -> list[tuple[str, str]]:
        """In many turns: others write between each row and the next."""
        rows = self.ctx.storage.list(reverse=reverse)
        self._listing = True
        seen = []
        for row in rows:
            seen.append(row)
            while self._written < min(len(seen), writes):
                await asyncio.sleep(0.001)
        return seen

    _listing: bool = False
    _written: int = 0

    @method(interleave=True)
    async def write_beside(self, what: str) -> None:
        while not self._listing:
            await asyncio.sleep(0.001)
        self._write(what)
        await asyncio.sleep(0)  # the stretch commits
        self._written += 1


def test_pages_go_on_after_the_last_key_in_both_directions(run: Run) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        rows = cluster.object(Rows, "r")
        keys = sorted(["", "a", "a\0", "ab", "é", "z", *(f"k{n:03}" for n in range(600))])
        await rows.fill(keys)
        for reverse in (False, True):
            for limit in (1, 7, 256, 1000):
                if limit == 1:
                    wanted, start, end = [k for k in keys if "a" <= k < "k003"], "a", "k003"
                else:
                    wanted, start, end = list(keys), None, None
                wanted.sort(key=str.encode, reverse=reverse)
                found: list[str] = []
                after: str | None = None
                while True:
                    low, high = (start, end)
                    if reverse and after is not None:
                        high, after = after, None  # downwards a page ends where the last began
                    elif after is not None:
                        low = None
                    page = await rows.page(after, limit, reverse, low, high)
                    found += page
                    if len(page) < limit:
                        break
                    after = page[-1]
                assert found == wanted, (reverse, limit)
        assert await rows.page("z", 10, False, None, None) == ["é"]  # by bytes: é is behind z
        assert await rows.page("a", 2, True, None, None) == ["é", "z"]  # `after` keeps its meaning
        with pytest.raises(roost.ObjectError, match="start or after, not both"):
            await rows.after_and_start()

    run(scenario, Rows)


@pytest.mark.parametrize("what", WRITES)
def test_a_list_shows_nothing_that_its_own_call_writes_later(run: Run, what: str) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        for reverse in (False, True):
            rows = cluster.object(Rows, f"{reverse}")
            await rows.fill(list("abcd"))
            expected = [(key, f"first {key}") for key in "abcd"] + [("e", "of this turn")]
            listed = await rows.list_then_write(what, reverse)
            assert [tuple(row) for row in listed] == sorted(expected, reverse=reverse)
            if what == "delete all":
                assert await rows.get() == {}

    run(scenario, Rows)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_a_list_shows_nothing_that_other_calls_write_meanwhile(run: Run, reverse: bool) -> None:
    async def scenario(cluster: roost.Cluster) -> None:
        rows = cluster.object(Rows, "r")
        await rows.fill(list("abcd"))
        listing = asyncio.ensure_future(rows.list_slowly(reverse, len(WRITES)))
        for what in WRITES:
            await cluster.object(Rows, "r").write_beside(what)
        expected = [(key, f"first {key}") for key in "abcd"]
        assert [tuple(row) for row in await listing] == sorted(expected, reverse=reverse)
        assert await rows.get() == {}

    run(scenario, Rows)
