"""What the cluster tests run: counters that can be told on by others, on whatever node those are."""

from __future__ import annotations

from collections.abc import AsyncIterator

from roost import DurableObject, method


class Counter(DurableObject):
    count: int = 0

    async def increment(self) -> int:
        self.count += 1
        return self.count

    @method(read_only=True)
    async def get(self) -> int:
        return self.count

    async def forward(self, to: str) -> int:
        """Count here, and once there."""
        self.count += 1
        return await self.ctx.object(Counter, to).increment()

    async def steps(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def read_steps(self, of: str, count: int) -> int:
        return sum([n async for n in self.ctx.object(Counter, of).steps(count)])


class Ring(DurableObject):
    """Calls along a path of keys, which may come back to where it began."""

    async def ask(self, path: list[str]) -> int:
        if not path:
            return 1
        return 1 + await self.ctx.object(Ring, path[0]).ask(path[1:])

    @method(read_only=True, reentrant=True)
    async def look(self, path: list[str]) -> int:
        if not path:
            return 1
        return 1 + await self.ctx.object(Ring, path[0]).look(path[1:])
