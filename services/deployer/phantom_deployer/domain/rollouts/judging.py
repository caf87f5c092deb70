"""From the sums of windows to a judgement: which windows count where, and what the statistics make of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from phantom_contracts.schema import ModelSchema
from phantom_deployer.domain.rollouts.model import Figures, Judgement, Rollout
from phantom_deployer.domain.rollouts.shadowing import Agreed
from phantom_statistics.assignment import BUCKETS
from phantom_statistics.rollouts import Criteria, Pair, StepEvidence, Sums, judge, measurements
from phantom_statistics.rollouts.evidence import FAILURES

QUALITY_MARGIN = 0.02


@dataclass(slots=True)
class Cohort:
    """What is known of one span. `blocks`: the candidate's, each as long as a measurement, oldest first."""

    operational: Pair = field(default_factory=Pair.empty)
    matured: Pair = field(default_factory=Pair.empty)
    blocks: list[tuple[int, Sums]] = field(default_factory=list)
    # Of copies, by window.
    agreements: list[Agreed] = field(default_factory=list)


def comparable_outcome(candidate: ModelSchema, stable: ModelSchema) -> tuple[float | None, str]:
    """(maturity of labels in s, or None where quality cannot be compared; why not)."""
    if candidate.outcome is None:
        return None, "the version declares no outcome"
    if candidate.task != "classification":
        return None, "accuracy and log loss are of classifiers"
    if stable.outcome != candidate.outcome or stable.class_labels != candidate.class_labels:
        return None, "the stable version declares another outcome, or other classes"
    return candidate.outcome.maturity_s, ""


def judgement(rollout: Rollout, cohorts: Sequence[Cohort], now: datetime, until: datetime) -> Judgement:
    """`cohorts` of the rollout's spans from `judged_from` on, the last one of the present span."""
    spans = rollout.spans[rollout.judged_from :]
    criteria = _criteria(rollout)
    present = cohorts[-1]
    steps = _steps((span.step, each) for span, each in zip(spans, cohorts, strict=True) if span.bp < BUCKETS)
    measured = measurements(present.blocks, 0, criteria.minimum_requests)
    requests = present.operational.candidate.requests
    threshold = rollout.spec.auto_rollback.failure_threshold
    verdict = judge(criteria, steps, measured, threshold, requests)
    return Judgement(
        verdict=verdict.verdict,
        findings=verdict.findings,
        fired=verdict.fired,
        judged_at=now,
        evidence_until=until,
        candidate_requests=requests,
        stable_requests=present.operational.control.requests,
        step=rollout.step,
    )


def figures(cohorts: Iterable[Cohort]) -> Figures:
    """Of the candidate, over all of them."""
    whole = Sums.total(each.operational.candidate for each in cohorts)
    if not whole.requests:
        return Figures()
    failures = float(whole.groups[:, FAILURES].sum())
    return Figures(whole.requests, failures / whole.requests, whole.latency.p95())


def _steps(parts: Iterable[tuple[int, Cohort]]) -> list[StepEvidence]:
    """One for each step: a clock that began anew makes no new stratum."""
    steps: dict[int, StepEvidence] = {}
    for step, cohort in parts:
        known = steps.setdefault(step, StepEvidence(step, Pair.empty(), Pair.empty()))
        known.operational.merge(cohort.operational)
        known.matured.merge(cohort.matured)
    return list(steps.values())


def _criteria(rollout: Rollout) -> Criteria:
    asked = rollout.spec.criteria
    return Criteria(
        error_rate_threshold=asked.error_rate_threshold,
        latency_p95_threshold_ms=asked.latency_p95_threshold_ms,
        minimum_requests=asked.minimum_requests,
        compare_errors=asked.compare_errors,
        compare_latency=asked.compare_latency,
        compare_rejected=asked.compare_rejected,
        quality_margin=rollout.quality_margin,
        max_distribution_distance=asked.max_distribution_distance,
        level=asked.level,
        latency_tolerance=asked.latency_tolerance,
    )
