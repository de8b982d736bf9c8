"""One node's replication cores, with plain values: how shards come and go."""

from __future__ import annotations

import msgspec

from replicating.node import OURS, SESSIONS, SHARD, A, B, C, Node
from roost_node.core.record import (
    Epoch,
    How,
    SessionId,
    Versioned,
)
from roost_node.core.replication import effects
from roost_node.core.replication.epochs import Shape
from roost_node.core.replication.messages import (
    Fetch,
    HandedOver,
    Registered,
)


def test_an_owner_serves_as_soon_as_its_first_entry_is_committed() -> None:
    node = Node()
    node.news(OURS, 5)
    assert effects.StartServing(SHARD, Epoch(1)) in node.done  # no tick was needed


def test_followers_hear_of_a_commit_with_the_next_entry_or_heartbeat() -> None:
    """A message of its own for each commit was a fourth of all frames, and its acknowledgement another."""
    node = Node()
    node.news(OURS, 5)
    node.tick()

    def told() -> list[tuple[int, int]]:
        sent = [e for e in node.done if isinstance(e, effects.SendEntries) and e.peer == B]
        node.done.clear()
        return [(e.last - e.first + 1, e.commit) for e in sent]

    told()
    node.append(2)
    assert told() == [(1, 1)]
    node.append(3)
    assert told() == [(1, 2)]
    node.tick(20)
    assert told() == []
    node.tick(300)
    assert told() == [(0, 3)]
    node.tick(300)
    assert told() == []


def test_after_a_handoff_everybody_hears_of_the_new_owner_at_once() -> None:
    node = Node()
    node.news(OURS, 5)
    record = node.hand_over(9)
    assert (record.owner, record.session, record.epoch, record.how) == (B, 2, 2, How.HANDOFF)
    assert SHARD not in node.replicas.owners
    after = node.done[node.done.index(effects.LoseShard(SHARD, Epoch(1))) :]
    assert effects.Moved(SHARD, Versioned(9, record)) in after
    said = HandedOver(SHARD, Epoch(2), 9, record)
    assert [e.peer for e in after if isinstance(e, effects.ToPeer) and e.message == said] == [B, C]


def test_a_read_from_before_a_handoff_does_not_bring_the_shard_back() -> None:
    node = Node()
    node.news(OURS, 5)
    record = node.hand_over(9)
    node.news(OURS, 5)  # it was under way meanwhile
    assert SHARD not in node.replicas.owners
    back = msgspec.structs.replace(
        record, epoch=Epoch(3), owner=A, session=SessionId(1), previous=SessionId(2)
    )
    node.news(back, 12)
    assert node.replicas.owners[SHARD].epoch == 3


def test_a_new_owner_needs_no_read_when_the_old_one_tells_it() -> None:
    node = Node()
    theirs = msgspec.structs.replace(OURS, owner=B, session=SessionId(2))
    node.news(theirs, 5)
    stream = node.replicas.on_inbound(B, SessionId(2))
    record = msgspec.structs.replace(OURS, epoch=Epoch(2), how=How.HANDOFF, previous=SessionId(2))
    said = HandedOver(SHARD, Epoch(2), 9, record)
    node.replicas.on_from_owner(B, stream, said, node.now)
    node.settle()
    assert node.replicas.owners[SHARD].is_serving(node.now)
    node.news(theirs, 5)  # a read that began before
    assert node.replicas.owners[SHARD].epoch == 2


def test_what_was_handed_over_to_another_session_of_ours_is_not_taken() -> None:
    node = Node()
    stream = node.replicas.on_inbound(B, SessionId(2))
    for how, session in ((How.HANDOFF, 77), (How.FAILOVER, 1)):
        record = msgspec.structs.replace(OURS, how=how, session=SessionId(session))
        said = HandedOver(SHARD, Epoch(1), 9, record)
        node.replicas.on_from_owner(B, stream, said, node.now)
        node.settle()
        assert SHARD not in node.replicas.owners, how


def test_a_member_that_stops_is_let_go_before_it_ends_and_not_taken_back_until_it_is_back() -> None:
    node = Node()
    node.news(OURS, 5)
    stopping = SESSIONS | {C: msgspec.structs.replace(SESSIONS[C], stopping=True)}
    node.news(OURS, 5, stopping)
    node.tick(20)
    record = node.proposed()
    assert (record.in_sync, record.learners) == ((A, B), (C,))
    node.answer(6)
    node.tick()
    assert node.proposed() is record
    node.news(node.replicas.owners[SHARD].members.record, 6)  # it lives, and stops no more
    node.tick()
    assert set(node.proposed().in_sync) == {A, B, C}


def test_the_last_members_but_min_in_sync_may_not_be_let_go() -> None:
    node = Node()
    node.news(msgspec.structs.replace(OURS, in_sync=(A, C)), 5)
    stopping = SESSIONS | {C: msgspec.structs.replace(SESSIONS[C], stopping=True)}
    node.news(msgspec.structs.replace(OURS, in_sync=(A, C)), 5, stopping)
    node.tick()
    assert node.changes() == []


