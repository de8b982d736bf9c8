"""The elected controller: sees what is in the coordination store, and changes what the plan says.

Every node runs one; one of them is elected. It looks at the whole map at each hint, at most every 50 ms and
at least every second, and does, the most urgent first:

1. *depose* a node that reaches the store but not its followers, one a second (F2): the others must have the
   time to say what they see now;
2. *fail over* the shards of sessions that are gone (F1), on the spot: that copies nothing;
3. *create* shards and write *wishes*, as planned. A plan for thousands of shards takes seconds, so it is
   made and carried out beside the looking, in a thread; failovers never wait for it.

It decides nothing that must hold. A controller that was paused and does not know that another one leads
changes nothing: its transactions compare what it planned on (O1, O5) and its own session. What is lost or
unanswered shows in the next look. It asks nobody but the store, and remembers only what may be forgotten:
who has been away since when.

A map that runs back (O7) is not acted on, and said loudly, until an operator raises the generation.

Not here: the plan (`core/placement/`), the election (`election.py`), what owners do about wishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from roost_node.core.placement.allowance import Allowance
from roost_node.core.placement.bundles import Bundle, bundled
from roost_node.core.placement.deposing import whom_to_depose
from roost_node.core.placement.plan import Situation, failovers, plan
from roost_node.core.placement.roster import GRACE_MS, Place, Roster, named_in
from roost_node.core.placement.starts import Budgets
from roost_node.core.placement.wish import Change, Create, Promote, SetWish
from roost_node.core.record import (
    Guard,
    Leader,
    Map,
    SessionId,
    SessionInfo,
    StoreId,
    Transaction,
    is_gone,
)
from roost_node.core.timeline import Timeline
from roost_node.ownership.coordinator import (
    Coordinator,
    CoordinatorDownError,
    CoordinatorRefusedError,
    Restored,
    SessionGoneError,
    UnansweredError,
)
from roost_node.storage.sizes import Sizes

log = logging.getLogger(__name__)

FAILURES = (CoordinatorDownError, UnansweredError, CoordinatorRefusedError)
ASIDE_SHARDS_MIN = 256
"""From so many shards on a plan takes longer than the loop may stand still (34 ms at rest for 1,024)."""

AT_ONCE = 16
"""Transactions under way, when a bundle has to be carried out one by one."""

Planner = Callable[[Situation, Budgets], Awaitable[tuple[Change, ...]]]


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """How eager a controller is."""

    pause_s: float = 0.05  # between two looks, however many hints there are
    look_every_s: float = 1.0  # without any hint
    create_after_s: float = (
        1.0  # after the last new store: else the first to come would own everything
    )
    depose_every_s: float = 1.0
    retry_s: float = 0.2  # after the store failed
    bytes_per_s: int = 64 << 20  # of copies that begin
    grace_ms: int = GRACE_MS
    budgets: Budgets = field(default_factory=Budgets)


async def plan_aside(situation: Situation, budgets: Budgets) -> tuple[Change, ...]:
    """The plan; a large one is made in a thread."""
    if situation.map.config.shards < ASIDE_SHARDS_MIN:
        return plan(situation, budgets)
    return await asyncio.to_thread(plan, situation, budgets)


class Controller:
    """One node's candidate."""

    def __init__(
        self,
        coordinator: Coordinator,
        now_ms: Callable[[], int],
        generation: int,
        settings: ControllerSettings | None = None,
        planner: Planner = plan_aside,
        sizes: Sizes = dict,
    ) -> None:
        """`now_ms` never runs back. `generation`: the cluster's, as this process found it.

        `sizes`: bytes of a copy of each shard, as far as known.
        """
        self._coordinator = coordinator
        self._now_ms = now_ms
        self._settings = settings or ControllerSettings()
        self._planner = planner
        self._sizes = sizes
        self._timeline = Timeline(generation)  # outlives terms: what was seen was seen
        self._restored: Restored | None = None
        self._is_alarmed = False
        self.is_leader = False

    async def run(self, session: SessionId) -> None:
        """Campaign under this session and lead, as often as it is elected; return when the session is gone.

        To be cancelled when the session is lost: what is under way then is stopped by its guards.
        """
        while True:
            try:
                leader = await self._coordinator.campaign(session)
                self.is_leader = True
                log.info("this node is the controller", extra=_name(leader))
                await self._lead(leader)
                log.info("this node is the controller no longer", extra=_name(leader))
            except SessionGoneError:
                return
            except Exception:  # a defect of ours, or of what is stored: another node is to try
                log.exception("the controller failed")
                with contextlib.suppress(*FAILURES):
                    await self._coordinator.resign(session)
                await asyncio.sleep(self._settings.look_every_s)
            finally:
                self.is_leader = False

    async def _lead(self, leader: Leader) -> None:
        async with asyncio.TaskGroup() as tasks:
            term = _Term(self, leader, tasks)
            try:
                await term.run()
            finally:
                term.stop()

    def _trusts(self, found: Map) -> bool:
        """O7: false from when the store went back until its generation is raised."""
        restored = self._coordinator.restored
        if restored != self._restored:
            self._restored = restored
            self._timeline.on_restored()
        is_forward = self._timeline.is_forward(found.config.generation, found.revision)
        if not is_forward and not self._is_alarmed:
            log.critical(
                "the coordination store has gone back in time: no shard is repaired or moved until an"
                " operator raises the cluster's generation",
                extra={"generation": found.config.generation, "revision": found.revision},
            )
        self._is_alarmed = not is_forward
        return is_forward


