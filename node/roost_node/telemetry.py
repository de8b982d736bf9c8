"""Counters and histograms, named once.

The hot path adds to plain integers; the Prometheus collector reads them when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from roost.wire.messages import Status

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class Histogram:
    """Counts by power of two: bucket n holds values below 2**n units."""

    small_values = ("counts", "total")
    __slots__ = ("counts", "total", "unit")

    def __init__(self, unit: float, buckets: int = 32) -> None:
        self.unit = unit  # size of one unit in the exported measure
        self.counts = [0] * buckets
        self.total = 0

    def add(self, value: int) -> None:
        """Count one value, in units."""
        bucket = value.bit_length()
        self.counts[bucket if bucket < len(self.counts) else -1] += 1
        self.total += value

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """(upper bound, count at or below it), for Prometheus."""
        count = 0
        for power, here in enumerate(self.counts[:-1]):
            count += here
            yield repr(((1 << power) - 1 or 0.5) * self.unit), count
        yield "+Inf", count + self.counts[-1]


class Telemetry:
    """What one node counts."""

    small_values = ("ended", "activations_started", "activations_evicted")

    def __init__(self) -> None:
        self.ended = [0] * 256  # calls, by status
        self.rejections: dict[str, int] = {}  # by reason
        self.call_us = Histogram(1e-6)
        self.commit_entries = Histogram(1.0, 20)
        self.sync_us = Histogram(1e-6)
        self.loop_lag_us = Histogram(1e-6)
        self.mailbox_depth = Histogram(1.0, 20)
        self.dedup_hits = 0
        self.write_stalls = 0
        self.activations_started = 0
        self.activations_evicted = 0
        self.resets = 0
        self.effect_warnings = 0
        self.audits = 0
        self.audit_alarms = 0
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def parts(self) -> tuple[Telemetry | Histogram, ...]:
        """What holds the counts (`core/repack.py`)."""
        return (self, *(part for part in vars(self).values() if isinstance(part, Histogram)))

    def reject(self, reason: str) -> None:
        """A call was refused."""
        self.rejections[reason] = self.rejections.get(reason, 0) + 1

    def on_commit(self, entries: int, seconds: float) -> None:
        """A batch is durable."""
        self.commit_entries.add(entries)
        self.sync_us.add(int(seconds * 1e6))

    def collect(self) -> Iterable[Metric]:
        """Everything, as Prometheus metric families."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        calls = CounterMetricFamily("roost_calls", "calls ended, by status", labels=["status"])
        for status in Status:
            calls.add_metric([status.name], self.ended[status])
        yield calls
        rejections = CounterMetricFamily(
            "roost_rejections", "calls refused, by reason", labels=["reason"]
        )
        for reason, count in self.rejections.items():
            rejections.add_metric([reason], count)
        yield rejections
        for name, text, histogram in (
            ("roost_call_seconds", "arrival to reply", self.call_us),
            ("roost_commit_batch_entries", "entries in one flush", self.commit_entries),
            ("roost_fsync_seconds", "one flush of the write-ahead log", self.sync_us),
            ("roost_loop_lag_seconds", "how late the event loop runs", self.loop_lag_us),
            (
                "roost_mailbox_depth",
                "calls waiting at an object when one more came",
                self.mailbox_depth,
            ),
        ):
            yield HistogramMetricFamily(
                name,
                text,
                buckets=list(histogram.cumulative()),
                sum_value=histogram.total * histogram.unit,
            )
        for name, text, value in (
            ("roost_dedup_hits", "calls answered from a record", self.dedup_hits),
            ("roost_write_stalls", "batches that the store took later", self.write_stalls),
            ("roost_activations_started", "objects loaded", self.activations_started),
            ("roost_activations_evicted", "objects that left memory", self.activations_evicted),
            ("roost_resets", "activations dropped after a failure", self.resets),
            (
                "roost_effect_warnings",
                "calls that did two things when run twice",
                self.effect_warnings,
            ),
            ("roost_audits", "pieces of own shards compared with their copies", self.audits),
            (
                "roost_audit_alarms_found",
                "of these, where copies differed or could not be read",
                self.audit_alarms,
            ),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=read())
