"""What a running object asks of its node: storage, time, its call, calls to others.

Implements `roost.context.ContextPort` and `roost.context.StoragePort`: the public faces in `roost`
check and encode, this side reads and collects the turn's writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from roost.context import CallInfo, current_call
from roost.errors import StaleCallError, TooLargeError
from roost.stub import Caller
from roost_node.host.call import ActiveCall
from roost_node.storage import layout

if TYPE_CHECKING:
    from roost_node.host.activation import Activation

OPEN_ROWS_BYTES_MAX = 2 * 1024 * 1024


class ObjectPort:
    """The node as one object sees it."""

    __slots__ = ("_activation", "_row_prefix", "key")

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self.key = activation.key
        self._row_prefix: bytes | None = None

    # -- ContextPort -----------------------------------------------------------------------

    @property
    def storage(self) -> ObjectPort:
        """Raw rows of this object."""
        return self

    @property
    def caller(self) -> Caller:
        """Carries calls from object to object."""
        return self._activation.host.children

    def call_info(self) -> CallInfo:
        """The call that is running."""
        active = self._current()
        call = active.call
        return CallInfo(
            request_id=UUID(bytes=call.request_id),
            deadline=datetime.fromtimestamp(active.deadline_ms / 1000, UTC),
            caller=call.principal,
            chain=tuple(map(str, call.chain)),
        )

    def now_ms(self) -> int:
        """The node's clock."""
        return self._activation.host.now_ms()

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """Inside, an interleaving call keeps the object to itself and commits nothing."""
        return self._exclusive()

    @contextlib.asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        active = self._current()
        active.exclusive_depth += 1
        try:
            yield
        finally:
            active.exclusive_depth -= 1

    def _current(self) -> ActiveCall:
        active: ActiveCall | None = current_call.get()
        if active is None or active.activation is not self._activation or not active.is_open:
            raise StaleCallError(
                f"{self._activation.class_name}/{self.key}: ctx was used outside of a running call"
            )
        return active

    # -- StoragePort -----------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The row as the open turn sees it."""
        activation = self._activation
        row = self._prefix() + key
        rows = activation.rows
        if rows is not None and row in rows:
            return rows[row]
        if activation.cleared:
            return None
        return activation.shard.get(activation.group, row)

    def put(self, key: bytes, value: bytes) -> None:
        """Write a row in the open turn."""
        activation = self._activation
        activation.may_write()
        row = self._prefix() + key
        self._collect(row, value, len(row) + len(value))

    def delete(self, key: bytes) -> bool:
        """Delete a row in the open turn; was there one?"""
        self._activation.may_write()
        if self.get(key) is None:
            return False
        row = self._prefix() + key
        self._collect(row, None, len(row))
        return True

    def delete_all(self) -> None:
        """Delete every row in the open turn."""
        activation = self._activation
        activation.may_write()
        activation.rows = None
        activation.rows_bytes = 0
        activation.cleared = True

    def scan(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, end), as the open turn sees them at this moment."""
        activation = self._activation
        prefix = self._prefix()
        size = len(prefix)
        stop = (
            prefix + end
            if end is not None
            else layout.rows_range(activation.shard.id, activation.group)[1]
        )
        rows = activation.shard.scan(
            activation.group,
            prefix + start,
            stop,
            activation.rows or {},
            reverse=reverse,
            hide_stored=activation.cleared,
        )
        return ((key[size:], value) for key, value in rows)

    def _collect(self, row: bytes, value: bytes | None, size: int) -> None:
        activation = self._activation
        rows = activation.rows
        if rows is None:
            rows = activation.rows = {}
        if row in rows:
            size -= len(row) + len(rows[row] or b"")
        if activation.rows_bytes + size > OPEN_ROWS_BYTES_MAX:
            raise TooLargeError(
                f"a call on {activation.class_name}/{self.key} wrote more than "
                f"{OPEN_ROWS_BYTES_MAX} bytes of storage: write less in one call"
            )
        activation.rows_bytes += size
        rows[row] = value

    def _prefix(self) -> bytes:
        prefix = self._row_prefix
        if prefix is None:
            activation = self._activation
            prefix = self._row_prefix = layout.rows_range(activation.shard.id, activation.group)[0]
        return prefix
