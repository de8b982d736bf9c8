"""What a router counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from roost_router.core.forward import Counts


class Telemetry:
    """The core's counts, and gauges that are read when they are asked for."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def collect(self) -> Iterable[Metric]:
        """Everything, as Prometheus metric families."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        counts = self._counts
        for name, text, value in (
            ("roost_router_calls", "calls taken from clients", counts.taken),
            ("roost_router_answers", "final answers given", counts.answered),
            ("roost_router_refusals", "calls refused for lack of room", counts.refused),
            ("roost_router_again", "attempts after a refusal by a node", counts.again),
            ("roost_router_lost", "attempts that were under way on a link that broke", counts.lost),
            ("roost_router_moved", "calls that followed their shard to a new owner", counts.moved),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=read())
