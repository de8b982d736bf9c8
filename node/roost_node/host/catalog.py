"""What is stored: listing objects, showing one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from roost.adapters.transport import ObjectDetail, ObjectInfo
from roost.cluster.ids import check_key
from roost.errors import InvalidArgumentError
from roost_node.storage import layout, records

if TYPE_CHECKING:
    from roost_node.host.host import Host

PAGE_MAX = 1_000


def list_objects(
    host: Host, class_name: str, prefix: str, limit: int, page_token: bytes
) -> tuple[list[ObjectInfo], bytes]:
    """A page of the catalog, ordered by shard, then class and key; and the token of the next page.

    Committed state only: an object whose first entry is still being flushed is not listed yet.
    """
    limit = min(limit or 100, PAGE_MAX)
    if prefix and not class_name:
        raise InvalidArgumentError("a prefix needs a class")
    page: list[ObjectInfo] = []
    first, start = 0, b""
    if page_token:
        if len(page_token) < 3:
            raise InvalidArgumentError("that is not a page token of this server")
        first, start = int.from_bytes(page_token[:2], "big"), page_token + b"\0"
    for shard in range(first, host.store.shards):
        low, high = layout.objects_range(shard, class_name, prefix)
        for key, raw in host.store.iterate(max(low, start), high):
            page.append(_info(host, key, raw, position=key))
            if len(page) == limit:
                return page, key
    return page, b""


def show_object(host: Host, class_name: str, key: str) -> ObjectDetail | None:
    """One object as it is stored; None: nothing of it is."""
    check_key(key)
    shard = host.shard_of(class_name, key, host.now_ms())
    group = layout.object_id(class_name, key)
    raw = host.store.get(layout.record_key(shard.id, group))
    if raw is None:
        return None
    record = records.decode_object(raw)
    fields = {name: msgspec.msgpack.decode(value) for name, value in record.fields.items()}
    for name in record.large:
        large = host.store.get(layout.field_key(shard.id, group, name))
        if large is not None:
            fields[name] = msgspec.msgpack.decode(large)
    rows = sum(1 for _ in host.store.iterate(*layout.rows_range(shard.id, group)))
    info = _info(host, layout.record_key(shard.id, group), raw)
    return ObjectDetail(info, msgspec.json.encode(fields).decode(), rows)


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
