"""A stream between two nodes of replication cores: late, in order, and broken as a whole."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from roost_node.core.replication.messages import Append

if TYPE_CHECKING:
    from simulator.process import Process
    from simulator.replication import World


class Stream:
    """One node's stream to another, both ways in order; it breaks as a whole."""

    def __init__(self, world: World, owner: Process, follower: Process) -> None:
        self.world = world
        self.owner = owner
        self.follower = follower
        self.number = 0
        self.broken = False
        self.last = {True: 0.0, False: 0.0}

    def send(self, message: Any, *, forth: bool = True) -> None:
        world = self.world
        if self.broken:
            return
        at = max(self.last[forth], world.now + world.rng.random() * world.net_ms)
        self.last[forth] = at
        world.at(at, lambda: self._arrive(message, forth))
        if isinstance(message, Append) and world.rng.random() < world.taste.repeat:
            again = at + world.rng.random() * world.rng.choice((5, 100, 1_000))
            world.at(again, lambda: self._arrive(message, forth))

    def _arrive(self, message: Any, forth: bool) -> None:
        source, target = (self.owner, self.follower) if forth else (self.follower, self.owner)
        if self.broken:
            return
        if (source.store, target.store) in self.world.cut:
            self.lose()
            return
        target.run(lambda: self._handle(target, message, forth))

    def _handle(self, target: Process, message: Any, forth: bool) -> None:
        if self.broken:
            return
        if forth:
            if isinstance(message, tuple):
                if target.replicas.kept_of(message[0]).incoming is not None:
                    target.install(*message)
            else:
                target.replicas.on_from_owner(self.owner.store, self.number, message, target.now())
        else:
            target.replicas.on_from_follower(self.follower.store, message, target.now())

    def lose(self) -> None:
        """It is broken now; each end notices in its own time."""
        if self.broken:
            return
        self.broken = True
        world = self.world
        for process in (self.owner, self.follower):
            world.later(
                world.rng.random() * world.rng.choice((5, 200, 1_000)),
                functools.partial(process.run, functools.partial(self._noticed, process)),
            )

    def _noticed(self, process: Process) -> None:
        if process is self.owner:
            if process.links.get(self.follower.store) is self:
                del process.links[self.follower.store]
                process.replicas.on_link_lost(self.follower.store)
        else:
            process.replicas.on_inbound_lost(self.owner.store, self.number)
