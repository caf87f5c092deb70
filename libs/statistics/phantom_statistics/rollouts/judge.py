"""The verdict on a step of a rollout, recomputed from all evidence at each look."""

from __future__ import annotations

import math
from collections.abc import Sequence

from phantom_statistics.rollouts import levels
from phantom_statistics.rollouts.criteria import Criteria
from phantom_statistics.rollouts.distance import judge_distance
from phantom_statistics.rollouts.evidence import StepEvidence, Sums
from phantom_statistics.rollouts.quality import judge_accuracy, judge_log_loss
from phantom_statistics.rollouts.rates import judge_errors, judge_latency, judge_rejected
from phantom_statistics.rollouts.strata import Strata
from phantom_statistics.rollouts.thresholds import judge_error_threshold, judge_latency_threshold
from phantom_statistics.rollouts.verdict import Finding, Verdict, Word

WINDOW_S = 5
LEAST_MEASURED = 100  # calls
# Undecided findings that hold a step. Quality does not: labels come later than steps end, and act whenever they come.
_HOLD = {
    "error_rate_threshold",
    "latency_p95_threshold",
    "minimum_requests",
    "error_rate",
    "latency_p95",
    "rejected_share",
    "distribution_distance",
}


def measurements(windows: Sequence[tuple[int, Sums]], interval_s: float, minimum_requests: int) -> list[Sums]:
    """The step's complete windows (start in unix s, sums of the candidate), cut into consecutive measurements.

    Each spans at least `interval_s` and holds at least max(100, `minimum_requests` / 5) calls; what is left over at
    the end belongs to none yet. The same windows give the same cuts.
    """
    least = max(LEAST_MEASURED, minimum_requests / 5)
    done: list[Sums] = []
    current, since = Sums(), None
    for start, sums in sorted(windows, key=lambda window: window[0]):
        since = start if since is None else since
        current.merge(sums)
        if start + WINDOW_S - since >= interval_s and current.requests >= least:
            done.append(current)
            current, since = Sums(), start + WINDOW_S
    return done


def judge(
    criteria: Criteria,
    steps: Sequence[StepEvidence],
    measured: Sequence[Sums],
    failure_threshold: int,
    requests: int | None = None,
) -> Verdict:
    """The verdict on all `steps` below 100 %, in which both revisions served (the last one is the current one, unless
    the rollout is at 100 %), and on the `measured` parts of the current step.

    `requests` of the candidate in the current step, for `minimum_requests`; None: those of the last of `steps`.
    """
    if failure_threshold < 1:
        raise ValueError(f"failure_threshold is at least 1, not {failure_threshold}")
    findings = [
        *_thresholds(criteria, measured, failure_threshold),
        *_minimum(criteria, steps, requests),
        *_comparisons(criteria, steps),
    ]
    fired = next((each.criterion for each in findings if each.verdict == "fail"), "")
    return Verdict("fail" if fired else _undecided(findings), tuple(findings), fired)


def requests_to_detect_doubling(error_rate: float) -> int:
    """Calls of the candidate by which a doubled error rate rolls back in 95 % of rollouts, at shares up to 10 %."""
    if not 0 < error_rate < 1:
        raise ValueError(f"an error rate to double lies between 0 and 1, not at {error_rate}")
    return math.ceil(45 / error_rate - 1e-9)


def _thresholds(criteria: Criteria, measured: Sequence[Sums], failures: int) -> list[Finding]:
    level, findings = levels.of_measurement(criteria), []
    if criteria.error_rate_threshold is not None:
        findings.append(judge_error_threshold(criteria.error_rate_threshold, measured, failures, level))
    if criteria.latency_p95_threshold_ms is not None:
        findings.append(judge_latency_threshold(criteria.latency_p95_threshold_ms, measured, failures, level))
    return findings


def _minimum(criteria: Criteria, steps: Sequence[StepEvidence], requests: int | None) -> list[Finding]:
    if not criteria.minimum_requests:
        return []
    if requests is None:
        requests = steps[-1].operational.candidate.requests if steps else 0
    enough = requests >= criteria.minimum_requests
    reason = f"{requests:,} calls in this step, {criteria.minimum_requests:,} are asked for"
    return [
        Finding(
            "minimum_requests",
            "pass" if enough else "not_enough_data",
            candidate=float(requests),
            limit=float(criteria.minimum_requests),
            count=requests,
            reason=reason,
        )
    ]


def _comparisons(criteria: Criteria, steps: Sequence[StepEvidence]) -> list[Finding]:
    level, findings = levels.of_tests(criteria), []
    pairs = [step.operational for step in steps]
    strata = Strata.of(pairs)
    if criteria.compare_errors:
        findings.append(judge_errors(strata, level.errors))
    if criteria.compare_latency:
        findings.append(judge_latency(pairs, level.latency, criteria.latency_tolerance))
    if criteria.compare_rejected:
        findings.append(judge_rejected(strata, level.rejected))
    if criteria.quality_margin is not None:
        matured = Strata.of([step.matured for step in steps])
        findings.append(judge_accuracy(matured, criteria.quality_margin, level.accuracy))
        findings.append(judge_log_loss(matured, criteria.quality_margin, level.log_loss))
    distance = judge_distance(pairs, strata, criteria.max_distribution_distance, level.distance)
    return findings if distance is None else [*findings, distance]


def _undecided(findings: Sequence[Finding]) -> Word:
    if any(each.verdict == "not_comparable" for each in findings):
        return "not_comparable"
    holding = [each.verdict for each in findings if each.criterion in _HOLD]
    if "not_enough_units" in holding:
        return "not_enough_units"
    return "not_enough_data" if "not_enough_data" in holding else "pass"
