"""What one end of a stream has still to say: in order, joined into frames, bounded.

Whoever speaks never waits: it puts a message in and goes on. Above the bound the reader at the other
end is too slow; the outbox is then closed and empty, and its stream is to be ended.
"""

from __future__ import annotations

import asyncio
from collections import deque

from roost.wire.messages import FRAME_BYTES_MAX

FRAME_BYTES = 2**20  # a frame is closed before it grows beyond this
MESSAGE_BYTES_MAX = FRAME_BYTES_MAX  # more would not pass the other end's door, however often
UNSENT_BYTES_MAX = 16 * 2**20


class Outbox:
    """A queue of framed messages with one reader."""

    __slots__ = ("_framed", "_more", "is_closed", "pending_bytes")

    def __init__(self) -> None:
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
        while not framed:
            self._more.clear()
            await self._more.wait()  # what one turn of the loop puts in goes out together
        taken = [framed.popleft()]
        size_bytes = len(taken[0])
        while framed and size_bytes + len(framed[0]) <= FRAME_BYTES:
            size_bytes += len(framed[0])
            taken.append(framed.popleft())
        return b"".join(taken)

    def written(self, frame: bytes) -> None:
        """It has left."""
        if not self.is_closed:
            self.pending_bytes -= len(frame)
