"""The heart of a router: calls in, attempts out; answers back.

A call of a client becomes an attempt on the link to its shard's owner. While the owner is not known,
leaves or cannot be reached, calls are parked; they leave in the order of their arrival as soon as
there is a way. What was under way on a link that broke is parked likewise: every attempt carries the
call's request id, so sending again is safe (DESIGN 1.4). When the map names another owner, calls that
wait for the old one go to the new one too, and the first final answer counts, whoever gives it:
an owner that was deposed can release nothing (R2, R3).

Invariant: a call that was taken is under way on some link, or parked, or waits for its retry, until it
gets one answer, its caller takes it back, or its caller is gone.
Invariant: one stub's calls go out in the order in which they came, and again in that order; which of
them may start is for the node to say.

Not here: bytes and streams (`server.py`, `links.py`), which failure is sent again (`retry.py`), where calls
wait that are not under way (`waiting.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from roost.cluster.shard_map import ShardRecord
from roost.wire.deadlines import Deadlines
from roost.wire.messages import MAYBE_EFFECT, NO_EFFECT, ErrorInfo, Status
from roost_router.core.admission import Admission
from roost_router.core.calls import Client, Forwarded, Kind, Link, Sent, Stub
from roost_router.core.retry import Verdict, pause_ms, verdict
from roost_router.core.table import Table
from roost_router.core.waiting import Waiting, by_number

ANSWER_SLACK_MS = 20  # the owner's own word on a deadline is worth waiting for
EARLIER_MAX = 4
OF_ONE_ATTEMPT = (
    Status.UNAVAILABLE,
    Status.OVERLOADED,
    Status.DISK_FULL,
    Status.DEADLINE_EXCEEDED,
)
"""What says "nothing happened" of the attempt that was refused, and knows of no other."""

STREAM_BROKE = (
    "the connection broke while the stream was open, after items had arrived: open it again"
)


class Words(Protocol):
    """How the door says an error of the router's own, and what the router knows better than a node."""

    def reply(self, status: Status, info: ErrorInfo) -> bytes:
        """The body of a reply."""

    def outcome(self, status: Status, info: ErrorInfo) -> bytes:
        """The body of the answer to a query."""

    def name(self, body: bytes) -> str:
        """A call as people are to read of it: Class/key.method."""

    def unsure(self, refusal: bytes) -> bytes:
        """A refusal that does not say any more that nothing happened."""


class Counts:
    """What happened, for the metrics."""

    __slots__ = ("again", "answered", "lost", "moved", "refused", "taken")

    def __init__(self) -> None:
        self.taken = 0
        self.answered = 0
        self.refused = 0  # for lack of room here
        self.again = 0  # sent again after a refusal
        self.lost = 0  # unfinished on a link that broke
        self.moved = 0  # sent to a new owner while the old one had it


