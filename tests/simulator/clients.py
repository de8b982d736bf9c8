"""Users' programs: real clients, each in a process of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from roost.adapters.channel import ChannelTransport
from roost.client import Cluster
from roost.errors import RoostError
from roost_router.embedded import Direct
from simulator.machines import Process

if TYPE_CHECKING:
    from simulator.whole import Whole

CALL_S = 600.0


class Client:
    """A user's program: a real client, through a router or straight to the nodes."""

    def __init__(self, whole: Whole, process: Process, *, direct: bool) -> None:
        self.process = process
        self.ready = asyncio.Event()
        self.cluster: Cluster
        self._whole = whole
        self._direct = direct

    async def run(self) -> None:
        whole = self._whole
        while True:
            try:
                async with Cluster(self._transport(), timeout_s=CALL_S) as self.cluster:
                    self.ready.set()
                    await asyncio.get_running_loop().create_future()
            except RoostError as error:
                whole.trace.note(f"{self.process.name} cannot connect yet: {error.message[:60]}")
            await asyncio.sleep(0.1)

    def _transport(self) -> Any:
        whole = self._whole
        if self._direct:
            return Direct([m.address for m in whole.machines.values()], connect_timeout_s=2.0)
        routers = [f"{name}:7500" for name in whole.routers]
        whole.rng.shuffle(routers)
        return ChannelTransport(routers, connect_timeout_s=2.0)
