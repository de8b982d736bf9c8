"""Reading everything in a store, on purpose: `roost node --verify`.

Opening checks the identity, the manifest and the write-ahead log; a block of a table is checked when
it is read. Here every row is read, and what Roost wrote itself is decoded too. What a user stored (a
row, a large field) is theirs: its bytes are checked, their meaning is not.
"""

from __future__ import annotations

from roost.errors import CorruptionError
from roost_node.storage import layout, records

_METADATA = 0xFFFF  # no shard's number


def check_row(key: bytes, raw: bytes) -> None:
    """Raises CorruptionError when a row is not what its key says."""
    shard, kind = int.from_bytes(key[:2], "big"), key[2:3]
    try:
        if shard == _METADATA:
            if key == layout.CLOCK_KEY:
                records.decode_clock(raw)
            elif key == layout.GENERATION_KEY:
                records.decode_generation(raw)
        elif kind == layout.OBJECT:
            layout.read_record_key(key)
            records.decode_object(raw)
        elif kind == layout.DEDUP:
            layout.read_object_id(key, 7)  # after the minute
            records.decode_dedup(raw)
        elif kind == layout.HEAD:
            records.decode_head(raw)
        elif key == layout.replica_key(shard):
            records.decode_replica(raw)
        elif kind == layout.LOG:
            entry = records.decode_entry(raw)
            if entry.index != layout.read_log_index(key):
                raise CorruptionError(f"it holds the entry {entry.index}")
            records.decode_body(entry.body)
        elif kind in (layout.FIELD, layout.ROW):
            layout.read_object_id(key, 3)
        else:
            raise CorruptionError("no key of Roost's begins so")
    except (ValueError, CorruptionError) as error:
        raise CorruptionError(
            f"the row at key {key.hex()} is not what it should be: {error}. Restore this store from a "
            f"replica or backup"
        ) from error
