from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roost_node.core.log import DEDUP_WINDOW_MS, NOT_HERE, DeleteRange, Head, LogClock, ShardLog

HOUR_MS = 3_600_000


def test_an_appended_row_is_read_before_it_is_committed_and_forgotten_after() -> None:
    log = ShardLog(1, Head(), 1, 0)
    entry = log.append(b"g", {b"k": b"v"}, 10)
    group = log.group(b"g")
    assert group is not None
    assert group.get(b"k") == b"v"
    assert group.get(b"other") is NOT_HERE
    log.on_durable(entry.index)
    assert log.group(b"g") is None
    assert log.committed == 1


def test_a_row_stays_readable_while_a_younger_version_of_it_is_uncommitted() -> None:
    log = ShardLog(1, Head(), 1, 0)
    first = log.append(b"g", {b"k": b"1"}, 10)
    log.append(b"g", {b"k": b"2"}, 10)
    log.append(b"other", {b"k": b"3"}, 10)
    log.on_durable(1)
    group = log.group(b"g")
    assert group is not None
    assert group.get(b"k") == b"2"
    assert first.rows == {b"k": b"1"}, "the entry itself is as it was made"
    log.on_durable(2)
    assert log.group(b"g") is None
    assert log.group(b"other") is not None


def test_a_range_delete_hides_stored_rows_and_not_those_written_after_it() -> None:
    log = ShardLog(1, Head(), 1, 0)
    log.append(b"g", {b"a1": b"old"}, 10)
    log.append(b"g", {b"a2": b"new"}, 10, [DeleteRange(b"a", b"b")])
    group = log.group(b"g")
    assert group is not None
    assert group.get(b"a1") is None
    assert group.get(b"a3") is None
    assert group.get(b"a2") == b"new"
    assert group.get(b"b1") is NOT_HERE


def test_entries_are_chained_by_their_running_hash() -> None:
    def hash_after(*values: bytes) -> bytes:
        log = ShardLog(1, Head(), 1, 0)
        for value in values:
            log.append(b"g", {b"k": value}, 10)
        return log.append(b"g", {}, 10).hash

    assert hash_after(b"1", b"2") == hash_after(b"1", b"2")
    assert hash_after(b"1", b"2") != hash_after(b"2", b"1")


def test_a_log_goes_on_where_its_head_stands() -> None:
    log = ShardLog(1, Head(3, 41, b"h" * 16, 5000), 4, 6000)
    entry = log.append(b"g", {}, 6000)
    assert (entry.epoch, entry.index, entry.previous_epoch) == (4, 42, 3)


def test_an_outage_does_not_use_the_window_of_records_up() -> None:
    clock = LogClock(last_ms=HOUR_MS, now_ms=3 * HOUR_MS)
    assert clock.read(3 * HOUR_MS) == HOUR_MS
    assert clock.read(3 * HOUR_MS + 1000) == HOUR_MS + 1000
    after = 3 * HOUR_MS + DEDUP_WINDOW_MS
    assert clock.read(after) == after


@given(st.integers(0, 10**6), st.lists(st.integers(0, 2 * 10**6), max_size=30))
def test_log_time_never_runs_back(last_ms: int, readings: list[int]) -> None:
    clock = LogClock(last_ms, readings[0] if readings else 0)
    times = [last_ms, *(clock.read(now) for now in readings)]
    assert times == sorted(times)


def test_an_object_that_is_never_idle_does_not_hold_what_is_in_the_state_already() -> None:
    log = ShardLog(0, Head(), 1, 0)
    for number in range(20_000):
        ranges = [DeleteRange(b"row-", b"row.")] if number % 3 == 0 else []
        rows = {b"record": b"%d" % number, b"request-%d" % number: b"answer"}
        log.append(b"busy", rows, 10, ranges)
        log.on_durable(max(0, log.last - 5))  # there is always a younger entry
    group = log.group(b"busy")
    assert group is not None
    assert len(group.rows) + len(group.ranges) < 1000
    assert group.get(b"record") == b"19999"
    for number in range(19_996, 20_000):
        assert group.get(b"request-%d" % number) == b"answer"
    assert group.get(b"row-x") is None  # 19,998 deleted it, and is not durable
    log.on_durable(log.last)
    assert log.group(b"busy") is None
