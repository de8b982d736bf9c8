"""What is stored: listing objects, showing one.

Entries that are not in the state yet count, as they do for calls: their callers may have been answered, and
the state of a shard with copies comes later. So what was found waits, like every output, until all that it could
have seen is committed (R3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from roost.adapters.transport import ObjectDetail, ObjectInfo, ObjectPage
from roost.cluster.ids import check_key
from roost.errors import InvalidArgumentError
from roost.wire.codec import decode_any, encode_for_people
from roost_node.host.call import Output
from roost_node.storage import layout, records

if TYPE_CHECKING:
    from roost_node.host.host import Host
    from roost_node.host.shard import Shard

PAGE_MAX = 1_000
ROWS_AT_ONCE = 256  # counted before the loop gets a turn


async def list_objects(
    host: Host, class_name: str, prefix: str, limit: int, page_token: bytes
) -> ObjectPage:
    """A page of the catalog, ordered by shard, then class and key.

    Committed state only: an object whose first entry is under way is waited for.
    """
    found = _list_objects(host, class_name, prefix, limit, page_token)
    await _committed(host, host.objects.shards())
    return found


def _list_objects(
    host: Host, class_name: str, prefix: str, limit: int, page_token: bytes
) -> ObjectPage:
    limit = min(limit or 100, PAGE_MAX)
    if prefix and not class_name:
        raise InvalidArgumentError("a prefix needs a class")
    page: list[ObjectInfo] = []
    first, start = 0, b""
    if page_token:
        if len(page_token) < 3:
            raise InvalidArgumentError("that is not a page token of this server")
        first, start = int.from_bytes(page_token[:2], "big"), page_token + b"\0"
    opened = {shard.id: shard for shard in host.objects.shards()}
    owned = set(host.ownership.owned())
    unlisted = tuple(number for number in range(host.store.shards) if number not in owned)
    for number in sorted(s for s in owned if s >= first):
        low, high = layout.objects_range(number, class_name, prefix)
        shard = opened.get(number)
        read = shard.records if shard is not None else host.store.iterate
        for key, raw in read(max(low, start), high):
            page.append(_info(host, key, raw, position=key))
            if len(page) == limit:
                return ObjectPage(page, key, unlisted)
    return ObjectPage(page, b"", unlisted)


async def show_object(host: Host, class_name: str, key: str) -> ObjectDetail | None:
    """One object as it is stored; None: nothing of it is."""
    check_key(key)
    shard = host.shard_of(class_name, key, host.now_ms())
    group = layout.object_id(class_name, key)
    raw = shard.get(group, layout.record_key(shard.id, group))
    if raw is None:
        await _committed(host, [shard])
        return None
    record = records.decode_object(raw)
    fields = {name: _value(raw) for name, raw in record.fields.items()}
    for name in record.large:
        large = shard.get(group, layout.field_key(shard.id, group, name))
        if large is not None:
            fields[name] = _value(large)
    info = _info(host, layout.record_key(shard.id, group), raw)
    rows = 0
    for rows, _ in enumerate(shard.scan(group, *layout.rows_range(shard.id, group), {}), 1):
        if rows % ROWS_AT_ONCE == 0:
            await asyncio.sleep(0)  # there may be millions
    await _committed(host, [shard])
    return ObjectDetail(info, encode_for_people(fields).decode(), rows)


def _value(raw: bytes) -> Any:
    """A stored value; its bytes where a key of it is a map, which only its class can read."""
    try:
        return decode_any(raw)
    except msgspec.DecodeError:
        return bytes(raw)


async def _committed(host: Host, shards: Iterable[Shard]) -> None:
    """Wait until everything that is appended now is committed."""
    for shard in shards:
        if shard.log.last > shard.log.committed:
            waiter = host.loop.create_future()
            shard.release(shard.log.last, Output(None, None, None, waiter), own_entry=False)
            await waiter


def _info(host: Host, key: bytes, raw: bytes, position: bytes = b"") -> ObjectInfo:
    class_name, name = layout.read_record_key(key)
    record = records.decode_object(raw)
    return ObjectInfo(
        class_name,
        name,
        record.created_ms,
        record.changed_ms,
        record.size_bytes,
        record.version,
        host.store.store_id,
        (class_name, name) in host.activations,
        position,
    )
