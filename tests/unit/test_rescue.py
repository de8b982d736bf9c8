"""Which records are written from what the disks hold."""

from __future__ import annotations

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    ClusterConfig,
    Epoch,
    How,
    Map,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Versioned,
)
from roost_node.core.rescue import EPOCH_GAP, Copy, given_up, lost_here, missing, recovered

A, B, C, D = map(StoreId, "abcd")
ONE, TWO = ShardId(0), ShardId(1)
NOW_MS = 5_000


def the_map(*live: StoreId, owner: StoreId = A, in_sync: tuple[StoreId, ...] = (A, B)) -> Map:
    """Two shards, of which the second was never created."""
    sessions = {store: SessionInfo(store, SessionId(10 + n), "") for n, store in enumerate(live)}
    record = ShardRecord(Epoch(4), owner, SessionId(9), How.FAILOVER, in_sync)
    config = ClusterConfig("c", 2, b"", "")
    return Map(100, config, sessions, {}, {ONE: Versioned(70, record)})


def copy(seen: int, last_epoch: int, end: int, *members: StoreId) -> Copy:
    return Copy(Epoch(seen), Epoch(last_epoch), end, members)


def test_stores_that_records_name_and_nobody_can_ask_are_missing() -> None:
    assert missing(the_map(A)) == {B}
    assert missing(the_map(A, B, C)) == frozenset()


def test_a_store_that_should_have_the_last_copies_and_has_nothing_has_lost_its_disk() -> None:
    found = the_map(B, C, in_sync=(A,))
    assert lost_here(found, A, set()) == [ONE]
    assert lost_here(found, A, {ONE, TWO}) == []
    assert lost_here(found, B, set()) == [], "it is no member"
    assert lost_here(the_map(B, in_sync=(A, B)), A, set()) == [], "another one has it, too"
    new = msgspec.structs.replace(found.shards[ONE].record, how=How.CREATED)
    created = msgspec.structs.replace(found, shards={ONE: Versioned(70, new)})
    assert lost_here(created, A, set()) == [], "nobody has written to it yet"


def test_a_shard_goes_to_those_whose_logs_have_the_highest_rank() -> None:
    found = the_map(A, B, C, D)
    copies = {
        A: {ONE: copy(6, 4, 900)},  # longer, and of an epoch that was left behind
        B: {ONE: copy(7, 7, 80)},
        C: {ONE: copy(7, 7, 80)},
        D: {ONE: copy(9, 7, 79)},
    }
    (swap,) = recovered(found, copies, left_out=False, now_ms=NOW_MS)
    record = swap.record
    assert (swap.shard, swap.revision) == (ONE, 70)
    assert (record.owner, record.in_sync) == (B, (B, C))
    assert record.session == found.sessions[B].session
    assert record.epoch > 9, "above all that anybody has seen"
    assert record.how is How.FAILOVER, "promises are waited out"
    assert (record.reborn, record.given_up_ms) == (0, 0), "nothing is lost"


def test_an_owner_at_the_highest_epoch_keeps_its_shard_with_its_own_members() -> None:
    found = the_map(A, B, C)
    copies = {
        A: {ONE: copy(7, 7, 80)},  # has as much, for now: it left the set
        B: {ONE: copy(7, 7, 80, B, C, D)},  # and it goes on committing, without A
        C: {ONE: copy(7, 7, 80)},
    }
    (swap,) = recovered(found, copies, left_out=False, now_ms=NOW_MS)
    assert (swap.record.owner, swap.record.in_sync) == (B, (B, C))
    copies[C] = {ONE: copy(8, 8, 81)}  # another one took over since
    (swap,) = recovered(found, copies, left_out=False, now_ms=NOW_MS)
    assert (swap.record.owner, swap.record.in_sync) == (C, (C,))


def test_a_copy_that_was_found_wrong_is_taken_only_where_there_is_no_other() -> None:
    found = the_map(A, B, C)
    suspected = msgspec.structs.replace(found.shards[ONE].record, in_sync=(A,), suspects=(B, C))
    found = msgspec.structs.replace(found, shards={ONE: Versioned(70, suspected)})
    copies = {A: {ONE: copy(4, 4, 80)}, B: {ONE: copy(4, 4, 80)}, C: {ONE: copy(4, 4, 90)}}
    (swap,) = recovered(found, copies, left_out=False, now_ms=NOW_MS)
    assert (swap.record.in_sync, swap.record.suspects) == ((A,), (B, C))
    (swap,) = given_up(found, {B: copies[B], C: copies[C]}, [ONE], NOW_MS)
    assert (swap.record.in_sync, swap.record.suspects) == ((C,), (B,)), "better than nothing"


def test_a_shard_that_etcd_forgot_gets_its_record_back() -> None:
    found = msgspec.structs.replace(the_map(A, B), shards={})
    copies = {A: {TWO: copy(3, 3, 10)}, B: {TWO: Copy(Epoch(3))}}
    (swap,) = recovered(found, copies, left_out=False, now_ms=NOW_MS)
    assert (swap.shard, swap.revision, swap.record.owner) == (TWO, 0, A)
    assert swap.record.epoch > 3


def test_what_a_store_that_was_left_out_has_is_not_compared_with_the_new_logs() -> None:
    (swap,) = recovered(the_map(A), {A: {ONE: copy(4, 4, 10)}}, left_out=True, now_ms=NOW_MS)
    assert swap.record.reborn == swap.record.epoch
    assert swap.record.given_up_ms == NOW_MS


def test_what_is_given_up_goes_to_the_one_that_has_most_and_never_mixes_with_what_was() -> None:
    found = the_map(C, D)
    copies = {C: {ONE: copy(4, 3, 50)}, D: {ONE: copy(4, 4, 20)}}
    (swap,) = given_up(found, copies, [ONE], NOW_MS)
    record = swap.record
    assert (record.owner, record.in_sync) == (D, (D,))
    assert record.epoch >= 4 + EPOCH_GAP, "the lost ones may have seen more than anybody here"
    assert (record.reborn, record.given_up_ms) == (record.epoch, NOW_MS)
    (swap,) = given_up(found, {C: {}, D: {ONE: Copy(Epoch(4))}}, [ONE], NOW_MS)
    assert swap.record.in_sync in ((C,), (D,)), "empty, but somebody's"
