"""What an owner does about copies that the auditor found to be wrong: no good one leaves, no bad one counts."""

from __future__ import annotations

import msgspec

from replicating.node import OURS, SHARD, A, B, C, Node
from roost_node.core.record import Epoch, How, SessionId
from roost_node.core.replication import effects
from roost_node.core.replication.messages import Append, Appended, Register, Registered
from roost_node.core.replication.owner import Owner

WITHOUT_B = msgspec.structs.replace(OURS, in_sync=(A, C), learners=(B,), suspects=(B,))


class Quiet(Node):
    """Whose peer b answers by hand."""

    def _carry(self, order: effects.Effect) -> None:
        match order:
            case effects.ToPeer(peer, Register()) | effects.SendEntries(peer) if peer == B:
                return
            case effects.ToPeer(peer, Append()) if peer == B:
                return
        super()._carry(order)

    def registers(self) -> None:
        shape = self.replicas.kept_of(SHARD).shape
        self.replicas.on_from_follower(B, Registered(SHARD, Epoch(1), shape), self.now)
        self.settle()

    def acknowledges(self) -> None:
        end = self.replicas.kept_of(SHARD).shape.end
        self.replicas.on_from_follower(B, Appended(SHARD, Epoch(1), end, b""), self.now)
        self.settle()


def owner_of(node: Node) -> Owner:
    return node.replicas.owners[SHARD]


def test_a_bad_follower_counts_again_only_with_a_snapshot() -> None:
    node = Quiet()
    node.news(OURS, 5)
    node.registers()
    node.acknowledges()
    assert owner_of(node).distrust((B,), (A, C), node.now)
    node.settle()
    assert node.proposed() == msgspec.structs.replace(WITHOUT_B, nonce=node.proposed().nonce)
    assert effects.SendSnapshot(B, SHARD, Epoch(1)) not in node.done, "M7: it counts still"
    node.answer(6)
    node.acknowledges()  # of an entry from before: it stands on a state that is wrong
    node.tick()
    assert len(node.changes()) == 1
    node.registers()
    assert node.done.count(effects.SendSnapshot(B, SHARD, Epoch(1))) == 1
    node.tick()
    assert len(node.changes()) == 1
    node.acknowledges()  # of the snapshot's end
    node.tick()
    assert (node.proposed().in_sync, node.proposed().suspects) == ((A, C, B), ())


def test_a_copy_that_an_owner_before_us_found_to_be_wrong_is_not_fed_from_the_log() -> None:
    node = Quiet()
    node.news(WITHOUT_B, 5)
    node.registers()  # with a log like ours
    node.tick()
    assert node.done.count(effects.SendSnapshot(B, SHARD, Epoch(1))) == 1
    assert not any(isinstance(o, effects.SendEntries) and o.peer == B for o in node.done)
    assert node.changes() == []


def test_an_owner_whose_own_copy_is_wrong_hands_over_to_a_good_one() -> None:
    node = Node()
    node.news(OURS, 5)
    node.tick()
    assert owner_of(node).distrust((A,), (B, C), node.now)
    node.settle()
    record = node.proposed()
    assert (record.owner, record.epoch, record.how) == (B, 2, How.HANDOFF)
    assert (record.in_sync, record.learners, record.suspects) == ((B, C), (A,), (A,))
    assert effects.FallSilent(SHARD, Epoch(1)) in node.done


def test_a_handoff_that_did_not_come_about_takes_nobody_out_the_next_time() -> None:
    node = Node()
    node.news(OURS, 5)
    node.tick()
    assert owner_of(node).distrust((A,), (B,), node.now)
    node.settle()
    node.answer(0, succeeded=False)
    assert len(node.changes()) == 1
    for _ in range(40):  # until another handoff may begin
        node.news(OURS, 5)
        node.tick()
    again = node.hand_over(7)
    assert len(node.changes()) == 2
    assert (again.owner, again.in_sync, again.suspects) == (B, (A, B, C), ())


def test_too_few_copies_or_a_change_under_way_are_left_as_they_are() -> None:
    node = Node()
    node.news(msgspec.structs.replace(OURS, in_sync=(A, B)), 5)
    node.tick()
    for bad, good in (((B,), (A,)), ((A,), (B,))):
        assert not owner_of(node).distrust(bad, good, node.now), "M3"
    assert node.changes() == []
    other = Node()
    other.news(OURS, 5)
    assert owner_of(other).distrust((B,), (A, C), other.now)
    other.settle()
    assert not owner_of(other).distrust((C,), (A, B), other.now), "O2: the first is not answered"


def test_after_a_failover_the_suspicion_stays() -> None:
    node = Quiet()
    node.now += 100_000
    record = msgspec.structs.replace(WITHOUT_B, how=How.FAILOVER, previous=SessionId(9))
    node.news(record, 5)
    node.registers()
    node.tick()
    assert effects.SendSnapshot(B, SHARD, Epoch(1)) in node.done
