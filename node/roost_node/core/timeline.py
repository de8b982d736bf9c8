"""Whether the coordination store's history runs forwards (O7).

A store that was restored from an old backup shows a map as it was. To act on it would give shards to members
that have long left, at epochs that were used before. Nodes refuse those by what they have on disk; this keeps
the controller from proposing them at all.

What is remembered: the highest generation that was seen, and the highest revision within it. Once the store
has gone back, nothing in that generation is believed any more, however far its revisions come. A higher
generation is an operator's word that this is the truth now, so it begins a new history at any revision.
"""

from __future__ import annotations


class Timeline:
    """What one process has seen of the store."""

    __slots__ = ("_generation", "_is_broken", "_revision")

    def __init__(self, generation: int) -> None:
        """`generation`: as the process knew it when it started."""
        self._generation = generation
        self._revision = 0
        self._is_broken = False

    def on_restored(self) -> None:
        """Some other answer was older than one before it."""
        self._is_broken = True

    def is_forward(self, generation: int, revision: int) -> bool:
        """Whether to believe a read that began after all earlier ones had ended."""
        if generation > self._generation:
            self._is_broken = False
        elif generation < self._generation or revision < self._revision:
            self._is_broken = True
        if not self._is_broken:
            self._generation, self._revision = generation, revision
        return not self._is_broken
