"""Changes of records, asked for in one turn of the loop, are as few transactions as can be (M5)."""

from __future__ import annotations

import asyncio

import msgspec

from roost.cluster.ids import ShardId
from roost_node.core.record import (
    OPERATIONS_MAX,
    Applied,
    Epoch,
    Guard,
    How,
    Map,
    SessionId,
    ShardRecord,
    StoreId,
    Swap,
    Transaction,
)
from roost_node.ownership.coordinator import CoordinatorDownError, UnansweredError
from roost_node.ownership.memory import MemoryCoordinator
from roost_node.replication.records import Records

RECORD = ShardRecord(Epoch(1), StoreId("a"), SessionId(1), How.CREATED, (StoreId("a"),))
OURS = Guard(StoreId("a"), SessionId(1), alive=True)
THEIRS = Guard(StoreId("b"), SessionId(2), alive=True)
Answer = tuple[ShardId, int, bool | None, int]


class Rig:
    """A coordination store that fails where a shard of `moved_on` is concerned."""

    def __init__(self) -> None:
        self.asked: list[Transaction] = []
        self.answers: list[Answer] = []
        self.moved_on: set[int] = set()
        self.failure: Exception | None = None

    async def apply(self, wanted: Transaction) -> Applied:
        self.asked.append(wanted)
        if self.failure is not None:
            raise self.failure
        succeeded = not any(swap.shard in self.moved_on for swap in wanted.swaps)
        return Applied(succeeded, 100 + len(self.asked))

    def on_change_answered(
        self, shard: ShardId, token: int, succeeded: bool | None, revision: int
    ) -> None:
        self.answers.append((shard, token, succeeded, revision))

    def on_map(self, found: Map, begun_ms: int, as_of: SessionId) -> None:
        raise AssertionError

    def session_now(self) -> SessionId:
        return SessionId(1)


def played(rig: Rig, *changes: tuple[int, tuple[Guard, ...]]) -> list[Answer]:
    """Ask for these in one turn; the answers, by token."""

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            coordinator = MemoryCoordinator.__new__(MemoryCoordinator)
            coordinator.apply = rig.apply  # type: ignore[method-assign]  # all that is asked of it
            records = Records(coordinator, tasks, lambda: 0)
            records.listener = rig
            for token, (shard, guards) in enumerate(changes):
                record = msgspec.structs.replace(RECORD, nonce=token)
                swap = Swap(ShardId(shard), 7, record)
                records.change(ShardId(shard), token, Transaction((swap,), guards))
            await asyncio.sleep(0)

    asyncio.run(run())
    return sorted(rig.answers, key=lambda answer: answer[1])


def test_all_shards_of_a_pair_go_in_one_transaction() -> None:
    rig = Rig()
    answers = played(rig, (1, (OURS,)), (2, (OURS,)), (3, (OURS,)))
    assert [len(t.swaps) for t in rig.asked] == [3]
    assert answers == [(n, n - 1, True, 101) for n in (1, 2, 3)]


def test_other_conditions_and_a_second_change_of_a_shard_go_apart() -> None:
    rig = Rig()
    played(rig, (1, (OURS,)), (2, (OURS, THEIRS)), (1, (OURS,)))
    assert [[s.shard for s in t.swaps] for t in rig.asked] == [[1], [1], [2]]
    assert rig.asked[2].guards == (OURS, THEIRS)


def test_no_transaction_is_larger_than_the_store_takes() -> None:
    rig = Rig()
    answers = played(rig, *((shard, (OURS,)) for shard in range(300)))
    assert len(answers) == 300
    assert [t.operations <= OPERATIONS_MAX for t in rig.asked] == [True] * 3


def test_one_shard_that_has_moved_on_does_not_hold_up_the_others() -> None:
    rig = Rig()
    rig.moved_on = {2}
    answers = played(rig, (1, (OURS,)), (2, (OURS,)), (3, (OURS,)))
    assert [(shard, succeeded) for shard, _, succeeded, _ in answers] == [
        (1, True),
        (2, False),
        (3, True),
    ]
    assert [len(t.swaps) for t in rig.asked] == [3, 1, 1, 1]


def test_an_answer_that_is_lost_is_lost_for_all_and_one_that_says_no_is_no_for_all() -> None:
    for failure, told in ((UnansweredError("?"), None), (CoordinatorDownError("no"), False)):
        rig = Rig()
        rig.failure = failure
        answers = played(rig, (1, (OURS,)), (2, (OURS,)))
        assert [succeeded for _, _, succeeded, _ in answers] == [told, told]
        assert len(rig.asked) == 1
