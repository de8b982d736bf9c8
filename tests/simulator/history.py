"""What must hold at every moment of a run of the replication cores.

I1 an in-sync member lacks nothing that was answered; I2 what is revealed is one history, and no read
misses what was revealed before it ran; I3 at most one process can answer; I4 what was ever committed
is one log, and every in-sync member has it on its disk; I5 no request is applied twice; I6 when faults
are over, everything is answered again.

A state is the tuple of requests applied so far, so a prefix tells everything: a history of such states
with I2 and the order in real time is linearizable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from roost.cluster.ids import ShardId

if TYPE_CHECKING:
    from simulator.disk import Value
    from simulator.process import Op, Process
    from simulator.replication import World


class ViolationError(Exception):
    """A promise was broken."""


class History:
    """Watches a run."""

    def __init__(self) -> None:
        self.shown: dict[ShardId, Value] = {}
        self.done: dict[ShardId, dict[int, tuple[int, bytes]]] = {}
        self.floors: dict[int, tuple[Op, int]] = {}  # by client: what was answered when it began
        self.known: dict[ShardId, int] = {}  # length of the longest state that reached a client
        self.excused: set[str] = set()  # stores whose disks lost something that had been synced
        self.count = 0
        self.reads = 0

    def fail(self, text: str) -> None:
        raise ViolationError(text)

    def shown_count(self, shard: ShardId) -> int:
        return len(self.shown.get(shard, ()))

    def began(self, op: Op) -> None:
        self.floors[op.client] = (op, self.known.get(op.shard, 0))

    def revealed(self, world: World, store: str, op: Op, value: Value, floor: int) -> None:
        """An answer leaves a node."""
        shown = self.shown.get(op.shard, ())
        what = f"{store} answers {'read' if not op.request else op.request} of shard {op.shard}"
        world.note(f"{what}: {value[-4:]}")
        if value[: len(shown)] != shown and shown[: len(value)] != value:
            self.fail(f"I2 {what}: {value} and {shown} are not one history")
        if len(value) < floor:
            self.fail(f"I2 {what}: {value} misses what was revealed before it ran: {shown[:floor]}")
        if len(set(value)) < len(value):
            self.fail(f"I5 {what}: a request was applied twice: {value}")
        if op.request and op.request not in value:
            self.fail(f"I1 {what}: its own write is missing: {value}")
        if len(value) > len(shown):
            self.shown[op.shard] = value

    def answered(self, op: Op, value: Value) -> None:
        """A client has its answer."""
        began, floor = self.floors.pop(op.client)
        assert began is op
        if len(value) < floor:
            self.fail(f"I2 client {op.client} was answered before {floor} states, and sees {value}")
        self.known[op.shard] = max(self.known.get(op.shard, 0), len(value))
        self.count += 1
        self.reads += not op.request

    def committed(self, world: World, process: Process, shard: ShardId, index: int) -> None:
        """An owner counts entries up to `index` as committed."""
        done = self.done.setdefault(shard, {})
        for at, epoch, body in process.copy_of(shard).log(index):
            found = done.setdefault(at, (epoch, body))
            if found != (epoch, body):
                self.fail(
                    f"I4 {process.store} commits {(epoch, body)} at {at} of shard {shard}, where "
                    f"{found} was committed"
                )
        self._members_have_it(world, shard)

    def recorded(self, world: World) -> None:
        """A record changed."""
        for shard in self.done:
            self._members_have_it(world, shard)

    def _members_have_it(self, world: World, shard: ShardId) -> None:
        done = self.done.get(shard)
        if not done:
            return
        last = max(done)
        record = world.registry.shards[shard].record
        for member in record.in_sync:
            if member in self.excused:
                continue
            disk = world.disks[member]
            kept = disk.kept.get(shard)
            if (
                kept is None
                or shard in disk.marked
                or kept.shape.end < last
                or (last > kept.shape.base and kept.shape.epoch_at(last) != done[last][0])
            ):
                self.fail(
                    f"I4 {member} is in sync for shard {shard} and lacks entry {last} of epoch "
                    f"{done[last][0]}: it has {kept and kept.shape}"
                )

    def check(self, world: World) -> None:
        """After every event."""
        for shard in world.shards:
            able = [
                process.store
                for process in world.processes.values()
                if (owner := process.replicas.owners.get(shard)) is not None
                and owner.may_release_read(process.now())
            ]
            if len(able) > 1:
                self.fail(f"I3 {' and '.join(able)} can both answer for shard {shard}")
