"""The auditor: compares, slowly and in the background, what the copies of our shards really hold.

One piece of one shard at a time: the owner asks every in-sync follower, and its own store, for the hash of the same
rows after the same entry (`inspector.py`), and `core/replication/audit.py` judges. A shard is done when its last piece
is; then comes the next. What changes meanwhile voids the question, not the copies: another epoch, another in-sync
set, a follower that does not answer or is of an older build. It is asked again in the next round.

A copy that is known to be bad is never repaired in place and never silently: an error in the log, a metric, an event in
the coordination store, and `roost status`; then it leaves the in-sync set and is made anew by a snapshot (M7).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from roost.cluster.ids import ShardId
from roost.errors import RoostError
from roost_node.core.overview import LastAudit
from roost_node.core.record import Epoch, StoreId
from roost_node.core.replication.audit import Finding, Outcome, Verdict, judge
from roost_node.core.replication.messages import Audit, Audited
from roost_node.core.replication.owner import Owner
from roost_node.core.replication.replicas import Replicas
from roost_node.replication.inspector import Inspector, Piece
from roost_node.replication.peers import Peers
from roost_node.telemetry import Telemetry

log = logging.getLogger(__name__)

PIECE_S = 8.0  # of the budget; what an iterator pins, it pins about as long
PIECE_BYTES_MIN = 256 * 1024  # a piece costs as much as so many bytes, however small it is
ANSWER_S = 15.0  # more than a state is held up for, and a follower's disk may be busy
NOTHING_S = 1.0  # until the next look, where there was nothing to audit

TellEvent = Callable[[str, Sequence[ShardId], Sequence[StoreId]], Awaitable[None]]


class _Question(msgspec.Struct):
    """The piece that is being compared."""

    number: int
    epoch: Epoch
    asked: frozenset[StoreId]
    findings: dict[StoreId, Finding]
    done: asyncio.Event
    next_key: bytes = b""
    size_bytes: int = 0

    def add(self, store: StoreId, found: Finding) -> None:
        """One store's answer."""
        if store in self.asked:
            self.findings[store] = found
            if len(self.findings) == len(self.asked):
                self.done.set()


