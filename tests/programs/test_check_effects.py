"""`roost dev --check-effects` warns where a method does two things when it is run twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import roost
from programs.test_roost_dev import dev

CODE = """
import random
from roost import DurableObject, method

class Dice(DurableObject):
    value: float = 0
    total: int = 0

    async def steady(self, by: int) -> int:
        self.total += by
        self.ctx.storage.put("total", self.total)
        await self.ctx.object(Dice, "other").note()
        return self.total

    async def note(self) -> int:
        self.total += 1
        return self.total

    async def roll(self) -> None:
        self.ctx.storage.put("row", random.random())
        self.value = random.random()

    async def tell(self) -> float:
        return random.random()

    @method(check_effects=False)
    async def quietly(self) -> None:
        self.value = random.random()
"""


def test_a_method_that_does_two_things_is_named_with_the_difference(tmp_path: Path) -> None:
    async def story(port: int) -> None:
        async with roost.connect(f"127.0.0.1:{port}") as cluster:
            dice = cluster.object("Dice", "d")
            assert await dice.steady(by=2) == 2  # as if it had run once
            assert await cluster.object("Dice", "other").note() == 2  # and so its child
            await dice.quietly()
            await dice.roll()
            await dice.tell()

    with dev(tmp_path, "--check-effects") as server:
        server.app.write_text(CODE)
        server.wait("reloaded()")
        asyncio.run(story(server.port))
        server.wait(r"Dice/d\.tell did two things()")
        log = server.log.read_text()
    assert "Dice/d.roll did two things" in log
    for part in ("field 'value': ", "storage row 'row': ", "result: "):
        assert part in log, part
    for name in ("steady", "note", "quietly"):
        assert f".{name} did two things" not in log, name
