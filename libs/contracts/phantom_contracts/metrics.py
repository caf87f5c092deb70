"""The catalogue of metrics: what a name means in alerts, dashboards, experiments and scaling (evidence §3).

`CATALOGUE` holds what people name (`prediction_latency_p95`), `EXPORTS` the Prometheus families that the monitor
serves, with their labels. Ratios are 0 to 1; "percentage" is a unit of display.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["ms", "ratio", "requests/s", "nats", "score"]
Direction = Literal["lower_is_better", "higher_is_better", "neither"]
_MINUTE_S = 60
_DAY_S = 86_400

LABELS = ("workspace", "endpoint", "revision", "arm")
"""What every per-revision family carries. `arm`: control, candidate, or `<experiment>/<arm>`."""


@dataclass(frozen=True)
class Export:
    """One family that the monitor exports. Counters are named as scraped, with `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Metric:
    """One name of the catalogue.

    `selector` narrows the family `prometheus` to it (`{"quantile": "0.95"}`). `window_s` is the default window: of
    answers for operational metrics, of matured predictions for quality (`is_quality`). Where `has_interval`, the
    family has siblings `_lower`, `_upper` and `_count`.
    """

    name: str
    prometheus: str
    unit: Unit
    window_s: int
    direction: Direction
    selector: Mapping[str, str]
    is_quality: bool = False
    has_interval: bool = False


REQUESTS = Export(
    "phantom_monitor_requests_total", "counter", (*LABELS, "decision"), "Answered calls, each counted once"
)
FAILED_ATTEMPTS = Export(
    "phantom_monitor_failed_attempts_total",
    "counter",
    LABELS,
    "Attempts that failed, charged to the revision that failed, also when a retry then served the call",
)
CLASSES = Export("phantom_monitor_classes_total", "counter", (*LABELS, "label"), "Rows by predicted label")
OUTCOMES = Export(
    "phantom_monitor_outcomes_total",
    "counter",
    ("workspace", "endpoint", "result"),
    "Reported outcomes by what became of them: joined, waiting, unmatched, corrected, refused",
)
PREDICTION_LATENCY = Export(
    "phantom_monitor_prediction_latency_ms",
    "gauge",
    (*LABELS, "quantile"),
    "Gateway receive to answer over the last complete 60 s, ms; absent below 73 requests for p95",
)
ERROR_RATE = Export(
    "phantom_monitor_error_rate", "gauge", LABELS, "Failed attempts / attempts of the last 60 s, 0 to 1"
)
THROUGHPUT = Export("phantom_monitor_throughput_rps", "gauge", LABELS, "Requests/s over the last 60 s")
ACCURACY = Export("phantom_monitor_accuracy", "gauge", LABELS, "Share right of matured, labelled rows, 24 h")
ACCURACY_LOWER = Export("phantom_monitor_accuracy_lower", "gauge", LABELS, "Lower end of its 95 % interval")
ACCURACY_UPPER = Export("phantom_monitor_accuracy_upper", "gauge", LABELS, "Upper end of its 95 % interval")
ACCURACY_COUNT = Export("phantom_monitor_accuracy_count", "gauge", LABELS, "Rows behind the accuracy")
LOG_LOSS = Export(
    "phantom_monitor_log_loss", "gauge", LABELS, "Mean log loss of matured, labelled rows of 24 h, nats"
)
LABEL_COVERAGE = Export(
    "phantom_monitor_label_coverage", "gauge", LABELS, "Labelled / matured rows of the last 24 h, 0 to 1"
)
WINDOWS = Export(
    "phantom_monitor_windows",
    "gauge",
    ("workspace", "endpoint", "state"),
    "Windows kept, by state: partial, complete",
)

EXPORTS: tuple[Export, ...] = (
    REQUESTS,
    FAILED_ATTEMPTS,
    CLASSES,
    OUTCOMES,
    PREDICTION_LATENCY,
    ERROR_RATE,
    THROUGHPUT,
    ACCURACY,
    ACCURACY_LOWER,
    ACCURACY_UPPER,
    ACCURACY_COUNT,
    LOG_LOSS,
    LABEL_COVERAGE,
    WINDOWS,
)

QUANTILES = (50, 90, 95, 99)
"""Latency quantiles that the monitor exports, as `quantile="0.5"`, `"0.9"`, …"""


def _operational(name: str, export: Export, unit: Unit, direction: Direction) -> Metric:
    return Metric(name, export.name, unit, _MINUTE_S, direction, {})


def _latency(percentile: int) -> Metric:
    return Metric(
        f"prediction_latency_p{percentile}",
        PREDICTION_LATENCY.name,
        "ms",
        _MINUTE_S,
        "lower_is_better",
        {"quantile": quantile_label(percentile)},
    )


def _quality(name: str, prometheus: str, unit: Unit, direction: Direction) -> Metric:
    return Metric(name, prometheus, unit, _DAY_S, direction, {}, is_quality=True, has_interval=True)


def quantile_label(percentile: int) -> str:
    """`0.95` for 95."""
    return f"{percentile / 100:g}"


CATALOGUE: tuple[Metric, ...] = (
    *(_latency(percentile) for percentile in QUANTILES),
    _operational("error_rate", ERROR_RATE, "ratio", "lower_is_better"),
    _operational("throughput", THROUGHPUT, "requests/s", "neither"),
    _quality("prediction_accuracy", ACCURACY.name, "ratio", "higher_is_better"),
    _quality("precision", "phantom_monitor_precision", "ratio", "higher_is_better"),
    _quality("recall", "phantom_monitor_recall", "ratio", "higher_is_better"),
    _quality("f1", "phantom_monitor_f1", "ratio", "higher_is_better"),
    _quality("log_loss", LOG_LOSS.name, "nats", "lower_is_better"),
    _quality("roc_auc", "phantom_monitor_roc_auc", "ratio", "higher_is_better"),
    _quality("calibration_error", "phantom_monitor_calibration_error", "ratio", "lower_is_better"),
    Metric("label_coverage", LABEL_COVERAGE.name, "ratio", _DAY_S, "higher_is_better", {}, is_quality=True),
    Metric("data_drift", "phantom_drift_score", "score", _DAY_S, "lower_is_better", {}),
)

_BY_NAME = {metric.name: metric for metric in CATALOGUE}
_PERCENTILE = re.compile(r"prediction_latency_p(\d{1,2})")


def named(name: str) -> Metric:
    """The metric of that name; LookupError naming the valid ones."""
    found = _BY_NAME.get(name)
    if found is not None:
        return found
    if _PERCENTILE.fullmatch(name):
        valid = ", ".join(f"p{each}" for each in QUANTILES)
        raise LookupError(f"{name!r} is not kept; latency percentiles are {valid}")
    raise LookupError(f"there is no metric {name!r}; there are {', '.join(_BY_NAME)}")
