"""The last changes of owners that a node has seen."""

from __future__ import annotations

from roost.cluster.ids import ShardId
from roost_node.core.moves import KEPT, Move, Moves
from roost_node.core.record import Epoch, How, SessionId, ShardRecord, StoreId, Versioned

A, B = StoreId("a"), StoreId("b")
ONE, TWO = ShardId(1), ShardId(2)


def owned(epoch: int, owner: StoreId, how: How = How.HANDOFF) -> Versioned:
    return Versioned(epoch, ShardRecord(Epoch(epoch), owner, SessionId(1), how, (A, B)))


def test_changes_of_owners_are_kept_in_order_and_nothing_twice() -> None:
    moves = Moves()
    assert moves.of(ONE) == ()
    moves.on_records({ONE: owned(3, A, How.CREATED)}, 1000)
    moves.on_records({ONE: owned(3, A, How.CREATED), TWO: owned(1, B, How.CREATED)}, 2000)
    moves.on_records({ONE: owned(5, B, How.FAILOVER)}, 3000)
    moves.on_records({ONE: owned(4, A)}, 4000)  # a read that was overtaken
    assert moves.of(ONE) == (
        Move(Epoch(3), A, How.CREATED, 0),  # it was so when we began to look
        Move(Epoch(5), B, How.FAILOVER, 3000),
    )
    assert moves.of(TWO) == (Move(Epoch(1), B, How.CREATED, 2000),)


def test_a_shard_that_moves_for_ever_fills_nothing() -> None:
    moves = Moves()
    for epoch in range(1, 100):
        moves.on_records({ONE: owned(epoch, A)}, epoch)
    assert [move.epoch for move in moves.of(ONE)] == list(range(100 - KEPT, 100))