class Forwarder:
    """All calls of one router."""

    def __init__(
        self,
        table: Table,
        admission: Admission,
        words: Words,
        jitter: Callable[[], float],
        on_new_link: Callable[[str], Link],
    ) -> None:
        self._table = table
        self._admission = admission
        self._words = words
        self._jitter = jitter  # 0 to 1
        self._on_new_link = on_new_link
        self.links: dict[str, Link] = {}
        self._routes: dict[int, Link] = {}  # shards whose owner can be sent to now
        self._deadlines: Deadlines[Forwarded] = Deadlines()
        self._waiting = Waiting()
        self._arrived = 0
        self.counts = Counts()

    # -- from clients ----------------------------------------------------------------------

    def on_call(self, call: Forwarded) -> None:
        """A client asks."""
        client = call.client
        if call.id in client.calls:
            return  # an id names one attempt: this client counts wrong
        size = call.size_bytes
        most = client.calls_max
        if most is not None and len(client.calls) >= most:
            why: str | None = (
                f"this session has {len(client.calls)} unfinished calls, at most {most} "
                f"(session_calls_max)"
            )
        else:
            why = self._admission.refusal(client.share, size)
        if client.refused and why is None and not client.may_come(call.stub_id, call.sequence):
            why = "an earlier call of this stub was refused"
        if why is not None:
            self.counts.refused += 1
            client.refuse(call.stub_id, call.sequence)
            self._answer_refusal(call, why)
            return
        self._admission.open(client.share, size)
        self.counts.taken += 1
        self._arrived += 1
        call.number = self._arrived
        client.calls[call.id] = call
        if call.stub_id:
            stub = client.stubs.get(call.stub_id)
            if stub is None:
                stub = client.stubs[call.stub_id] = Stub()
            stub.on_call(call.oldest)
        call.bucket = self._deadlines.add(call, call.deadline_ms + ANSWER_SLACK_MS)
        link = self._routes.get(call.shard)
        if link is None:
            self._waiting.park(call)
        else:
            self._send(call, link, 0)

    def on_cancel(self, client: Client, call_id: int) -> None:
        """A client takes a call back."""
        call = client.calls.get(call_id)
        if call is not None:
            self._close(call, cancel=True)

    def on_skip(self, client: Client, shard: int, stub_id: int, sequence: int, body: bytes) -> None:
        """A client gave a call up for good."""
        stub = client.stubs.get(stub_id)
        if stub is not None:
            stub.finish(sequence)
        client.may_come(stub_id, sequence)
        link = self._routes.get(shard)
        if link is not None:  # else whatever is sent later says that it is finished
            link.put(Sent(Kind.SKIP, 0, body))

    def on_credit(self, client: Client, call_id: int, items: int) -> None:
        """A client has room for more items."""
        call = client.calls.get(call_id)
        if call is not None and call.kind is Kind.STREAM and call.link is not None:
            call.link.put(Sent(Kind.CREDIT, call.link_id, number=items))

    def on_client_gone(self, client: Client) -> None:
        """It hung up: its calls go on at their owners, its streams have nobody to go to.

        It asks for its answers again, over this router or another; they come from the records.
        """
        client.is_gone = True
        for call in list(client.calls.values()):
            self._close(call, cancel=call.kind is Kind.STREAM)
        client.outgoing = []

    # -- from nodes ------------------------------------------------------------------------

    def on_link_open(self, link: Link) -> None:
        """The node said hello."""
        link.is_open, link.is_leaving = True, False
        self._reroute(r.shard for r in self._table.map if r.address == link.address)

    def on_link_leaving(self, link: Link) -> None:
        """The node drains: it answers what it has, and takes nothing new."""
        link.is_leaving = True
        self._unroute(link)

    def on_link_lost(self, link: Link) -> None:
        """The stream broke: everything unfinished on it goes out again, in order."""
        link.is_open = link.is_leaving = False
        self._unroute(link)
        attempts, link.attempts = link.attempts, {}
        link.outgoing = []
        self.counts.lost += len(attempts)
        for call, link_id in sorted(
            ((call, link_id) for link_id, call in attempts.items()), key=lambda a: a[0].number
        ):
            call.is_unsure = True
            self._drop_attempt(call, link, link_id)
            if call.link is not None:
                continue  # it is under way elsewhere
            if call.got_items:
                info = ErrorInfo(STREAM_BROKE, MAYBE_EFFECT)
                self._end(call, Kind.REPLY, self._words.reply(Status.OUTCOME_UNKNOWN, info))
            else:
                self._go(call)

    def on_reply(
        self,
        link: Link,
        link_id: int,
        status: int,
        epoch: int,
        body: bytes,
        now_ms: int,
        *,
        is_final: bool = False,
    ) -> None:
        """An answer to a call. Only the first final one to a call that is waited for counts.

        `is_final`: whatever its status lets one hope, the node will give no other.
        """
        call = link.attempts.pop(link_id, None)
        if call is None:
            return
        if status:
            self._on_error(call, link, link_id, status, Kind.REPLY, body, now_ms, is_final)
            return
        self._end(call, Kind.REPLY, body, over=True)
        if epoch > self._table.epoch_of(call.shard):  # a higher epoch is news, a lower one never
            self._learn_owner(link, call.shard, epoch)

    def on_item(self, link: Link, link_id: int, body: bytes) -> None:
        """One item of a stream."""
        call = link.attempts.get(link_id)
        if call is not None:
            call.got_items = True
            call.client.answer(Sent(Kind.ITEM, call.id, body))

    def on_outcome(
        self, link: Link, link_id: int, status: int, is_known: bool, body: bytes, now_ms: int
    ) -> None:
        """An answer to a query. `is_known`: a status that comes with it is the call's, not the query's."""
        call = link.attempts.pop(link_id, None)
        if call is None:
            return
        if status and not is_known:
            self._on_error(call, link, link_id, status, Kind.OUTCOME, body, now_ms, False)
        else:
            self._end(call, Kind.OUTCOME, body)

    def on_news(self, news: Iterable[ShardRecord]) -> list[ShardRecord]:
        """Who owns what, from a node, in any order; what of it is new."""
        changed = self._table.learn(news)
        for record in changed:
            if record.address and record.address not in self.links:
                self.links[record.address] = self._on_new_link(record.address)
        if changed:
            self._reroute(record.shard for record in changed)
        return changed

    def _learn_owner(self, link: Link, shard: int, epoch: int) -> None:
        """A node answered at an epoch that the map does not know yet: it owned the shard then."""
        self.on_news((ShardRecord(shard, epoch, "", link.address),))

    # -- time ------------------------------------------------------------------------------

    def on_tick(self, now_ms: int) -> None:
        """Send refused calls again; end those whose deadline is over."""
        self._admission.on_tick(now_ms)
        if len(self._deadlines):
            for call in self._deadlines.due(now_ms):
                call.bucket = -1
                self._expire(call)
        for call in self._waiting.due(now_ms):
            self.counts.again += 1
            self._go(call)

    def _expire(self, call: Forwarded) -> None:
        under_way = call.link is not None
        if call.refusal and not under_way and not call.is_unsure:
            # Nothing happened, and this is why; the caller would find the deadline by itself.
            kind = Kind.OUTCOME if call.kind is Kind.QUERY else Kind.REPLY
            self._end(call, kind, call.refusal)
            return
        if call.got_items:  # it has answered all the time
            info = ErrorInfo(f"the deadline of {self._words.name(call.body)} passed", MAYBE_EFFECT)
        elif under_way or call.is_unsure:
            why = f"the owner of shard {call.shard} has not answered in time"
            info = ErrorInfo(why, MAYBE_EFFECT)
        else:
            why = f"no owner of shard {call.shard} could be reached in time"
            info = ErrorInfo(why, NO_EFFECT)
        if call.kind is Kind.QUERY:
            self._end(call, Kind.OUTCOME, self._words.outcome(Status.UNAVAILABLE, info))
        else:
            body = self._words.reply(Status.DEADLINE_EXCEEDED, info)
            self._end(call, Kind.REPLY, body, over=True, cancel=True)

    # -- ways ------------------------------------------------------------------------------

    def _reroute(self, shards: Iterable[int]) -> None:
        """The way to these shards may have changed.

        Let parked calls go, and let calls that wait for the old owner follow to the new one.
        """
        opened: set[int] = set()
        for shard in shards:
            address = self._table.address_of(shard)
            link = self.links.get(address) if address else None
            if link is not None and link.is_open and not link.is_leaving:
                self._routes[shard] = link
                opened.add(shard)
            else:
                self._routes.pop(shard, None)
        if not opened:
            return
        waiting = self._waiting.take_parked(opened)
        following = [
            call
            for link in self.links.values()
            for call in link.attempts.values()
            if call.shard in opened and call.link is link and self._routes[call.shard] is not link
        ]
        self.counts.moved += len(following)
        # What an owner before has refused: what it waits for is here.
        refused = self._waiting.take_paused(
            opened, lambda call: self._routes[call.shard] is not call.sent_to
        )
        self.counts.again += len(refused)
        for call in sorted(waiting + refused + following, key=by_number):
            if call.link is None or call.kind is not Kind.STREAM:  # a stream is not run twice
                self._go(call)

    def _unroute(self, link: Link) -> None:
        for shard in [shard for shard, to in self._routes.items() if to is link]:
            del self._routes[shard]

    def _go(self, call: Forwarded) -> None:
        """Send it, or park it until there is a way; what is under way there already stays."""
        link = self._routes.get(call.shard)
        if link is None:
            if call.link is None:
                self._waiting.park(call)
            return
        if link is call.link:
            return
        stub = call.client.stubs.get(call.stub_id)
        oldest = stub.oldest(call.oldest, call.sequence) if stub is not None else 0
        self._send(call, link, oldest if oldest != call.oldest else 0)

    def _send(self, call: Forwarded, link: Link, oldest: int) -> None:
        if call.link is not None:
            if call.earlier is None:
                call.earlier = []
            call.earlier.append((call.link, call.link_id))
            if len(call.earlier) > EARLIER_MAX:
                # Not taken back: the call goes on, and one that was would be out of its stub's order.
                forgotten, forgotten_id = call.earlier.pop(0)
                forgotten.attempts.pop(forgotten_id, None)
                call.is_unsure = True
        link.next_id += 1
        call.link, call.link_id = link, link.next_id
        call.tries += 1
        call.tries_here = call.tries_here + 1 if call.sent_to is link else 1
        call.sent_to = link
        link.attempts[link.next_id] = call
        link.put(Sent(call.kind, link.next_id, call.body, oldest))

    # -- ends ------------------------------------------------------------------------------

    def _on_error(
        self,
        call: Forwarded,
        link: Link,
        link_id: int,
        status: int,
        kind: Kind,
        body: bytes,
        now_ms: int,
        is_final: bool,
    ) -> None:
        decided = verdict(status, call.tries, in_order=call.stub_id != 0, is_final=is_final)
        if decided is not Verdict.AGAIN and status in OF_ONE_ATTEMPT and call.kind is Kind.CALL:
            self._drop_attempt(call, link, link_id)
            if call.is_unsure or call.link is not None:
                body = self._words.unsure(body)
        if call.got_items or decided is Verdict.FINAL:
            self._end(call, kind, body, over=True, cancel=True)
            return
        if decided is Verdict.BACK:
            # Attempts elsewhere are forgotten, not taken back: the call is not over, and its stub's
            # later calls must not start before it comes again.
            self._end(call, kind, body)
            return
        self._drop_attempt(call, link, link_id)
        call.refusal = body
        if self._routes.get(call.shard) is not link:
            self.counts.again += 1
            self._go(call)  # the map has gone on: to the owner it names, or to wait for it
        elif call.retry_bucket < 0:
            self._waiting.pause(call, now_ms + pause_ms(call.tries_here, self._jitter()))

    def _drop_attempt(self, call: Forwarded, link: Link, link_id: int) -> None:
        """That attempt will not be answered; an earlier one that is under way takes its place."""
        if call.link is link and call.link_id == link_id:
            call.link, call.link_id = call.earlier.pop() if call.earlier else (None, 0)
        elif call.earlier:
            call.earlier = [e for e in call.earlier if e != (link, link_id)]

    def _end(
        self, call: Forwarded, kind: Kind, body: bytes, *, over: bool = False, cancel: bool = False
    ) -> None:
        """Give the answer. `over`: its caller will not send it again."""
        client = call.client
        # An error is final only when no earlier attempt can have an effect any more (DESIGN 6.2).
        self._close(call, cancel=cancel)
        if over and call.stub_id:
            stub = client.stubs.get(call.stub_id)
            if stub is not None:
                stub.finish(call.sequence)
        self.counts.answered += 1
        client.answer(Sent(kind, call.id, body))

    def _close(self, call: Forwarded, *, cancel: bool) -> None:
        """Forget it; `cancel`: and tell those who have it."""
        call.done = True
        client = call.client
        del client.calls[call.id]
        link = call.link
        if link is not None:
            if link.attempts.pop(call.link_id, None) is not None and cancel:
                link.put(Sent(Kind.CANCEL, call.link_id))
            call.link = None
        self._waiting.forget(call)
        if call.earlier:
            for other, link_id in call.earlier:
                if other.attempts.pop(link_id, None) is not None and cancel:
                    other.put(Sent(Kind.CANCEL, link_id))
            call.earlier = None
        if call.bucket >= 0:
            self._deadlines.discard(call, call.bucket)
        if call.stub_id:
            stub = client.stubs[call.stub_id]
            stub.open_count -= 1
            if not stub.open_count:
                del client.stubs[call.stub_id]
        self._admission.close(client.share, call.size_bytes)

    def _answer_refusal(self, call: Forwarded, why: str) -> None:
        retry_after_s = self._admission.retry_after_s()
        info = ErrorInfo(f"{why}: try again in {retry_after_s:.2f} s", retry_after_s=retry_after_s)
        if call.kind is Kind.QUERY:
            body = self._words.outcome(Status.OVERLOADED, info)
            call.client.answer(Sent(Kind.OUTCOME, call.id, body))
        else:
            body = self._words.reply(Status.OVERLOADED, info)
            call.client.answer(Sent(Kind.REPLY, call.id, body))

    # -- for metrics and for the shells ----------------------------------------------------

    @property
    def parked_count(self) -> int:
        """Calls that wait for a way to their owner."""
        return self._waiting.parked_count

    @property
    def paused_count(self) -> int:
        """Calls that were refused and are to be tried again."""
        return self._waiting.paused_count

    @property
    def open_calls(self) -> int:
        """Calls that have no final answer yet."""
        return self._admission.open_calls

    @property
    def open_bytes(self) -> int:
        """Bytes of these."""
        return self._admission.open_bytes

    @property
    def is_idle(self) -> bool:
        """No call is open."""
        return self._admission.open_calls == 0

    def forget_link(self, link: Link) -> None:
        """The map names its address no more, and nothing is under way on it."""
        assert not link.attempts, "a link with calls under way is not to be forgotten"
        self.links.pop(link.address, None)
