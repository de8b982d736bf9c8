"""Shards that come and go, in the log."""

from __future__ import annotations

import logging

import pytest

from roost.cluster.ids import ShardId
from roost_node.core.record import Epoch
from roost_node.replication.announcements import FEW, Announcements


def test_a_few_are_told_one_by_one_and_many_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("roost_node.test")
    caplog.set_level(logging.INFO, logger=log.name)
    said = Announcements(log)
    for number in range(FEW):
        said.add("own shard", ShardId(number), Epoch(3))
    said.add("shard lost", ShardId(7), Epoch(2))
    said.say()
    said.say()
    assert caplog.messages == ["own shard"] * FEW + ["shard lost"]
    assert [(r.shard, r.epoch) for r in caplog.records][-2:] == [(7, 3), (7, 2)]  # type: ignore[attr-defined]
    caplog.clear()
    for number in (*range(100), 200):
        said.add("own shard", ShardId(number), Epoch(3))
    said.say()
    (record,) = caplog.records
    assert record.message == "own shards"
    assert (record.count, record.shards) == (101, "0-99, 200")  # type: ignore[attr-defined]


def test_a_line_of_many_single_shards_has_an_end(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("roost_node.test")
    caplog.set_level(logging.INFO, logger=log.name)
    said = Announcements(log)
    for number in range(0, 1000, 2):
        said.add("shard lost", ShardId(number), Epoch(3))
    said.say()
    (record,) = caplog.records
    assert record.message == "shards lost"
    shown = ", ".join(str(number) for number in range(0, 40, 2))
    assert (record.count, record.shards) == (500, f"{shown} ...")  # type: ignore[attr-defined]
