"""What one end of a stream has still to say: in order, joined into frames, bounded.

Whoever speaks never waits: it puts a message in and goes on. Above the bound the reader at the other
end is too slow; the outbox is then closed and empty, and its stream is to be ended.

One that *gathers* holds the next frame back until the last one was answered. A follower answers once for each
flush, so what an owner says meanwhile would only wait there. As much work needs fewer frames, and
a frame costs as much as several entries: three nodes with three copies and 128 callers had 4 frames a call, and half
the calls a second.
"""

from __future__ import annotations

import asyncio
from collections import deque

from roost.wire.messages import FRAME_BYTES_MAX

FRAME_BYTES = 2**20  # a frame is closed before it grows beyond this
MESSAGE_BYTES_MAX = FRAME_BYTES_MAX  # more would not pass the other end's door, however often
SMALL_BYTES = 64 * 2**10  # larger ones gain nothing by waiting
UNSENT_BYTES_MAX = 16 * 2**20


class Outbox:
    """A queue of framed messages with one reader."""

    __slots__ = ("_framed", "_gather_s", "_may_go", "_more", "is_closed", "pending_bytes")

    def __init__(self, gather_s: float = 0.0) -> None:
        """`gather_s`: how long the next frame waits for the answer to a small one, at most."""
        self._gather_s = gather_s
        self._may_go = asyncio.Event()
        self._may_go.set()
        self._framed: deque[bytes] = deque()
        self._more = asyncio.Event()
        self.pending_bytes = 0  # queued, or in the frame that is being written
        self.is_closed = False

    def put(self, framed: bytes) -> bool:
        """False: it has become too much, all is dropped. What comes after closing is dropped too."""
        if self.is_closed:
            return True
        assert len(framed) <= MESSAGE_BYTES_MAX, "a message is larger than a frame may be"
        self.pending_bytes += len(framed)
        if self.pending_bytes > UNSENT_BYTES_MAX:
            self.close()
            return False
        self._framed.append(framed)
        self._more.set()
        return True

    def close(self) -> None:
        """Drop everything."""
        self.is_closed = True
        self._framed.clear()
        self.pending_bytes = 0

    async def frame(self) -> bytes:
        """The next frame; waits while there is none. `written` follows."""
        framed = self._framed
        await self._may_go.wait()
        while not framed:
            self._more.clear()
            await self._more.wait()  # what one turn of the loop puts in goes out together
        taken = [framed.popleft()]
        size_bytes = len(taken[0])
        while framed and size_bytes + len(framed[0]) <= FRAME_BYTES:
            size_bytes += len(framed[0])
            taken.append(framed.popleft())
        if self._gather_s and size_bytes < SMALL_BYTES:
            self._may_go = asyncio.Event()  # of its own: the timer of an older one means nothing
            asyncio.get_running_loop().call_later(self._gather_s, self._may_go.set)
        return b"".join(taken)

    def answered(self) -> None:
        """The other end said something."""
        self._may_go.set()

    def written(self, frame: bytes) -> None:
        """It has left."""
        if not self.is_closed:
            self.pending_bytes -= len(frame)
