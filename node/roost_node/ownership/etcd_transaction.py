"""Transactions in etcd's words: conditions on keys, and what to do if all of them hold."""

from __future__ import annotations

from collections.abc import Sequence

from roost_node.core.record import NO_SESSION, SessionId, Transaction
from roost_node.ownership import etcd_pb2 as pb
from roost_node.ownership.keys import Keys, encode

_EQUAL, _LESS, _NOT_EQUAL = pb.Compare.EQUAL, pb.Compare.LESS, pb.Compare.NOT_EQUAL


def created(key: bytes, revision: int) -> pb.Compare:
    """The key was created at this revision; 0: it is absent."""
    return pb.Compare(result=_EQUAL, target=pb.Compare.CREATE, key=key, create_revision=revision)


def unchanged(key: bytes, revision: int) -> pb.Compare:
    """The key last changed at this revision; 0: it is absent (O1)."""
    return pb.Compare(result=_EQUAL, target=pb.Compare.MOD, key=key, mod_revision=revision)


def all_unchanged(span: tuple[bytes, bytes], since: int) -> pb.Compare:
    """No key in the span was put after this revision."""
    return pb.Compare(
        result=_LESS,
        target=pb.Compare.MOD,
        key=span[0],
        range_end=span[1],
        mod_revision=since + 1,
    )


def holds(key: bytes, session: SessionId) -> pb.Compare:
    """The key is under this session's lease."""
    return pb.Compare(result=_EQUAL, target=pb.Compare.LEASE, key=key, lease=session)


def is_gone(key: bytes, session: SessionId) -> pb.Compare:
    """The key is absent, or under another lease (O5)."""
    return pb.Compare(result=_NOT_EQUAL, target=pb.Compare.LEASE, key=key, lease=session)


def get(start: bytes, end: bytes = b"") -> pb.RequestOp:
    """Look at one key, or at [start, end)."""
    return pb.RequestOp(request_range=pb.RangeRequest(key=start, range_end=end))


def put(key: bytes, value: bytes, lease: SessionId = NO_SESSION) -> pb.RequestOp:
    """Write a key, to go with a lease if one is given."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def delete(key: bytes) -> pb.RequestOp:
    """Delete a key."""
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


def resign(keys: Keys, session: SessionId) -> pb.RequestOp:
    """Free the election if this session holds it, inside another transaction."""
    inner = pb.TxnRequest(
        compare=[holds(keys.controller, session)], success=[delete(keys.controller)]
    )
    return pb.RequestOp(request_txn=inner)


def kvs(reply: pb.TxnResponse, number: int) -> Sequence[pb.KeyValue]:
    """What the `number`-th look of a transaction found."""
    return reply.responses[number].response_range.kvs


def translate(
    wanted: Transaction, keys: Keys, death_lease: SessionId
) -> tuple[list[pb.Compare], list[pb.RequestOp]]:
    """Conditions and changes of a transaction of ours."""
    conditions = [unchanged(keys.shard(swap.shard), swap.revision) for swap in wanted.swaps]
    changes = [put(keys.shard(swap.shard), encode(swap.record)) for swap in wanted.swaps]
    for guard in wanted.guards:
        compare = holds if guard.alive else is_gone
        conditions.append(compare(keys.session(guard.store), guard.session))
    if wanted.reap is not None:
        key = keys.session(wanted.reap.store)
        conditions.append(holds(key, wanted.reap.session))
        changes += [delete(key), resign(keys, wanted.reap.session)]
    if wanted.death is not None:
        key = keys.death(wanted.death.session)
        changes.append(put(key, encode(wanted.death), death_lease))
    if wanted.event is not None:
        changes.append(put(keys.event(wanted.event.id), encode(wanted.event)))
    changes += [put(keys.wish(shard), encode(wish)) for shard, wish in wanted.wishes]
    return conditions, changes
