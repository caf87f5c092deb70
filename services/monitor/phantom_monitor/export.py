"""Prometheus: counters from stored totals (they survive restarts), gauges from the newest complete windows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from phantom_contracts import metrics as catalogue
from phantom_monitor.domain.answers import SHADOW
from phantom_monitor.domain.counts import WINDOW_S, WindowCounts, WindowKey
from phantom_monitor.store import PostgresPredictions, PostgresWindows
from phantom_monitor.values import StoredWindow
from phantom_platform.clock import Clock
from phantom_platform.errors import Unavailable
from phantom_platform.telemetry import logs
from phantom_statistics.intervals import wilson
from phantom_statistics.latency import P95_MINIMUM

log = logs.get(__name__)

OPERATIONAL_S = 60
# Older than this, the newest complete window says nothing about now.
STALE_S = 120
QUALITY = timedelta(hours=24)
# Totals of revisions that answered nothing for longer are no longer exported.
TOTALS = timedelta(days=7)
STATES_EVERY = timedelta(seconds=15)
# Writers' clocks and long transactions: what was written this long before the last look is looked at again.
OVERLAP = timedelta(seconds=10)

Labels = tuple[str, str, str, str]
Sample = tuple[tuple[str, ...], float]


class QualitySums(NamedTuple):
    """What of a window's quality the exports need."""

    rows: int
    labelled: int
    correct: int
    log_loss: float


