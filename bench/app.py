"""What the benchmarks call."""

from roost import DurableObject, method


class Counter(DurableObject, idle_after=3600.0):
    """Two small fields."""

    count: int = 0
    name: str = ""

    async def increment(self, by: int = 1) -> int:
        """Write."""
        self.count += by
        return self.count

    async def fill(self, size: int) -> None:
        """Be so large."""
        self.name = "x" * size

    @method(read_only=True)
    async def get(self) -> int:
        """Read."""
        return self.count
