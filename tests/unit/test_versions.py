"""What older builds wrote can be read, and what newer ones will add does not hurt."""

from __future__ import annotations

import msgspec

from roost.cluster.ids import ShardId
from roost.v1 import replication_pb2
from roost_node.core.record import FORMAT_LEVEL, ClusterConfig, How, SessionInfo, ShardRecord
from roost_node.core.replication.messages import HandedOver
from roost_node.ownership.keys import decode
from roost_node.replication import translate


def test_records_of_the_first_build_are_read_with_what_was_added_since_left_empty() -> None:
    record = decode(
        b"shards/3",
        b'{"epoch":4,"owner":"a","session":9,"how":"failover","in_sync":["a","b"],"learners":["c"],'
        b'"previous":8,"target":"","nonce":17}',
        ShardRecord,
    )
    assert (record.epoch, record.how, record.in_sync) == (4, How.FAILOVER, ("a", "b"))
    assert (record.reborn, record.given_up_ms) == (0, 0)
    session = decode(
        b"sessions/a",
        b'{"store":"a","session":9,"address":"h:1","zone":"","weight":100,"build":"0.1.0",'
        b'"format_level":1,"draining":false,"stopping":false,"unreachable":[],"stuck_on":[]}',
        SessionInfo,
    )
    assert not session.short_of_disk
    config = decode(
        b"config", b'{"cluster_id":"c","shards":4,"seed":"AAA=","hash_name":"h"}', ClusterConfig
    )
    assert (config.format_level, config.generation) == (1, 1)
    assert config.format_level <= FORMAT_LEVEL, "this build can join it"


def test_fields_of_a_newer_build_are_passed_over() -> None:
    session = decode(
        b"sessions/a",
        b'{"store":"a","session":9,"address":"h:1","format_level":7,"mood":"good"}',
        SessionInfo,
    )
    assert session.format_level == 7


def test_a_record_that_is_handed_over_says_all_that_it_says_in_etcd() -> None:
    values = {
        "epoch": 4, "owner": "a", "session": 9, "how": "handoff", "in_sync": ["a", "b"],
        "learners": ["c"], "previous": 8, "target": "d", "nonce": 17, "reborn": 3, "given_up_ms": 5,
            "suspects": ["c"],
    }  # fmt: skip
    assert set(values) == {field.name for field in msgspec.structs.fields(ShardRecord)}
    record = msgspec.convert(values, ShardRecord)
    said = translate._handed_over(HandedOver(ShardId(7), record.epoch, 99, record))
    assert isinstance(said, replication_pb2.OwnerMessage)
    heard = translate._read_handed_over(said.handed_over)
    assert heard == HandedOver(ShardId(7), record.epoch, 99, record)
