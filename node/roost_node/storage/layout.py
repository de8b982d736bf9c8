"""Every key in the database, byte by byte.

```
key    = shard kind rest
shard  = 2 bytes, big-endian: a shard can be scanned, exported and dropped as one range
kind   = 1 byte
  0x01 head          (nothing)                      where the shard's log stands
  0x02 replica       (nothing)                      what this store knows of its copy
  0x10 object        object                         the object's record: metadata and small fields
  0x11 field         object name                    a field too large for the record
  0x20 row           object userkey                 storage, in the order of the users' keys
  0x30 dedup         minute object request          the record of a call; minute = 4 bytes, big-endian
  0x40 alarm, 0x50 event, 0x60 outbox               kept free
  0x70 log           index                          an entry of a replicated shard; index = 8 bytes, big-endian
object = text text                                  class, key
text   = UTF-8 with 00 written as 00 FF, then 00 01: sorts like the text, and no text is a prefix of another
```

The *state* of a shard is every kind but replica and log: all that a snapshot carries. The log comes
after it, so that the state is one range.

The rest of the file is metadata, under a shard number that no shard has (FFFF): 0x01, server time;
0x02, the cluster's generation.

All of these are on disks already and can never change.
"""

from __future__ import annotations

HEAD = b"\x01"
REPLICA = b"\x02"
OBJECT = b"\x10"
FIELD = b"\x11"
ROW = b"\x20"
DEDUP = b"\x30"
LOG = b"\x70"

INDEX_BYTES = 8

MINUTE_END = 2**32 - 1
"""Above every minute in which a record is filed (until the year 10136)."""

CLOCK_KEY = b"\xff\xff\x01"
"""How far server time had come when the last batch was written."""

GENERATION_KEY = b"\xff\xff\x02"
"""The highest generation of its cluster that this store has seen (O7)."""

_END = b"\x00\x01"


def text(value: str) -> bytes:
    """A string that sorts like its UTF-8 and ends by itself."""
    raw = value.encode()
    if b"\0" in raw:
        raw = raw.replace(b"\0", b"\0\xff")
    return raw + _END


def read_text(raw: bytes, start: int) -> tuple[str, int]:
    """The string at `start`, and where it ends. Raises ValueError where there is none."""
    at = start
    while True:
        zero = raw.index(b"\0", at)
        mark = raw[zero + 1 : zero + 2]
        if mark == b"\x01":
            return raw[start:zero].replace(b"\0\xff", b"\0").decode(), zero + 2
        if mark != b"\xff":
            raise ValueError(f"not a text at byte {zero} of {raw!r}")
        at = zero + 2


def shard_prefix(shard: int) -> bytes:
    """What every key of a shard begins with."""
    return shard.to_bytes(2, "big")


def shard_range(shard: int) -> tuple[bytes, bytes]:
    """All rows of a shard."""
    start = shard_prefix(shard)
    return start, after(start)


def state_range(shard: int) -> tuple[bytes, bytes]:
    """All of a shard's state; `replica_key` lies in it, and does not belong to it."""
    start = shard_prefix(shard)
    return start, start + LOG


def audited_range(shard: int) -> tuple[bytes, bytes]:
    """The rows of a shard's state that are the same at every store: all but head and replica."""
    start = shard_prefix(shard)
    return start + OBJECT, start + LOG


def object_id(class_name: str, key: str) -> bytes:
    """An object's part of its keys."""
    return text(class_name) + text(key)


def read_object_id(raw: bytes, start: int = 0) -> tuple[str, str, int]:
    """Class, key, and where they end."""
    class_name, at = read_text(raw, start)
    key, at = read_text(raw, at)
    return class_name, key, at


def head_key(shard: int) -> bytes:
    """Where a shard's log stands."""
    return shard.to_bytes(2, "big") + HEAD


def replica_key(shard: int) -> bytes:
    """What this store knows of its copy of a shard."""
    return shard.to_bytes(2, "big") + REPLICA


def log_key(shard: int, index: int) -> bytes:
    """An entry of a shard's log."""
    return shard.to_bytes(2, "big") + LOG + index.to_bytes(INDEX_BYTES, "big")


def log_range(shard: int, first: int, last: int) -> tuple[bytes, bytes]:
    """The entries first .. last of a shard's log."""
    return log_key(shard, first), log_key(shard, last + 1)


def log_after(shard: int, index: int) -> tuple[bytes, bytes]:
    """All entries of a shard's log after `index`."""
    return log_key(shard, index + 1), after(shard.to_bytes(2, "big") + LOG)


def read_log_index(key: bytes) -> int:
    """The index of an entry. Raises ValueError where the key is not one's."""
    if len(key) != 3 + INDEX_BYTES:
        raise ValueError(
            f"an entry's key has {INDEX_BYTES} bytes of index, this has {len(key) - 3}"
        )
    return int.from_bytes(key[3:], "big")


def record_key(shard: int, group: bytes) -> bytes:
    """An object's record; `group` is its `object_id`."""
    return shard.to_bytes(2, "big") + OBJECT + group


def field_key(shard: int, group: bytes, name: str) -> bytes:
    """A large field."""
    return shard.to_bytes(2, "big") + FIELD + group + name.encode()


def rows_range(shard: int, group: bytes) -> tuple[bytes, bytes]:
    """All storage rows of an object: the start is also the prefix of each."""
    start = shard.to_bytes(2, "big") + ROW + group
    return start, after(start)


def dedup_key(shard: int, minute: int, group: bytes, request_id: bytes) -> bytes:
    """The record of a call, under its first-sent minute."""
    return shard.to_bytes(2, "big") + DEDUP + minute.to_bytes(4, "big") + group + request_id


def dedup_minutes(shard: int, first: int, end: int) -> tuple[bytes, bytes]:
    """All records of the minutes [first, end)."""
    start = shard.to_bytes(2, "big") + DEDUP
    return start + first.to_bytes(4, "big"), start + end.to_bytes(4, "big")


def read_dedup_minute(key: bytes) -> int:
    """The minute under which a call's record is filed."""
    return int.from_bytes(key[3:7], "big")


def objects_range(shard: int, class_name: str = "", prefix: str = "") -> tuple[bytes, bytes]:
    """Records of a shard's objects: of all classes, of one, or of one whose key starts so."""
    start = shard.to_bytes(2, "big") + OBJECT
    if class_name:
        start += text(class_name) + prefix.encode().replace(b"\0", b"\0\xff")
    return start, after(start)


def read_record_key(key: bytes) -> tuple[str, str]:
    """(class, key) of an object's record."""
    class_name, name, _ = read_object_id(key, 3)
    return class_name, name


def after(prefix: bytes) -> bytes:
    """The first key that does not begin with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    assert stripped, "a prefix of FF bytes has no end"
    return stripped[:-1] + bytes([stripped[-1] + 1])