class _Term:
    """From an election to its end."""

    def __init__(self, controller: Controller, leader: Leader, tasks: asyncio.TaskGroup) -> None:
        self._controller = controller
        self._coordinator = controller._coordinator
        self._now_ms = controller._now_ms
        self._settings = controller._settings
        self._leader = leader
        self._guard = Guard(leader.store, leader.session, alive=True)
        self._tasks = tasks
        self._roster = Roster()
        self._allowance = Allowance(self._settings.bytes_per_s, self._now_ms())
        self._woken = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._planning: asyncio.Task[None] | None = None
        self._is_overtaken = False  # there was news while a plan was made
        self._stores: set[StoreId] = set()
        self._came_ms = 0  # when the last new store was first seen
        self._deposed_ms = -(1 << 60)
        self._rest: tuple[int, dict[StoreId, Place]] | None = None  # where nothing was left to do

    async def run(self) -> None:
        """Until another one leads, or the session is gone."""
        while True:
            self._woken.clear()
            pause_s = self._settings.pause_s
            try:
                if not await self._look():
                    return
            except FAILURES as error:
                log.warning("the controller could not act", extra={"error": error.message})
                pause_s = self._settings.retry_s
            wait_s = self._until_next_s()  # now: a due time may pass in the pause
            await asyncio.sleep(pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s - pause_s):
                    await self._woken.wait()

    def stop(self) -> None:
        """Look and plan no more."""
        for task in (self._watching, self._planning):
            if task is not None:
                task.cancel()

    # --- looking

    async def _look(self) -> bool:
        """One look and what is urgent. False: this is not the controller any more."""
        was_planning = self._planning is not None and not self._planning.done()
        leader = await self._coordinator.leader()
        found = await self._coordinator.read()
        if self._watching is None:
            self._watching = self._tasks.create_task(self._watch(found.revision))
        if leader != self._leader or is_gone(
            found.sessions, self._leader.store, self._leader.session
        ):
            return False
        if not self._controller._trusts(found):
            return True
        now_ms = self._now_ms()
        if set(found.sessions) - self._stores:
            self._came_ms = now_ms
            self._stores |= set(found.sessions)
        await self._depose(found, now_ms)
        self._roster.on_map(found.sessions, named_in(found), now_ms, found.drains)
        places = self._roster.places(now_ms, self._settings.grace_ms)
        situation = Situation(
            found, places, dict(self._controller._sizes()), self._allowance.left(now_ms)
        )
        urgent = failovers(situation)
        if urgent:
            await self._carry_out(urgent, found)
        elif was_planning:  # it may have written since we read
            self._is_overtaken = True
        elif self._rest != (found.revision, places) and self._creates_at_ms(found) <= now_ms:
            self._is_overtaken = False
            self._planning = self._tasks.create_task(self._plan(situation))
        return True

    async def _watch(self, after: int) -> None:
        hints = self._coordinator.changes(after)
        async for _ in hints:
            self._woken.set()

    def _until_next_s(self) -> float:
        """How long nothing happens by itself."""
        now_ms = self._now_ms()
        dues_ms = [now_ms + int(self._settings.look_every_s * 1000)]
        grace_ms = self._roster.next_change_ms(self._settings.grace_ms)
        if grace_ms is not None and grace_ms > now_ms:
            dues_ms.append(grace_ms)
        create_ms = self._came_ms + int(self._settings.create_after_s * 1000)
        if create_ms > now_ms:
            dues_ms.append(create_ms)
        return (min(dues_ms) - now_ms) / 1000

    def _creates_at_ms(self, found: Map) -> int:
        """From when on shards may be created; 0 where all are."""
        if len(found.shards) == found.config.shards:
            return 0
        return self._came_ms + int(self._settings.create_after_s * 1000)

    # --- acting

    async def _depose(self, found: Map, now_ms: int) -> None:
        victim = whom_to_depose(found.sessions)
        if victim is None or now_ms - self._deposed_ms < self._settings.depose_every_s * 1000:
            return
        self._deposed_ms = now_ms
        info: SessionInfo = found.sessions[victim]
        log.warning(
            "deposing a node that does not reach its followers",
            extra={"store": victim, "stuck_on": info.stuck_on, "unreachable": info.unreachable},
        )
        # No death is written: its process lives, and the promises to it count (P6).
        await self._coordinator.apply(Transaction(guards=(self._guard,), reap=info))
        self._woken.set()  # its shards wait, and a hint may be late

    async def _plan(self, situation: Situation) -> None:
        try:
            changes = await self._controller._planner(situation, self._settings.budgets)
            for change in changes:
                if isinstance(change, SetWish):
                    self._allowance.take(change.bytes)
            if changes:
                await self._carry_out(changes, situation.map)
            elif situation.bytes_left > 0:  # or a copy may wait for nothing but time
                self._rest = situation.map.revision, situation.places
        except FAILURES as error:
            log.warning("the controller could not act", extra={"error": error.message})
            await asyncio.sleep(self._settings.retry_s)
        if self._is_overtaken:
            self._woken.set()

    async def _carry_out(self, changes: tuple[Change, ...], found: Map) -> None:
        counts = {
            name: sum(isinstance(change, kind) for change in changes)
            for name, kind in (("failovers", Promote), ("creations", Create), ("wishes", SetWish))
        }
        log.info("carrying out a plan", extra={k: n for k, n in counts.items() if n})
        for bundle in bundled(changes, found, self._guard):
            applied = await self._coordinator.apply(bundle.transaction)
            if not applied.succeeded and len(bundle.changes) > 1:
                await self._apart(bundle, found)

    async def _apart(self, bundle: Bundle, found: Map) -> None:
        """One shard that has moved on must not hold up the others."""
        singles = bundle.apart(found, self._guard)
        for start in range(0, len(singles), AT_ONCE):
            page = singles[start : start + AT_ONCE]
            await asyncio.gather(*(self._coordinator.apply(one.transaction) for one in page))


def _name(leader: Leader) -> dict[str, str]:
    return {"store": leader.store, "session": f"{leader.session:016x}"}
