"""What the crash test calls."""

from roost import DurableObject, method


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
    async def all(self) -> list[str]:
        return [text for _, text in self.ctx.storage.list()]
