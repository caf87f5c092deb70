"""What a replica counts, on a registry that is handed in.

A frame is counted in plain numbers, which become metrics when they are scraped: the client library's own counters and
histograms take a lock and a call each, a tenth of what a frame of one call costs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Lock

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from phantom_contracts.launch import LaunchFile
from phantom_model_server import failures
from phantom_model_server.service import Answered
from phantom_runtimes import Choice

SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
CALLS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
OK = 0


class _Histogram:
    """Counts by upper bound."""

    def __init__(self, name: str, words: str, bounds: Sequence[float]) -> None:
        self._name, self._words, self._bounds = name, words, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collected(self) -> Metric:
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip([*map(str, map(float, self._bounds)), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        family = HistogramMetricFamily(self._name, self._words)
        family.add_metric([], buckets=buckets, sum_value=self._sum)
        return family


class _AtScrape(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


class Metrics:
    """The observer of a `ModelServer`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = Lock()  # frames are answered on the event loop and in threads
        self._calls = Counter({OK: 0})
        self._refusals: Counter[str] = Counter()
        self._rows = self._runs = self._missing = self._unknown = 0
        self._seconds = _Histogram(
            "phantom_model_frame_seconds", "From a frame's arrival to its answer.", SECONDS
        )
        self._frame_calls = _Histogram("phantom_model_frame_calls", "Calls in a frame.", CALLS)
        self._registry = registry
        registry.register(_AtScrape(self._collect))

    def answered(self, frame: Answered, seconds: float) -> None:
        calls = len(frame.replies)
        with self._lock:
            self._seconds.observe(seconds)
            self._frame_calls.observe(calls)
            self._calls[OK] += calls - len(frame.errors)
            self._rows += frame.rows
            self._runs += frame.runs
            self._missing += frame.missing
            self._unknown += frame.unknown
            for error in frame.errors.values():
                self._calls[failures.code_of(error)] += 1
                self._refusals[error.code] += 1

    def _collect(self) -> Iterator[Metric]:
        with self._lock:
            by_code, by_reason = dict(self._calls), dict(self._refusals)
            plain = (
                ("phantom_model_rows", "Rows answered.", self._rows),
                ("phantom_model_runs", "Runs of the model.", self._runs),
                (
                    "phantom_model_missing_features",
                    "Optional features that did not come, per row.",
                    self._missing,
                ),
                (
                    "phantom_model_unknown_categories",
                    "Categories that the schema does not list.",
                    self._unknown,
                ),
            )
            histograms = [self._seconds.collected(), self._frame_calls.collected()]
        calls = CounterMetricFamily(
            "phantom_model_calls", "Calls by gRPC status code of their answer.", labels=["code"]
        )
        for code, count in by_code.items():
            calls.add_metric([str(code)], count)
        refusals = CounterMetricFamily("phantom_model_refusals", "Failed calls by reason.", labels=["reason"])
        for reason, count in by_reason.items():
            refusals.add_metric([reason], count)
        yield calls
        yield refusals
        for name, words, value in plain:
            yield CounterMetricFamily(name, words, value=value)
        yield from histograms

    def describe(self, launch: LaunchFile, runtime: str, choice: Choice) -> None:
        """Say on the scrape what is served here."""
        Gauge(
            "phantom_model_info",
            "What is served here; always 1.",
            ("workspace", "deployment", "revision", "replica", "model", "version", "runtime"),
            registry=self._registry,
        ).labels(
            workspace=launch.workspace,
            deployment=launch.deployment_id,
            revision=launch.revision,
            replica=launch.replica_id,
            model=launch.model_id,
            version=launch.model_version,
            runtime=runtime,
        ).set(1)
        Gauge(
            "phantom_model_onnx_rows",
            "Rows in one run up to which onnxruntime answers for another framework's model; 0: never.",
            ("reason",),
            registry=self._registry,
        ).labels(reason=choice.reason).set(choice.rows)

    def watch(self, in_flight: Callable[[], int], open_streams: Callable[[], int]) -> None:
        """Read these two at every scrape."""
        Gauge("phantom_model_in_flight", "Calls being answered.", registry=self._registry).set_function(
            in_flight
        )
        Gauge("phantom_model_open_streams", "Open frame streams.", registry=self._registry).set_function(
            open_streams
        )