def test_a_new_session_listens_to_a_store_that_counts_anew() -> None:
    node = Node()
    node.news(OURS, 500)
    node.replicas.on_session_lost()
    node.replicas.on_session(SessionId(1))
    node.news(msgspec.structs.replace(OURS, epoch=Epoch(2)), 3)
    assert node.replicas.owners[SHARD].epoch == 2


def test_after_a_long_sleep_without_session_nobody_is_called_unreachable() -> None:
    node = Node()
    node.news(OURS, 5)
    node.now += 5_000
    assert node.replicas.unreachable(node.now) == (B, C)
    node.replicas.on_session_lost()
    node.replicas.on_session(SessionId(4))
    node.news(OURS, 5)
    assert node.replicas.unreachable(node.now) == ()
    node.now += 5_000
    assert node.replicas.unreachable(node.now) == (B, C)


def test_an_owner_whose_log_ends_before_the_others_begin_steps_down() -> None:
    node = Node()
    promoted = msgspec.structs.replace(OURS, epoch=Epoch(2), how=How.FAILOVER)
    node.shapes = {B: Shape(((Epoch(1), 1),), 300, 200), C: Shape(((Epoch(1), 1),), 300, 0)}
    node.replicas.kept_of(SHARD).shape = Shape(((Epoch(1), 1),), 250)  # b can mend it
    node.news(promoted, 5)
    assert node.changes() == []
    assert any(isinstance(o, effects.ToPeer) and isinstance(o.message, Fetch) for o in node.done)

    node = Node()
    node.shapes = {B: Shape(((Epoch(1), 1),), 300, 200), C: Shape(((Epoch(1), 1),), 299, 200)}
    node.replicas.kept_of(SHARD).shape = Shape(((Epoch(1), 1),), 100)
    node.news(promoted, 5)
    record = node.proposed()
    assert (record.owner, record.session, record.epoch, record.how) == (B, 2, 3, How.FAILOVER)
    assert (record.in_sync, record.learners) == ((B, C), (A,))
    assert not node.replicas.owners[SHARD].runs_calls()
    node.tick()
    assert len(node.changes()) == 1, "it waits for the answer, and for nothing else"
    node.answer(9)
    assert SHARD not in node.replicas.owners


PARTED = Shape(((Epoch(1), 1), (Epoch(2), 10)), 12)
"""The log of a disk that has lost its last writes, as it was before an owner cut it at 9."""

TRIMMED = Shape(((Epoch(1), 1), (Epoch(3), 10)), 20, 11)
"""The log as it went on: where the two part is in the state only."""


def test_an_owner_whose_log_parts_from_the_others_before_they_begin_steps_down() -> None:
    node = Node()
    node.shapes = {B: TRIMMED, C: TRIMMED.cut(19)}
    node.replicas.kept_of(SHARD).shape = PARTED
    node.news(msgspec.structs.replace(OURS, epoch=Epoch(4), how=How.FAILOVER), 5)
    asked = [o for o in node.done if isinstance(o, effects.ToPeer) and isinstance(o.message, Fetch)]
    assert asked == [], "what would come does not follow our log, however often we ask"
    assert (node.proposed().owner, node.proposed().learners) == (B, (A,))


def test_a_learner_whose_log_parts_from_ours_before_it_begins_is_fed_a_snapshot() -> None:
    node = Node()
    node.shapes = {C: PARTED}
    node.replicas.kept_of(SHARD).shape = TRIMMED
    handed = msgspec.structs.replace(
        OURS, epoch=Epoch(4), how=How.HANDOFF, in_sync=(A, B), learners=(C,)
    )
    node.news(handed, 5)
    node.tick()
    assert effects.SendSnapshot(C, SHARD, Epoch(4)) in node.done
    sent = [o for o in node.done if isinstance(o, effects.SendEntries) and o.peer == C]
    assert sent == [], "it would say each time that they do not follow its log"


def test_entries_that_were_dropped_meanwhile_are_answered_with_the_log_as_it_is() -> None:
    node = Node()
    shape = Shape(((Epoch(1), 1),), 300, 200)
    node.replicas.kept_of(SHARD).shape = shape
    stream = node.replicas.on_inbound(B, SessionId(2))
    node.replicas.on_from_owner(B, stream, Fetch(SHARD, Epoch(2), 150), node.now)
    node.replicas.on_from_owner(B, stream, Fetch(SHARD, Epoch(2), 200), node.now)
    node.settle()
    assert effects.Reply(B, stream, Registered(SHARD, Epoch(2), shape)) in node.done
    assert [order.after for order in node.done if isinstance(order, effects.SendFetched)] == [200]


def test_an_owner_that_learns_of_the_cut_only_when_it_asks_steps_down_as_well() -> None:
    node = Node()
    node.shapes = {B: Shape(((Epoch(1), 1),), 300, 0), C: Shape(((Epoch(1), 1),), 299, 0)}
    node.replicas.kept_of(SHARD).shape = Shape(((Epoch(1), 1),), 100)
    promoted = msgspec.structs.replace(OURS, epoch=Epoch(2), how=How.FAILOVER)
    node.news(promoted, 5)
    assert node.changes() == []
    cut = Registered(SHARD, Epoch(2), Shape(((Epoch(1), 1),), 300, 200))
    node.replicas.on_from_follower(B, cut, node.now)
    node.settle()
    assert node.proposed().owner == B
