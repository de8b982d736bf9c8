"""Mistakes that mypy --strict must find: each is marked with the code of its error."""

import roost
from roost import DurableObject


class Counter(DurableObject):
    count: int = 0

    async def increment(self, by: int = 1) -> int:
        self.count = "one"  # expect: assignment
        return self.count

    async def value(self) -> int:
        return self.ctx.storage.get("k", type=int)  # expect: return-value


async def wrong(cluster: roost.Cluster, blocking: roost.sync.Cluster) -> None:
    counter = cluster.object(Counter, "a")
    await counter.increment(by="two")  # expect: arg-type
    await counter.increment(to=2)  # expect: call-arg
    await counter.decrement()  # expect: attr-defined
    text: str = await counter.increment()  # expect: assignment
    cluster.object(Counter, 42)  # expect: call-overload
    roost.options(counter, timeout="1 s")  # expect: arg-type
    await roost.options(counter, timeout=1.0).nothing()  # expect: attr-defined
    blocking.call(counter.increment, by="two")  # expect: arg-type
    number: str = blocking.call(counter.increment)  # expect: assignment
    counter.increment()  # expect: unused-coroutine
    print(text, number)
