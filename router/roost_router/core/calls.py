"""What a router holds: calls, the clients they came from, the links they went out on.

A call is the caller's bytes, unopened, and what is needed to find its owner, to keep its order and
to end it in time. `id` names it on its client's session; each attempt has an id of its own on a link.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from roost_router.core.admission import Share

FINISHED_MAX = 4096
REFUSED_MAX = 4096  # stubs of a client; beyond it the order costs waiting at the owner
OVERHEAD_BYTES = 512  # of a call, beside its own bytes


class Kind(enum.IntEnum):
    """What travels, in either direction."""

    CALL = 0
    STREAM = 1  # a call whose answer is items, then a reply
    QUERY = 2
    CANCEL = 3
    SKIP = 4
    CREDIT = 5
    REPLY = 6
    ITEM = 7
    OUTCOME = 8


class Sent(NamedTuple):
    """One message on its way. `body` lacks the id of its next hop, which goes with it."""

    kind: Kind
    id: int
    body: bytes = b""
    number: int = 0  # CREDIT: items; CALL: another `oldest` than the body's, or zero


class Line:
    """A peer's queue of messages to be written; `wake` is called when it stops being empty."""

    __slots__ = ("outgoing", "wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.outgoing: list[Sent] = []

    def put(self, message: Sent) -> None:
        """Queue one message."""
        self.outgoing.append(message)
        if len(self.outgoing) == 1:
            self.wake()

    def take(self) -> list[Sent]:
        """All that is queued."""
        taken, self.outgoing = self.outgoing, []
        return taken


class Stub:
    """The calls of one stub of a client: which have ended, so that a new owner waits for none of them.

    A call says which sequence was its stub's lowest when it was sent (`oldest`). Sent again, to an
    owner that knows nothing of the stub, it must not make it wait for what has been answered since.
    """

    __slots__ = ("_finished", "_seen", "open_count")

    def __init__(self) -> None:
        self.open_count = 0
        self._seen = 0  # the highest `oldest` that its caller has said
        self._finished: set[int] = set()

    def on_call(self, oldest: int) -> None:
        """One more was sent."""
        self.open_count += 1
        self._seen = max(self._seen, oldest)

    def finish(self, sequence: int) -> None:
        """It has its final answer, or its caller gave it up."""
        finished = self._finished
        if len(finished) >= 64:
            finished = self._finished = {s for s in finished if s > self._seen}
        if len(finished) < FINISHED_MAX:  # beyond it, an owner waits a second in vain
            finished.add(sequence)

    def oldest(self, oldest: int, sequence: int) -> int:
        """What a call with these two is to say now."""
        low = max(oldest, min(self._seen, sequence))
        while low < sequence and low in self._finished:
            low += 1
        return low


class Client(Line):
    """One session of a caller."""

    __slots__ = ("calls", "calls_max", "is_gone", "refused", "share", "stubs", "unread_bytes")

    def __init__(self, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self.calls: dict[int, Forwarded] = {}
        self.calls_max: int | None = None  # more are refused
        self.stubs: dict[int, Stub] = {}
        self.refused: dict[int, int] = {}  # by stub: the lowest sequence that there was no room for
        self.share = Share()
        self.unread_bytes = 0  # answers that it has not taken
        self.is_gone = False

    def refuse(self, stub_id: int, sequence: int) -> None:
        """There was no room for that call.

        Later ones of its stub would only wait for it, in the room that it needs, so they are refused
        until it has come again.
        """
        if stub_id and (sequence < self.refused.get(stub_id, sequence + 1)):
            if len(self.refused) >= REFUSED_MAX:
                self.refused.pop(next(iter(self.refused)))
            self.refused[stub_id] = sequence

    def may_come(self, stub_id: int, sequence: int) -> bool:
        """Is it not behind a call that was refused?"""
        refused = self.refused.get(stub_id)
        if refused is None:
            return True
        if sequence > refused:
            return False
        del self.refused[stub_id]
        return True

    def answer(self, message: Sent) -> None:
        """Queue an answer."""
        self.unread_bytes += len(message.body) + 32
        self.put(message)


class Link(Line):
    """The stream to one node."""

    __slots__ = ("address", "attempts", "is_leaving", "is_open", "next_id", "via")

    def __init__(self, address: str, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self.address = address
        self.is_open = False
        self.is_leaving = False  # it drains: it answers what it has and takes nothing new
        self.next_id = 0
        self.via = ""  # over which node it goes; empty: straight
        self.attempts: dict[int, Forwarded] = {}


class Forwarded:
    """A call, stream or query that has no final answer yet."""

    __slots__ = (
        "body",
        "bucket",
        "client",
        "deadline_ms",
        "done",
        "earlier",
        "got_items",
        "id",
        "is_unsure",
        "kind",
        "link",
        "link_id",
        "number",
        "oldest",
        "refusal",
        "retry_bucket",
        "sent_to",
        "sequence",
        "shard",
        "stub_id",
        "tries",
        "tries_here",
    )

    def __init__(
        self,
        client: Client,
        kind: Kind,
        id: int,  # noqa: A002
        body: bytes,
        shard: int,
        deadline_ms: int,
        stub_id: int = 0,
        sequence: int = 0,
        oldest: int = 0,
    ) -> None:
        self.client = client
        self.kind = kind
        self.id = id
        self.body = body
        self.shard = shard
        self.deadline_ms = deadline_ms
        self.stub_id = stub_id
        self.sequence = sequence
        self.oldest = oldest
        self.number = 0  # the order of arrival
        self.link: Link | None = None  # where the latest attempt is under way
        self.link_id = 0
        self.earlier: list[tuple[Link, int]] | None = None  # attempts elsewhere, also under way
        self.tries = 0
        self.tries_here = 0  # of these, since it was sent to another node: pauses begin anew there
        self.sent_to: Link | None = None  # the last one
        self.is_unsure = False  # an attempt was lost, or forgotten: it may have had its effect
        self.got_items = False
        self.refusal = b""  # the last one, as it came
        self.bucket = -1
        self.retry_bucket = -1
        self.done = False

    @property
    def size_bytes(self) -> int:
        """What it costs to hold."""
        return len(self.body) + OVERHEAD_BYTES
