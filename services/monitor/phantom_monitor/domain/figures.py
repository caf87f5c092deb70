"""Figures that people read, out of merged windows."""

from __future__ import annotations

from dataclasses import dataclass

from phantom_monitor.domain.counts import WindowCounts
from phantom_statistics.intervals import wilson


@dataclass(frozen=True, slots=True)
class Figures:
    """Ratios are 0 to 1, latencies ms; None where there is too little to say."""

    error_rate: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_count: int
    labelled: int
    label_coverage: float | None
    accuracy: float | None
    accuracy_lower: float | None
    accuracy_upper: float | None
    log_loss: float | None


def figures(counts: WindowCounts) -> Figures:
    """The figures of a window, or of several merged."""
    labelled = sum(sum(q.confusion.values()) for q in counts.quality.values())
    correct = sum(q.confusion.get(label, 0) for label, q in counts.quality.items())
    if counts.regression is not None:
        labelled += counts.regression.count
    is_classified = bool(labelled) and counts.regression is None
    interval = wilson(correct, labelled, 0.95) if is_classified else None
    loss = sum(q.log_loss_sum for q in counts.quality.values())
    latency = counts.latency_ms
    return Figures(
        error_rate=counts.failed_attempts / counts.attempts if counts.attempts else None,
        latency_p50_ms=latency.quantile(0.5),
        latency_p95_ms=latency.p95(),
        latency_count=latency.count,
        labelled=labelled,
        label_coverage=labelled / counts.rows if counts.rows else None,
        accuracy=correct / labelled if is_classified else None,
        accuracy_lower=interval.lower if interval else None,
        accuracy_upper=interval.upper if interval else None,
        log_loss=loss / labelled if is_classified else None,
    )
