"""The smallest durable object: `roost dev examples/counter.py`."""

from roost import DurableObject, method


class Counter(DurableObject):
    """Counts; whatever happens to the process, no acknowledged step is lost or made twice."""

    count: int = 0

    async def increment(self, by: int = 1) -> int:
        """Add, and return the new value."""
        self.count += by
        return self.count

    @method(read_only=True)
    async def value(self) -> int:
        """The value; such calls overlap with each other."""
        return self.count
