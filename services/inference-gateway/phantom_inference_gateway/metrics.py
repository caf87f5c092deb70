"""What the gateway counts: plain numbers while it serves, made into Prometheus families when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from phantom_platform.clock import Clock, SystemClock

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STATUS = ("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
           "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
           "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED")  # fmt: skip
_PREFIX = "phantom_gateway_"
FORGET_AFTER_S = 3600.0
"""How long the series of a revision outlive its time in the route."""


class _Series:
    __slots__ = ("buckets", "total_s")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0


class GatewayMetrics(Collector):
    """The use case's observer, and a collector. Register it with the process's registry.

    `counters` and `gauges` are read at each scrape: name without prefix → (help, value).
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.retries = self.fallbacks = self.shed = self.cancelled = 0
        # Calls that end before their endpoint is known, by reason.
        self.refused: dict[str, int] = {}
        # (endpoint key, revision, why) → calls refused since the replicas had too much to do; `shed` has them, too.
        self.overloads: dict[tuple[str, str, str], int] = {}
        # (endpoint key, revision) → seconds until a call that comes now is answered.
        self.waits: Callable[[], Mapping[tuple[str, str], float]] = dict
        self.counters: dict[str, tuple[str, Callable[[], float]]] = {}
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        # Endpoint key → applied route version.
        self.versions: Callable[[], Mapping[str, int]] = dict
        # (endpoint key, revision) of everything in the applied routes; what is no longer there is forgotten in time.
        self.routed: Callable[[], Collection[tuple[str, str]]] | None = None
        self._series: dict[tuple[str, str, str, int], _Series] = {}
        # (endpoint key, revision) → when it was first seen to be out of the routes.
        self._gone: dict[tuple[str, str], float] = {}

    def observe(self, key: str, revision: str, variant: str, status: int, seconds: float) -> None:
        """One call ended."""
        labels = (key, revision, variant, status)
        series = self._series.get(labels)
        if series is None:
            self._forget()  # also where nobody scrapes
            series = self._series[labels] = _Series()
        series.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        series.total_s += seconds

    def refuse(self, reason: str) -> None:
        """One call ended before its endpoint was known: unparsable, unknown, shed, not allowed."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def overload(self, key: str, revision: str, why: str) -> None:
        """One call was refused since a revision's replicas have too much to do."""
        labels = (key, revision, why)
        self.overloads[labels] = self.overloads.get(labels, 0) + 1

    def _forget(self) -> None:
        """Drop the series of revisions that have been out of the routes for an hour: each rollout brings new ones."""
        if self.routed is None:
            return
        now, routed = self._clock.monotonic(), self.routed()
        known = {labels[:2] for labels in self._series} | {labels[:2] for labels in self.overloads}
        self._gone = {each: self._gone.get(each, now) for each in known if each not in routed}
        late = {each for each, since in self._gone.items() if now - since >= FORGET_AFTER_S}
        if late:
            kept = {labels: series for labels, series in self._series.items() if labels[:2] not in late}
            self._series = kept
            self.overloads = {each: count for each, count in self.overloads.items() if each[:2] not in late}

    def collect(self) -> Iterable[Metric]:
        self._forget()
        yield from self._requests()
        refused = CounterMetricFamily(
            f"{_PREFIX}refused", "Calls that left no record, by reason", labels=["reason"]
        )
        for reason, count in self.refused.items():
            refused.add_metric([reason], count)
        yield refused
        yield from self._queues()
        versions = GaugeMetricFamily(
            f"{_PREFIX}route_version", "Applied route version", labels=["workspace", "endpoint"]
        )
        for key, version in self.versions().items():
            versions.add_metric(key.split("/", 1), version)
        yield versions
        own: dict[str, tuple[str, Callable[[], float]]] = {
            "retries": ("Further attempts at calls", lambda: self.retries),
            "fallbacks": (
                "Answers of the stable revision in place of the assigned one",
                lambda: self.fallbacks,
            ),
            "shed": ("Calls refused because the gateway or a replica had too much to do", lambda: self.shed),
            "cancelled": ("Calls whose client went away", lambda: self.cancelled),
        }
        for name, (help_text, value) in {**own, **self.counters}.items():
            yield CounterMetricFamily(_PREFIX + name, help_text, value=value())
        for name, (help_text, value) in self.gauges.items():
            yield GaugeMetricFamily(_PREFIX + name, help_text, value=value())

    def _queues(self) -> Iterable[Metric]:
        labels = ["workspace", "endpoint", "revision"]
        overloads = CounterMetricFamily(
            f"{_PREFIX}overloaded",
            "Calls refused since their revision's replicas had too much to do, by what they would have exceeded",
            labels=[*labels, "bound"],
        )
        for (key, revision, why), count in self.overloads.items():
            overloads.add_metric([*key.split("/", 1), revision, why], count)
        yield overloads
        waits = GaugeMetricFamily(
            f"{_PREFIX}expected_wait_seconds", "Until a call that comes now is answered", labels=labels
        )
        for (key, revision), wait in self.waits().items():
            waits.add_metric([*key.split("/", 1), revision], wait)
        yield waits

    def _requests(self) -> Iterable[Metric]:
        labels = ["workspace", "endpoint", "revision", "variant"]
        requests = CounterMetricFamily(
            f"{_PREFIX}requests", "Calls by how they ended", labels=[*labels, "status"]
        )
        latency = HistogramMetricFamily(f"{_PREFIX}latency_seconds", "Received to answered", labels=labels)
        merged: dict[tuple[str, str, str], _Series] = {}
        for (key, revision, variant, status), series in self._series.items():
            name = _STATUS[status] if 0 <= status < len(_STATUS) else str(status)
            requests.add_metric([*key.split("/", 1), revision, variant, name], sum(series.buckets))
            into = merged.setdefault((key, revision, variant), _Series())
            into.buckets = [a + b for a, b in zip(into.buckets, series.buckets, strict=True)]
            into.total_s += series.total_s
        for (key, revision, variant), series in merged.items():
            latency.add_metric(
                [*key.split("/", 1), revision, variant], _cumulated(series.buckets), sum_value=series.total_s
            )
        yield requests
        yield latency


def _cumulated(buckets: list[int]) -> list[tuple[str, float]]:
    total, out = 0, []
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), buckets, strict=True):
        total += count
        out.append((bound, float(total)))
    return out
