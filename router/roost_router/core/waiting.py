"""Calls of a router that are not under way, by shard: *parked* for lack of a way, or *paused* until their next try.

A call that was refused may be paused and yet under way elsewhere (an earlier attempt); one that is parked
is nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from roost.wire.deadlines import Deadlines
from roost_router.core.calls import Forwarded


class Waiting:
    """All of one router."""

    def __init__(self) -> None:
        self._parked: dict[int, dict[Forwarded, None]] = {}
        self._paused: dict[int, dict[Forwarded, None]] = {}
        self._retries: Deadlines[Forwarded] = Deadlines()  # when pauses end

    def park(self, call: Forwarded) -> None:
        """Until there is a way to its shard's owner."""
        self._parked.setdefault(call.shard, {})[call] = None

    def take_parked(self, shards: Iterable[int]) -> list[Forwarded]:
        """There is a way to these."""
        parked: list[Forwarded] = []
        for shard in shards & self._parked.keys():
            parked += self._parked.pop(shard)
        return parked

    def pause(self, call: Forwarded, until_ms: int) -> None:
        """Until its next try."""
        call.retry_bucket = self._retries.add(call, until_ms)
        self._paused.setdefault(call.shard, {})[call] = None

    def due(self, now_ms: int) -> list[Forwarded]:
        """Whose pauses are over, in the order in which they came."""
        if not len(self._retries):
            return []
        due = [call for call in self._retries.due(now_ms) if not call.done]
        for call in due:
            call.retry_bucket = -1
            self._forget_pause(call)
        return sorted(due, key=by_number)

    def take_paused(
        self, shards: Iterable[int], has_moved: Callable[[Forwarded], bool]
    ) -> list[Forwarded]:
        """Calls to these shards whose owner is another now than the one that refused them."""
        taken = [
            call
            for shard in shards & self._paused.keys()
            for call in self._paused[shard]
            if has_moved(call)
        ]
        for call in taken:
            self._end_pause(call)
        return taken

    def forget(self, call: Forwarded) -> None:
        """It is over."""
        parked = self._parked.get(call.shard)
        if parked is not None:
            parked.pop(call, None)
            if not parked:
                del self._parked[call.shard]
        if call.retry_bucket >= 0:
            self._end_pause(call)

    def _end_pause(self, call: Forwarded) -> None:
        self._retries.discard(call, call.retry_bucket)
        call.retry_bucket = -1
        self._forget_pause(call)

    def _forget_pause(self, call: Forwarded) -> None:
        paused = self._paused[call.shard]
        del paused[call]
        if not paused:
            del self._paused[call.shard]

    @property
    def parked_count(self) -> int:
        """Calls without a way."""
        return sum(map(len, self._parked.values()))

    @property
    def paused_count(self) -> int:
        """Calls that were refused and are to be tried again."""
        return sum(map(len, self._paused.values()))


def by_number(call: Forwarded) -> int:
    """The order of arrival."""
    return call.number
