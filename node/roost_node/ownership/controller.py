"""The elected controller: carries out what the plan says.

Every node runs one; the one that is elected reads the map, plans, and changes what is to be changed, at
each hint and at least once a second. A controller that was deposed without knowing changes nothing that
it should not: its transactions compare the records and sessions that it planned on.

Not here: the plan (`core/placement`), who is deposed (`core/replication/deposing.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from roost_node.core.placement.plan import Situation, plan
from roost_node.core.placement.roster import Roster
from roost_node.core.placement.starts import Budgets
from roost_node.core.placement.wish import Change, Create, Promote, SetWish, transaction
from roost_node.core.record import Map, SessionId, Transaction
from roost_node.core.replication.deposing import whom_to_depose
from roost_node.ownership.coordinator import (
    Coordinator,
    CoordinatorDownError,
    CoordinatorRefusedError,
    SessionGoneError,
    UnansweredError,
)

log = logging.getLogger(__name__)

PLAN_EVERY_S = 1.0
PAUSE_S = 0.05
"""Between two plans, however many hints there are."""

CREATE_AFTER_MS = 1_500
"""A new cluster waits so long after the last node came, or the first would get everything."""

WISHES_AT_ONCE = 64
SLOW_SHARDS = 256  # from here on a plan takes longer than the loop should stand still


class Controller:
    """One node's candidate."""

    def __init__(self, coordinator: Coordinator, now_ms: Callable[[], int]) -> None:
        self._coordinator = coordinator
        self._now_ms = now_ms
        self._woken = asyncio.Event()
        self._budgets = Budgets()
        self._came_ms = 0  # when the last new session was seen
        self._sessions: frozenset[SessionId] = frozenset()
        self.is_leader = False

    def wake(self) -> None:
        """Something has changed."""
        self._woken.set()

    async def run(self, session: SessionId) -> None:
        """Campaign in the name of that session, and lead, until it is gone."""
        while True:
            try:
                await self._coordinator.campaign(session)
                await self._lead(session)
            except SessionGoneError:
                return
            except (CoordinatorDownError, UnansweredError, CoordinatorRefusedError) as error:
                log.warning("the controller could not act", extra={"error": error.message})
                await asyncio.sleep(PAUSE_S * 4)
            finally:
                self.is_leader = False

    async def _lead(self, session: SessionId) -> None:
        log.info("this node is the controller", extra={"session": f"{session:016x}"})
        self.is_leader = True
        roster = Roster()
        while True:
            leader = await self._coordinator.leader()
            if leader is None or leader.session != session:
                log.info("another node is the controller")
                return
            found = await self._coordinator.read()
            changed = await self._step(found, roster)
            if not changed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PLAN_EVERY_S):
                        await self._woken.wait()
            self._woken.clear()
            await asyncio.sleep(PAUSE_S)

    async def _step(self, found: Map, roster: Roster) -> bool:
        """One plan; True: something was done, look again soon."""
        now_ms = self._now_ms()
        sessions = frozenset(info.session for info in found.sessions.values())
        if sessions - self._sessions:
            self._came_ms = now_ms
        self._sessions = sessions
        victim = whom_to_depose(found.sessions)
        if victim is not None:
            info = found.sessions[victim]
            log.warning("deposing a node that others cannot reach", extra={"store": victim})
            await self._coordinator.apply(Transaction(reap=info))
            return True
        named = {
            store
            for versioned in found.shards.values()
            for store in (*versioned.record.in_sync, *versioned.record.learners)
        } | {store for wish in found.wishes.values() for store in wish.replicas}
        roster.on_map(found.sessions, named, now_ms)
        situation = Situation(found, roster.places(now_ms))
        if found.config.shards >= SLOW_SHARDS:
            changes = await asyncio.to_thread(plan, situation, self._budgets)
        else:
            changes = plan(situation, self._budgets)
        if any(isinstance(change, Create) for change in changes) and (
            now_ms - self._came_ms < CREATE_AFTER_MS
        ):
            return False
        await self._carry_out(changes, found)
        return bool(changes)

    async def _carry_out(self, changes: tuple[Change, ...], found: Map) -> None:
        promoted: list[Change] = [change for change in changes if isinstance(change, Promote)]
        created: list[Change] = [change for change in changes if isinstance(change, Create)]
        wished = [change for change in changes if isinstance(change, SetWish)]
        if promoted or created or wished:
            log.info(
                "carrying out a plan",
                extra={"promote": len(promoted), "create": len(created), "wish": len(wished)},
            )
        # Each by itself: one whose shard has moved on must not hold up the others.
        for start in range(0, len(promoted) + len(created), 32):
            page = (*promoted, *created)[start : start + 32]
            await asyncio.gather(*(self._apply(transaction(change, found)) for change in page))
        for start in range(0, len(wished), WISHES_AT_ONCE):
            page_of = wished[start : start + WISHES_AT_ONCE]
            wishes = tuple((change.shard, change.wish) for change in page_of)
            await self._apply(Transaction(wishes=wishes))

    async def _apply(self, wanted: Transaction) -> None:
        # The next plan starts from what is there then; only an error that nobody can wait out matters.
        with contextlib.suppress(CoordinatorDownError, UnansweredError):
            await self._coordinator.apply(wanted)
