"""What the tests that kill things call."""

from roost import DurableObject, method

PAGE = 2_000


class Counter(DurableObject):
    count: int = 0

    async def add(self) -> int:
        self.count += 1
        return self.count

    @method(read_only=True)
    async def get(self) -> int:
        return self.count


class Register(DurableObject):
    value: int = 0

    async def swap(self, old: int, new: int) -> bool:
        if self.value != old:
            return False
        self.value = new
        return True

    @method(read_only=True)
    async def get(self) -> int:
        return self.value


class Log(DurableObject):
    size: int = 0

    async def post(self, text: str) -> int:
        self.size += 1
        self.ctx.storage.put(f"{self.size:08}", text)
        await self.ctx.object(Counter, "posts").add()
        return self.size

    @method(read_only=True)
    async def read(self, after: int) -> list[str]:
        """The next page."""
        rows = self.ctx.storage.list(after=f"{after:08}", limit=PAGE)
        return [text for _, text in rows]


class Line(DurableObject):
    last: dict[str, int] = {}

    async def step_up(self, name: str, number: int) -> int:
        """Who stood there before under this name."""
        before = self.last.get(name, 0)
        self.last[name] = number
        return before