class Auditor:
    """Of one node: asks for the shards that it owns, answers for those that it follows."""

    def __init__(
        self,
        replicas: Replicas,
        inspector: Inspector,
        telemetry: Telemetry,
        bytes_per_s: int,
        wall_ms: Callable[[], int],
        now_ms: Callable[[], int],
    ) -> None:
        """`bytes_per_s`: 0, neither ask nor answer."""
        self.peers: Peers
        self.tell_event: TellEvent
        self.carry_out: Callable[[], None]  # what the cores have decided
        self._replicas = replicas
        self._inspector = inspector
        self._telemetry = telemetry
        self._bytes_per_s = bytes_per_s
        self._wall_ms = wall_ms
        self._now_ms = now_ms
        self._number = 0
        self._question: _Question | None = None
        self._last: dict[ShardId, LastAudit] = {}
        self._next = 0
        telemetry.gauges["roost_audit_alarms"] = (
            "own shards whose copies differ, or cannot be read, as of their last audit",
            lambda: sum(bool(last.differ or last.bad) for last in self.last_audits()),
        )

    def last_audits(self) -> list[LastAudit]:
        """Of the shards that we own."""
        return [last for shard, last in self._last.items() if shard in self._replicas.owners]

    async def run(self) -> None:
        """Until cancelled."""
        if not self._bytes_per_s:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._inspector.run())
            while True:
                shard = self._pick()
                if shard is None:
                    await asyncio.sleep(NOTHING_S)
                else:
                    await self._audit(shard)

    def _pick(self) -> ShardId | None:
        """The next shard with copies to compare, round and round."""
        owned = sorted(s for s, owner in self._replicas.owners.items() if self._asked(owner))
        self._last = {s: last for s, last in self._last.items() if s in self._replicas.owners}
        if not owned:
            return None
        shard = next((shard for shard in owned if shard >= self._next), owned[0])
        self._next = shard + 1
        return shard

    def _asked(self, owner: Owner) -> list[StoreId]:
        """Followers that can be asked."""
        me = self._replicas.me
        if not owner.members.is_settled or not owner.is_serving(self._now_ms()):
            return []
        others = [store for store in owner.members.record.in_sync if store != me]
        return [
            store
            for store in others
            if self._replicas.is_linked(store) and self.peers.knows_audits(store)
        ]

    # -- as owner --------------------------------------------------------------------------

    async def _audit(self, shard: ShardId) -> None:
        """All pieces of a shard, or up to the first that could not be compared."""
        loop = asyncio.get_running_loop()
        start, fewest = b"", 0
        while True:
            began_s = loop.time()
            question, verdict = await self._compare(shard, start)
            cost = max(question.size_bytes, PIECE_BYTES_MIN) if question else PIECE_BYTES_MIN
            if verdict is not None and verdict.is_alarm:
                await self._alarm(shard, verdict, question)
            elif verdict is not None:
                fewest = min(fewest, verdict.compared) if start else verdict.compared
            await asyncio.sleep(max(0.0, cost / self._bytes_per_s - (loop.time() - began_s)))
            if question is None or verdict is None or verdict.is_alarm:
                return
            start = question.next_key
            if not start:
                self._last[shard] = LastAudit(shard, self._wall_ms(), fewest)
                return

    async def _compare(
        self, shard: ShardId, start: bytes
    ) -> tuple[_Question | None, Verdict | None]:
        """Ask, wait, judge; None: what was asked about has changed meanwhile, or too few answered."""
        replicas, me = self._replicas, self._replicas.me
        owner = replicas.owners.get(shard)
        asked = self._asked(owner) if owner is not None else []
        if owner is None or not asked:
            return None, None
        self._number += 1
        revision, index = owner.members.revision, owner.shape.end
        bytes_max = max(PIECE_BYTES_MIN, int(self._bytes_per_s * PIECE_S))
        question = _Question(
            self._number, owner.epoch, frozenset((me, *asked)), {}, asyncio.Event()
        )
        self._question = question
        piece = Piece(shard, index, start, bytes_max, self._bytes_per_s)

        def found_here(found: Finding, next_key: bytes, size_bytes: int) -> None:
            question.next_key, question.size_bytes = next_key, size_bytes
            question.add(me, found)

        # In one turn of the loop: nobody can have applied what comes after `index`.
        self._inspector.ask(piece, found_here)
        message = Audit(
            shard, owner.epoch, question.number, index, start, bytes_max, self._bytes_per_s
        )
        for store in asked:
            self.peers.send(store, message)
        try:
            async with asyncio.timeout(ANSWER_S + 2 * bytes_max / self._bytes_per_s):
                await question.done.wait()
        except TimeoutError:
            pass
        finally:
            self._question = None
        members = owner.members
        if replicas.owners.get(shard) is not owner or not owner.runs_calls():
            return question, None
        if not members.is_settled or members.revision != revision:
            return question, None
        self._telemetry.audits += 1
        verdict = judge(members.record.in_sync, question.findings)
        return question, verdict if verdict.is_alarm or verdict.compared > 1 else None

    async def _alarm(self, shard: ShardId, verdict: Verdict, question: _Question | None) -> None:
        """Say it everywhere, then let no bad copy count."""
        assert question is not None, "a verdict has its question"
        owner = self._replicas.owners[shard]
        self._telemetry.audit_alarms += 1
        before = self._last.get(shard)
        concerned = verdict.bad or verdict.unreadable or tuple(sorted(question.findings))
        self._last[shard] = LastAudit(
            shard, self._wall_ms(), verdict.compared, verdict.differ, concerned
        )
        good = [
            store
            for store, found in question.findings.items()
            if found.outcome is Outcome.HASHED and store not in verdict.bad
        ]
        is_acted_on = bool(verdict.bad) and owner.distrust(verdict.bad, good, self._now_ms())
        self.carry_out()
        facts = {
            "shard": shard,
            "epoch": question.epoch,
            "stores": ",".join(concerned),
            "compared": verdict.compared,
            "is_made_anew": is_acted_on,
        }
        if before is not None and before.bad == concerned:
            return  # it was said; only an operator can do anything, or another copy that comes
        if verdict.bad:
            log.error("a copy of a shard is not what the others are", extra=facts)
            what = "a bad copy was found" + (", and is made anew" if is_acted_on else "")
        else:
            log.critical("copies of a shard differ, and nobody knows which is right", extra=facts)
            what = "copies differ, and nobody knows which is right"
        try:
            await self.tell_event(what, (shard,), concerned)
        except RoostError as error:  # the log has it
            log.warning("an event was not written", extra={"error": error.message})

    def on_answer(self, store: StoreId, message: Audited) -> None:
        """A follower's."""
        question = self._question
        if question is not None and (message.number, message.epoch) == (
            question.number,
            question.epoch,
        ):
            question.add(store, Finding(message.outcome, message.digest))

    # -- as follower -----------------------------------------------------------------------

    def on_asked(self, peer: StoreId, stream: int, message: Audit) -> None:
        """An owner's question: answered when it is done, on the stream on which it came."""

        def tell(found: Finding, _: bytes, __: int) -> None:
            answer = Audited(
                message.shard, message.epoch, message.number, found.outcome, found.digest
            )
            self.peers.reply(peer, stream, answer)

        kept = self._replicas.kept_of(message.shard)
        is_whole = kept.seen == message.epoch and not kept.marked and kept.incoming is None
        if not is_whole or message.shard in self._replicas.owners or not message.bytes_per_s:
            tell(Finding(Outcome.MISSED), b"", 0)
            return
        self._inspector.ask(
            Piece(
                message.shard,
                message.index,
                message.start,
                message.bytes_max,
                message.bytes_per_s,
            ),
            tell,
        )
