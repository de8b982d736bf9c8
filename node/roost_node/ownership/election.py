"""Waiting to be elected, the same for every store: stand, and stand again when something moved."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from roost_node.core.record import Leader, SessionId
from roost_node.ownership.coordinator import CoordinatorDownError, Hint, UnansweredError

POLL_S = 2.0
"""A watch may be silent for longer than the key is free: ask without being told, too."""

PAUSE_S = 0.2
"""After a failure. Short, because nothing is repaired while nobody leads."""


class Standing(msgspec.Struct, frozen=True):
    """Who leads after we stood, as of which revision."""

    leader: Leader | None
    revision: int


async def campaign(
    session: SessionId,
    stand: Callable[[], Awaitable[Standing]],
    changes: Callable[[int], AsyncGenerator[Hint, None]],
) -> Leader:
    """Return when this session leads. `stand` raises `SessionGoneError` when it no longer can."""
    while True:
        try:
            standing = await stand()
        except (CoordinatorDownError, UnansweredError):
            await asyncio.sleep(PAUSE_S)
            continue  # O2: if the lost request made us leader, the next answer says so
        leader = standing.leader
        if leader is not None and leader.session == session:
            return leader
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(POLL_S),
                contextlib.aclosing(changes(standing.revision)) as hints,
            ):
                await anext(hints)
