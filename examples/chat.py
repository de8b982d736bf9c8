"""A chat room: `roost dev examples/chat.py`, then `roost call Room lobby post --arg ...`."""

from collections.abc import AsyncIterator
from datetime import datetime

import msgspec

from counter import Counter as Counter  # served too: every class this module names is
from roost import ApplicationError, DurableObject, method


class Message(msgspec.Struct, frozen=True):
    """One line of a room."""

    number: int
    author: str
    text: str
    time: datetime


class EmptyTextError(ApplicationError):
    """Nobody may post nothing; arrives at the caller as this very class."""


class Room(DurableObject):
    """Members in a field, messages in storage: one row each, in order."""

    members: set[str] = set()
    posted: int = 0

    async def join(self, name: str) -> int:
        """Enter; how many are in now."""
        self.members.add(name)
        return len(self.members)

    async def post(self, author: str, text: str) -> int:
        """Say something; its number in the room."""
        if not text.strip():
            raise EmptyTextError("say something")
        if author not in self.members:
            await self.join(author)
        self.posted += 1
        message = Message(self.posted, author, text, self.ctx.now())
        self.ctx.storage.put(f"message/{self.posted:012}", message)
        return self.posted

    @method(read_only=True)
    async def latest(self, count: int = 20) -> list[Message]:
        """The last messages, oldest first."""
        rows = self.ctx.storage.list(prefix="message/", reverse=True, limit=count, type=Message)
        return [message for _, message in rows][::-1]

    async def history(self) -> AsyncIterator[Message]:
        """Every message, one by one."""
        for _, message in self.ctx.storage.list(prefix="message/", type=Message):
            yield message
