"""Names of objects, the shard they fall into, and ids of requests.

A shard is a fixed slice of the id space:
`int.from_bytes(blake2b(class + NUL + key, digest_size=8, key=seed), "big") & (S - 1)`, S a power of
two. The rule, the seed and S are fixed when a store or cluster is created, and are on its disks.

A request id is a UUID of version 7 (RFC 9562): 48 bits of milliseconds, in server time, then 74 bits
that nobody else has. Its time is the call's *first-sent* time; records of finished calls are filed under it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NewType

from roost.errors import InvalidArgumentError, TooLargeError
from roost.wire.messages import KEY_BYTES_MAX

ShardId = NewType("ShardId", int)

SHARDS_DEFAULT = 1024
SHARDS_MAX = 4096
HASH_NAME = "blake2b-64"


def shard_of(class_name: str, key: str, *, seed: bytes, shards: int) -> ShardId:
    """The shard of an object. `shards` is a power of two; `seed` at most 64 bytes."""
    name = f"{class_name}\0{key}".encode()
    digest = hashlib.blake2b(name, digest_size=8, key=seed).digest()
    return ShardId(int.from_bytes(digest, "big") & (shards - 1))


def check_key(key: str) -> None:
    """Refuse what cannot be an object's key."""
    if not key:
        raise InvalidArgumentError("an object's key is empty: give it at least one character")
    if len(key) * 4 <= KEY_BYTES_MAX and key.isascii():
        return
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"the key {key!a} is not UTF-8 text") from None
    if size > KEY_BYTES_MAX:
        raise TooLargeError(f"an object's key has {size} bytes of UTF-8, at most {KEY_BYTES_MAX}")


def request_id(first_sent_ms: int, random_bits: int) -> bytes:
    """A UUIDv7 of that time, with the low 74 of `random_bits`."""
    high = (random_bits >> 62) & 0xFFF
    low = random_bits & 0x3FFFFFFFFFFFFFFF
    value = (first_sent_ms & 0xFFFFFFFFFFFF) << 80 | 7 << 76 | high << 64 | 2 << 62 | low
    return value.to_bytes(16, "big")


def first_sent_ms(request_id: bytes) -> int:
    """The time in a request id, ms since 1970."""
    return int.from_bytes(request_id[:6], "big")


def child_request_id(parent: bytes, target: bytes, count: int) -> bytes:
    """The id of a call that the call `parent` makes: the same whenever the parent is run again.

    `target` is what tells its calls apart (class, key, method, arguments), `count` how many equal
    ones came before. Keeps the parent's 48 time bits; the rest is hash.
    """
    digest = hashlib.blake2b(
        target, digest_size=10, key=parent, salt=count.to_bytes(8, "big")
    ).digest()
    bits = int.from_bytes(digest, "big")
    return request_id(int.from_bytes(parent[:6], "big"), bits)


def ranges(numbers: Iterable[int], most: int | None = None) -> str:
    """Numbers of shards, for people: as in 0-3, 7. Of more than `most` runs the rest is dots."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = (str(low) if low == high else f"{low}-{high}" for low, high in runs[:most])
    return ", ".join(shown) + (" ..." if most is not None and len(runs) > most else "")
