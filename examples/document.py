"""A document that several people edit: `roost dev examples/document.py`.

Everybody edits the version that they see. The object takes the edits one at a time, moves each one
past those that its author had not seen yet, and gives it the next version. An edit that touches what
somebody else has just changed is refused: its author looks at the new text and tries again.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from roost import ApplicationError, DurableObject, method

SNAPSHOT_EVERY = 100


class Edit(msgspec.Struct, frozen=True):
    """At `at`, `removed` characters were replaced by `inserted`; that made `version`."""

    version: int
    author: str
    at: int
    removed: int
    inserted: str

    def apply(self, text: str) -> str:
        """The text after it."""
        return text[: self.at] + self.inserted + text[self.at + self.removed :]


class Text(msgspec.Struct, frozen=True):
    """A document as it was in one version."""

    version: int
    text: str


class EditConflictError(ApplicationError):
    """Somebody changed the same place: read the document again."""


class Document(DurableObject):
    """The version in a field; the text, every edit and some snapshots in storage."""

    version: int = 0

    _changed: asyncio.Event  # ordinary memory: wakes those who follow

    async def on_activate(self) -> None:
        """Nobody follows yet."""
        self._changed = asyncio.Event()

    async def edit(self, author: str, base: int, at: int, removed: int, inserted: str) -> Edit:
        """Change version `base`; the edit as it was applied."""
        if not 0 <= base <= self.version:
            raise EditConflictError(f"there is no version {base} yet: this is {self.version}")
        for later in self._edits(after=base):
            if later.at >= at + removed:
                continue  # behind this one
            if later.at + later.removed > at:
                raise EditConflictError(f"{later.author} changed that in version {later.version}")
            at += len(later.inserted) - later.removed
        text = self._text()
        if not (0 <= at <= at + removed <= len(text)):
            raise EditConflictError(f"the text has {len(text)} characters")
        self.version += 1
        edit = Edit(self.version, author, at, removed, inserted)
        text = edit.apply(text)
        rows = self.ctx.storage
        rows.put(f"edit/{self.version:012}", edit)
        rows.put("text", text)
        if self.version % SNAPSHOT_EVERY == 0:
            rows.put(f"snapshot/{self.version:012}", text)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return edit

    @method(read_only=True)
    async def read(self) -> Text:
        """The document as it is."""
        return Text(self.version, self._text())

    @method(read_only=True)
    async def read_version(self, version: int) -> Text:
        """The document as it was: the last snapshot before, and the edits since."""
        end = f"snapshot/{version + 1:012}"
        rows = self.ctx.storage.list(prefix="snapshot/", end=end, reverse=True, limit=1, type=str)
        seen, text = 0, ""
        for key, text in rows:
            seen = int(key.removeprefix("snapshot/"))
        for edit in self._edits(after=seen):
            if edit.version > version:
                break
            seen, text = edit.version, edit.apply(text)
        return Text(seen, text)

    async def edits(self, after: int = 0, follow: bool = False) -> AsyncIterator[Edit]:
        """Every edit after a version; with `follow` also those to come.

        A stream is not retried. It ends with its call's deadline or with a broken connection: the
        reader opens it again with the last version that it has.
        """
        while True:
            changed = self._changed
            for edit in self._edits(after):
                yield edit
                after = edit.version
            if not follow:
                return
            await changed.wait()

    def _text(self) -> str:
        return self.ctx.storage.get("text", "", type=str)

    def _edits(self, after: int) -> list[Edit]:
        rows = self.ctx.storage.list(prefix="edit/", after=f"edit/{after:012}", type=Edit)
        return [edit for _, edit in rows]
