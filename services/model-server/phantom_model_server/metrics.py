"""What a replica counts, on a registry that is handed in."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from phantom_contracts.launch import LaunchFile
from phantom_model_server import failures
from phantom_model_server.service import Answered

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


class Metrics:
    """The observer of a `ModelServer`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "phantom_model_calls", "Calls by gRPC status code of their answer.", ("code",), registry=registry
        )
        self._refusals = Counter(
            "phantom_model_refusals", "Failed calls by reason.", ("reason",), registry=registry
        )
        self._rows = Counter("phantom_model_rows", "Rows answered.", registry=registry)
        self._runs = Counter("phantom_model_runs", "Runs of the model.", registry=registry)
        self._missing = Counter(
            "phantom_model_missing_features",
            "Optional features that did not come, per row.",
            registry=registry,
        )
        self._unknown = Counter(
            "phantom_model_unknown_categories", "Categories that the schema does not list.", registry=registry
        )
        self._seconds = Histogram(
            "phantom_model_frame_seconds",
            "From a frame's arrival to its answer.",
            buckets=SECONDS,
            registry=registry,
        )
        self._frame_calls = Histogram(
            "phantom_model_frame_calls", "Calls in a frame.", buckets=CALLS, registry=registry
        )
        self._registry = registry
        self._ok = self._calls.labels(code=str(OK))

    def answered(self, frame: Answered, seconds: float) -> None:
        self._seconds.observe(seconds)
        self._frame_calls.observe(len(frame.replies))
        self._ok.inc(len(frame.replies) - len(frame.errors))
        for error in frame.errors.values():
            self._calls.labels(code=str(failures.code_of(error))).inc()
            self._refusals.labels(reason=error.code).inc()
        self._rows.inc(frame.rows)
        self._runs.inc(frame.runs)
        if frame.missing:
            self._missing.inc(frame.missing)
        if frame.unknown:
            self._unknown.inc(frame.unknown)

    def describe(self, launch: LaunchFile, runtime: str) -> None:
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

    def watch(self, in_flight: Callable[[], int], open_streams: Callable[[], int]) -> None:
        """Read these two at every scrape."""
        Gauge("phantom_model_in_flight", "Calls being answered.", registry=self._registry).set_function(
            in_flight
        )
        Gauge("phantom_model_open_streams", "Open frame streams.", registry=self._registry).set_function(
            open_streams
        )
