"""Which way to a node is tried next: straight, or by way of another node (a *detour*).

A link can be cut while both of its ends live and everybody else reaches both: then nobody takes the
node's shards over, and its callers would wait for the mending. So after silence the way leads over other
nodes, each in turn, and every other attempt is straight again. A refusal comes from the machine itself:
nobody listens there, and whoever is asked to relay would find the same; but firewalls refuse, too, so
some refusals in a row count as silence.

Not here: how long it takes until silence is noticed (pings, `links.py`), and going back to the straight way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

STRAIGHT_S_MIN = 0.5  # a quick look: behind it is another way
STRAIGHT_S_MAX = 4.0
DETOUR_S = 2.0
REFUSALS = 3


class Way(NamedTuple):
    """Over which address (empty: straight), and how long it may take to connect."""

    via: str
    patience_s: float


class Ways:
    """The attempts to reach one node."""

    def __init__(self) -> None:
        self._silences = 0  # straight attempts in a row that nobody answered
        self._refusals = 0
        self._turn = 0
        self._was_straight = False

    def next(self, others: Sequence[str]) -> Way:
        """The next attempt. `others`: nodes that can be reached straight, in a fixed order."""
        is_closed = self._silences > 0 or self._refusals >= REFUSALS
        if self._was_straight and is_closed and others:
            self._was_straight = False
            self._turn += 1
            return Way(others[self._turn % len(others)], DETOUR_S)
        self._was_straight = True
        return Way("", min(STRAIGHT_S_MIN * 2**self._silences, STRAIGHT_S_MAX))

    def on_open(self) -> None:
        """The last attempt succeeded; what comes after its end begins anew."""
        self._silences = self._refusals = 0

    def on_failed(self, *, silent: bool) -> None:
        """The last attempt did not. `silent`: nobody answered."""
        if not self._was_straight:
            return
        if silent:
            self._silences = min(self._silences + 1, 8)
        else:
            self._refusals += 1
