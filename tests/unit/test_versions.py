"""What older builds wrote can be read, and what newer ones will add does not hurt."""

from __future__ import annotations

from roost_node.core.record import FORMAT_LEVEL, ClusterConfig, How, SessionInfo, ShardRecord
from roost_node.ownership.keys import decode


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