class Exporter:
    """Reads what changed and keeps the samples for scrapes; a collector of the registry it is given."""

    def __init__(
        self,
        windows: PostgresWindows,
        predictions: PostgresPredictions,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        self._windows = windows
        self._predictions = predictions
        self._clock = clock
        self._read_at: datetime | None = None
        self._recent: dict[WindowKey, StoredWindow] = {}
        self._quality: dict[WindowKey, QualitySums] = {}
        # By family, as last read.
        self._exported: dict[str, list[Sample]] = {}
        self._counted: dict[str, list[Sample]] = {}
        self._counted_at = datetime.min.replace(tzinfo=UTC)
        registry.register(self)

    async def run(self, interval_s: float) -> None:
        """Refresh for ever; a database that is away leaves the samples as they are."""
        while True:
            try:
                await self.refresh()
            except Unavailable as error:
                log.warning("figures are not fresh", action="monitor_export_waits", reason=str(error))
            await asyncio.sleep(interval_s)

    async def refresh(self) -> None:
        """Read what changed since the last time, and make the samples."""
        now = self._clock.now()
        oldest = now - QUALITY
        since = (self._read_at or oldest) - OVERLAP
        for window in await self._windows.updated_since(since, int(oldest.timestamp())):
            self._recent[window.key] = window
            self._quality[window.key] = quality_sums(window.counts)
        self._read_at = now
        self._forget(now)
        samples = _gauges(self._recent.values(), now.timestamp()) | _quality_gauges(self._quality)
        totals = await self._windows.totals()
        samples |= _counters([total for total in totals if total["updated_at"] >= now - TOTALS])
        self._exported = samples | await self._states(now)

    def collect(self) -> Iterator[Metric]:
        """Called by a scrape."""
        for export in catalogue.EXPORTS:
            family: Any
            if export.kind == "counter":
                family = CounterMetricFamily(
                    export.name.removesuffix("_total"), export.help, labels=export.labels
                )
            else:
                family = GaugeMetricFamily(export.name, export.help, labels=export.labels)
            for labels, value in self._exported.get(export.name, ()):
                family.add_metric(labels, value)
            yield family

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are checked when they are collected."""
        return ()

    async def _states(self, now: datetime) -> dict[str, list[Sample]]:
        """Counts over whole tables, taken more rarely."""
        if now - self._counted_at >= STATES_EVERY:
            self._counted_at = now
            self._counted = {
                catalogue.OUTCOMES.name: [(t[:3], t[3]) for t in await self._predictions.outcome_states()],
                catalogue.WINDOWS.name: [(t[:3], t[3]) for t in await self._windows.states()],
            }
        return self._counted

    def _forget(self, now: datetime) -> None:
        oldest_s, recent_s = (now - QUALITY).timestamp(), now.timestamp() - OPERATIONAL_S - STALE_S
        self._quality = {k: v for k, v in self._quality.items() if k.start_s >= oldest_s}
        self._recent = {k: w for k, w in self._recent.items() if k.start_s >= recent_s}


def quality_sums(counts: WindowCounts) -> QualitySums:
    """The quality of a window in four numbers."""
    return QualitySums(
        rows=counts.rows,
        labelled=sum(sum(q.confusion.values()) for q in counts.quality.values()),
        correct=sum(q.confusion.get(label, 0) for label, q in counts.quality.items()),
        log_loss=sum(q.log_loss_sum for q in counts.quality.values()),
    )


def _labels(key: WindowKey) -> Labels:
    return (key.workspace, key.endpoint, key.revision, key.arm)


def _gauges(windows: Iterable[StoredWindow], now_s: float) -> dict[str, list[Sample]]:
    """Latency, errors and throughput of the last complete 60 s of each endpoint."""
    complete = [w for w in windows if w.is_complete]
    newest: dict[tuple[str, str], int] = {}
    for window in complete:
        here = (window.key.workspace, window.key.endpoint)
        newest[here] = max(newest.get(here, 0), window.key.start_s)
    merged: dict[Labels, WindowCounts] = {}
    for window in complete:
        last_s = newest[window.key.workspace, window.key.endpoint]
        if last_s + WINDOW_S > now_s - STALE_S and window.key.start_s > last_s - OPERATIONAL_S:
            merged.setdefault(_labels(window.key), WindowCounts()).merge(window.counts)
    samples: dict[str, list[Sample]] = {
        name.name: [] for name in (catalogue.PREDICTION_LATENCY, catalogue.ERROR_RATE, catalogue.THROUGHPUT)
    }
    for labels, counts in merged.items():
        samples[catalogue.THROUGHPUT.name].append((labels, counts.requests / OPERATIONAL_S))
        if counts.attempts:
            samples[catalogue.ERROR_RATE.name].append((labels, counts.failed_attempts / counts.attempts))
        samples[catalogue.PREDICTION_LATENCY.name].extend(_latencies(labels, counts))
    return samples


def _latencies(labels: Labels, counts: WindowCounts) -> Iterator[Sample]:
    for percentile in catalogue.QUANTILES:
        value = counts.latency_ms.quantile(percentile / 100)
        if value is not None and (percentile < 95 or counts.latency_ms.count >= P95_MINIMUM):
            yield (*labels, catalogue.quantile_label(percentile)), value


def _quality_gauges(windows: dict[WindowKey, QualitySums]) -> dict[str, list[Sample]]:
    sums: dict[Labels, list[float]] = {}
    for key, window in windows.items():
        totals = sums.setdefault(_labels(key), [0, 0, 0, 0.0])
        for i, value in enumerate(window):
            totals[i] += value
    names = (
        catalogue.ACCURACY,
        catalogue.ACCURACY_LOWER,
        catalogue.ACCURACY_UPPER,
        catalogue.ACCURACY_COUNT,
        catalogue.LOG_LOSS,
        catalogue.LABEL_COVERAGE,
    )
    samples: dict[str, list[Sample]] = {export.name: [] for export in names}
    for labels, (rows, labelled, correct, loss) in sums.items():
        if rows:
            samples[catalogue.LABEL_COVERAGE.name].append((labels, labelled / rows))
        if labelled > 0:
            interval = wilson(int(correct), int(labelled), 0.95)
            values = (correct / labelled, interval.lower, interval.upper, labelled, loss / labelled)
            for export, value in zip(names, values, strict=False):
                samples[export.name].append((labels, value))
    return samples


def _counters(totals: list[dict[str, Any]]) -> dict[str, list[Sample]]:
    requests: list[Sample] = []
    failed: dict[tuple[str, ...], float] = {}
    classes: dict[tuple[str, ...], float] = {}
    for total in totals:
        labels = (total["workspace"], total["endpoint"], total["revision"], total["arm"])
        if total["decision"] != SHADOW:  # nobody was answered
            requests.append(((*labels, total["decision"]), total["requests"]))
        failed[labels] = failed.get(labels, 0) + total["failed_attempts"]
        for label, count in total["classes"].items():
            classes[*labels, label] = classes.get((*labels, label), 0) + int(count)
    return {
        catalogue.REQUESTS.name: requests,
        catalogue.FAILED_ATTEMPTS.name: list(failed.items()),
        catalogue.CLASSES.name: list(classes.items()),
    }
