"""What an entry is on the wire and in the log: its writes as bytes, and back.

```
body = "" for the first entry of an epoch, else
       length of group (2 bytes, big-endian), group (the object that wrote it), writes (`replica_log`)
```
"""

from __future__ import annotations

from collections.abc import Iterable

from roost.cluster.ids import ShardId
from roost_node.core.log import DeleteRange, Entry, Op
from roost_node.core.record import Epoch
from roost_node.core.replication.messages import LogEntry
from roost_node.storage.records import decode_body, encode_body


def encode_entry(entry: Entry) -> LogEntry:
    """As it travels and is stored."""
    body = b""
    if entry.rows or entry.ranges:
        group = entry.group
        body = len(group).to_bytes(2, "big") + group + encode_body(entry.rows, entry.ranges)
    return LogEntry(
        Epoch(entry.epoch),
        entry.index,
        Epoch(entry.previous_epoch),
        entry.hash,
        entry.log_time_ms,
        body,
    )


def decode_entry(shard: ShardId, entry: LogEntry) -> Entry:
    """As the owner's log keeps it. Raises CorruptionError."""
    group, rows, ranges = _parts(entry.body)
    return Entry(
        shard,
        entry.epoch,
        entry.index,
        entry.previous_epoch,
        entry.hash,
        entry.log_time_ms,
        group,
        rows,
        ranges,
        len(entry.body),
    )


def _parts(
    body: bytes,
) -> tuple[bytes, dict[bytes, bytes | None], tuple[DeleteRange, ...]]:
    if not body:
        return b"", {}, ()
    size = int.from_bytes(body[:2], "big")
    rows, ranges = decode_body(body[2 + size :])
    return body[2 : 2 + size], dict(rows), tuple(ranges)


def merged(entries: Iterable[LogEntry]) -> list[Op]:
    """Their writes in order, with only the last version of each key between range deletes."""
    ops: list[Op] = []
    rows: dict[bytes, bytes | None] = {}
    for entry in entries:
        _, written, ranges = _parts(entry.body)
        if ranges:
            ops.extend(rows.items())
            ops.extend(ranges)
            rows = {}
        rows.update(written)
    ops.extend(rows.items())
    return ops
