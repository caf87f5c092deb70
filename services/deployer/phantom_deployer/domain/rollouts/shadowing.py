"""A shadow revision's answers beside those that callers got."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from phantom_deployer.domain.rollouts.model import ShadowReport
from phantom_statistics.intervals import Interval, wilson
from phantom_statistics.rollouts import Pair, Sums
from phantom_statistics.rollouts.distance import class_distance, score_distance
from phantom_statistics.rollouts.evidence import FAILURES

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Agreed:
    """Rows compared in one window, those with the same answer, and the sum of score differences."""

    compared: int
    agreed: int
    difference: float


def report(windows: Sequence[Agreed], pair: Pair) -> ShadowReport:
    """Of all copies so far: `pair.candidate` is the shadow's sums, `pair.control` the stable revision's meanwhile."""
    compared = sum(each.compared for each in windows)
    agreed = sum(each.agreed for each in windows)
    interval = agreement_interval(windows)
    return ShadowReport(
        compared=compared,
        agreement=agreed / compared if compared else 0.0,
        agreement_lower=interval.lower,
        agreement_upper=interval.upper,
        distribution_distance=_distance(pair),
        mean_score_difference=sum(each.difference for each in windows) / compared if compared else 0.0,
        latency_p95_ms=_p95(pair.candidate),
        stable_latency_p95_ms=_p95(pair.control),
        failed=int(pair.candidate.groups[:, FAILURES].sum()),
    )


def agreement_interval(windows: Sequence[Agreed], confidence: float = CONFIDENCE) -> Interval:
    """Wilson's, of as many rows as count as independent: disagreements come in bursts, so the spread between windows
    says how many that are."""
    used = [each for each in windows if each.compared]
    compared = sum(each.compared for each in used)
    if not compared:
        return Interval(0.0, 1.0)
    agreed = sum(each.agreed for each in used)
    share = agreed / compared
    effective = compared
    if len(used) > 1 and 0 < agreed < compared:
        spread = sum((each.agreed - share * each.compared) ** 2 for each in used)
        between = spread * len(used) / (len(used) - 1) / compared
        design = max(1.0, between / (share * (1 - share)))
        effective = max(1, int(compared / design))
    return wilson(round(share * effective), effective, confidence)


def _distance(pair: Pair) -> float:
    """The larger of the distances of scores and of classes; 0 where there is neither."""
    found = [measure([pair], (1.0, 1.0), 0.5) for measure in (score_distance, class_distance)]
    return max((each.value for each in found if each is not None), default=0.0)


def _p95(sums: Sums) -> float | None:
    return sums.latency.p95()
