"""The last changes of owners that a node has seen."""

from __future__ import annotations

import msgspec
import pytest

from roost.cluster.ids import ShardId
from roost_node.core.moves import KEPT, Move, Moves
from roost_node.core.record import (
    ClusterConfig,
    DeathRecord,
    Epoch,
    How,
    Map,
    SessionId,
    SessionInfo,
    ShardRecord,
    StoreId,
    Versioned,
)

A, B = StoreId("a"), StoreId("b")
ONE, TWO = ShardId(1), ShardId(2)


def owned(epoch: int, owner: StoreId, how: How = How.HANDOFF) -> Versioned:
    return Versioned(
        epoch, ShardRecord(Epoch(epoch), owner, SessionId(1), how, (A, B), previous=SessionId(7))
    )


def test_changes_of_owners_are_kept_in_order_and_nothing_twice() -> None:
    moves = Moves()
    assert moves.of(ONE) == ()
    moves.on_records({ONE: owned(3, A, How.CREATED)}, None, 1000)
    moves.on_records({ONE: owned(3, A, How.CREATED), TWO: owned(1, B, How.CREATED)}, None, 2000)
    moves.on_records({ONE: owned(5, B, How.FAILOVER)}, None, 3000)
    moves.on_records({ONE: owned(4, A)}, None, 4000)  # a read that was overtaken
    assert moves.of(ONE) == (
        Move(Epoch(3), A, How.CREATED, 0),  # it was so when we began to look
        Move(Epoch(5), B, How.FAILOVER, 3000),
    )
    assert moves.of(TWO) == (Move(Epoch(1), B, How.CREATED, 2000),)


def test_a_shard_that_moves_for_ever_fills_nothing() -> None:
    moves = Moves()
    for epoch in range(1, 100):
        moves.on_records({ONE: owned(epoch, A)}, None, epoch)
    assert [move.epoch for move in moves.of(ONE)] == list(range(100 - KEPT, 100))


ALIVE = SessionInfo(A, SessionId(7), "a:1")
CALM = Map(1, ClusterConfig("c", 8, b"", "h"), {A: ALIVE}, {}, {})


@pytest.mark.parametrize(
    ("change", "info", "how", "why"),
    [
        ({}, {}, How.HANDOFF, "the plan's balance"),
        ({"pins": {ONE: B}}, {}, How.HANDOFF, "an operator's move"),
        ({"pins": {TWO: B}}, {}, How.HANDOFF, "the plan's balance"),
        ({}, {"draining": True}, How.HANDOFF, "its owner was drained"),
        ({}, {"draining": True, "short_of_disk": True}, How.HANDOFF, "its owner's disk was nearly full"),
        ({}, {"stopping": True}, How.HANDOFF, "its owner stopped"),
        ({"sessions": {}}, {}, How.HANDOFF, "its owner stopped"),
        ({}, {}, How.FAILOVER, "its owner was lost, or cut off"),
        (
            {"deaths": {SessionId(7): DeathRecord(A, SessionId(7))}},
            {},
            How.FAILOVER,
            "its owner's process died",
        ),
    ],
)  # fmt: skip
def test_the_map_of_the_moment_tells_why(
    change: dict[str, object], info: dict[str, object], how: How, why: str
) -> None:
    found = msgspec.structs.replace(
        CALM, **{"sessions": {A: msgspec.structs.replace(ALIVE, **info)}, **change}
    )
    moves = Moves()
    moves.on_records({ONE: owned(1, A)}, found, 1000)
    moves.on_records({ONE: owned(2, B, how)}, found, 2000)
    assert [move.why for move in moves.of(ONE)] == ["", why]


def test_data_that_was_given_up_is_called_so_and_a_gap_is_not_explained() -> None:
    moves = Moves()
    moves.on_records({ONE: owned(1, A)}, CALM, 1000)
    moves.on_records({ONE: owned(3, B)}, CALM, 2000)  # who had epoch 2?
    reborn = msgspec.structs.replace(owned(4, A, How.FAILOVER).record, reborn=Epoch(4))
    moves.on_records({ONE: Versioned(4, reborn)}, CALM, 3000)
    assert [move.why for move in moves.of(ONE)] == ["", "", "data was given up"]
