"""What a replay found, and what the limits make of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from phantom.deployer.v1 import rollout_pb2 as pb
from phantom_probing.measure import QUANTILES_FROM

MAX_FAILED = 0.001
"""Share of requests that the candidate may fail though they were answered then."""


@dataclass(frozen=True)
class Limits:
    """None: only reported."""

    max_disagreement: float | None = None
    max_distribution_distance: float | None = None
    max_latency_p95_ms: float | None = None
    # Non-inferiority margin of accuracy.
    quality_margin: float | None = None


@dataclass(frozen=True)
class Example:
    """A row that is answered differently; `id` has `/row` behind it for every row but the first."""

    id: str
    served: str
    candidate: str


@dataclass(frozen=True)
class Quality:
    """On the rows whose outcome is known; None for regression, and where none is. The difference is candidate minus
    served, with bounds at 95 % each."""

    labelled: int = 0
    accuracy: float | None = None
    served_accuracy: float | None = None
    difference_lower: float | None = None
    difference_upper: float | None = None
    log_loss: float | None = None
    served_log_loss: float | None = None


@dataclass(frozen=True)
class Report:
    """Fields as in ReplayReport (rollout.proto). None: not known."""

    requests: int = 0
    rows: int = 0
    failed: int = 0
    disagreement: float = 0.0
    distribution_distance: float = 0.0
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    served_latency_p95_ms: float | None = None
    quality: Quality = field(default_factory=Quality)
    examples: tuple[Example, ...] = ()
    first_error: str = ""
    # Why there is less than was asked for.
    note: str = ""
    verdict: str = "not_enough_data"
    reason: str = ""


def judged(report: Report, limits: Limits) -> Report:
    """With its verdict: `fail` for the first limit that is broken, `not_enough_data` where one cannot be judged."""
    if not report.requests:
        words = "there are no past requests to replay" + (f": {report.note}" if report.note else "")
        return replace(report, verdict="not_enough_data", reason=words)
    broken, open_questions = [], []
    if report.failed > MAX_FAILED * report.requests:
        broken.append(
            f"the candidate failed {report.failed:,} of {report.requests:,} requests that were answered then, the "
            f"first with {report.first_error}"
        )
    for name, value, limit in (
        ("of all rows are answered differently", report.disagreement, limits.max_disagreement),
        (
            "is the distance of the predictions",
            report.distribution_distance,
            limits.max_distribution_distance,
        ),
    ):
        if limit is not None and value > limit:
            broken.append(f"{value:.4g} {name}, the limit is {limit:g}")
    if limits.max_latency_p95_ms is not None:
        if report.latency_p95_ms is None:
            open_questions.append(f"a p95 needs {QUANTILES_FROM} answered requests")
        elif report.latency_p95_ms > limits.max_latency_p95_ms:
            broken.append(
                f"the p95 is {report.latency_p95_ms:.3g} ms, the limit is {limits.max_latency_p95_ms:g} ms"
            )
    if limits.quality_margin is not None:
        _judge_quality(report, limits.quality_margin, broken, open_questions)
    verdict = "fail" if broken else "not_enough_data" if open_questions else "pass"
    return replace(report, verdict=verdict, reason="; ".join([*broken, *open_questions]) or _summary(report))


def _judge_quality(report: Report, margin: float, broken: list[str], open_questions: list[str]) -> None:
    lower, upper = report.quality.difference_lower, report.quality.difference_upper
    if lower is None or upper is None:
        open_questions.append("no outcome of these requests is known, so their quality cannot be compared")
        return
    interval = (
        f"{lower:+.4f} to {upper:+.4f} on {report.quality.labelled:,} labelled rows; the margin is {margin:g}"
    )
    if upper < -margin:
        broken.append(f"accuracy is worse than that of the served answers by {interval}")
    elif lower < -margin:
        open_questions.append(f"accuracy differs from that of the served answers by {interval}")


def _summary(report: Report) -> str:
    words = (
        f"{report.requests:,} requests ({report.rows:,} rows): {report.disagreement:.2%} answered differently, "
        f"distance {report.distribution_distance:.3g}"
    )
    return words + (f"; {report.note}" if report.note else "")


def to_message(report: Report) -> pb.ReplayReport:
    """As the rollout shows it."""
    return pb.ReplayReport(
        verdict=report.verdict,
        reason=report.reason,
        requests=report.requests,
        rows=report.rows,
        failed=report.failed,
        disagreement=report.disagreement,
        distribution_distance=report.distribution_distance,
        latency_p50_ms=report.latency_p50_ms or 0.0,
        latency_p95_ms=report.latency_p95_ms or 0.0,
        served_latency_p95_ms=report.served_latency_p95_ms or 0.0,
        labelled=report.quality.labelled,
        accuracy=report.quality.accuracy,
        served_accuracy=report.quality.served_accuracy,
        accuracy_difference_lower=report.quality.difference_lower,
        log_loss=report.quality.log_loss,
        served_log_loss=report.quality.served_log_loss,
        examples=[
            pb.Disagreement(prediction_id=each.id, served=each.served, candidate=each.candidate)
            for each in report.examples
        ],
    )
