"""Is the candidate's accuracy or log loss worse than the stable one's by more than the margin?

Both revisions' matured outcomes of the same steps; differences are taken within steps (STATISTICS of ramps: pooling
steps of different shares compares different times).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from phantom_statistics.groups import GROUPS
from phantom_statistics.rollouts.clusters import LEAST_UNITS, Floats, effective_units
from phantom_statistics.rollouts.evidence import CORRECT, FAILURES, LABELLED, LOG_LOSS, REJECTED, REQUESTS
from phantom_statistics.rollouts.strata import LEAST_REQUESTS, Strata
from phantom_statistics.rollouts.verdict import Finding

PRIOR_WEIGHT = 100.0  # labels: where the interval is narrowest in multiples of the standard error
COVERAGE_P = 0.001


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus stable, its standard error over groups, and the effective labels it rests on."""

    value: float
    standard_error: float
    effective: float

    def half_width(self, level: float) -> float:
        """Of the one-sided asymptotic confidence sequence (Waudby-Smith et al. 2021, arXiv 2103.06476)."""
        t = self.effective / PRIOR_WEIGHT
        multiple = math.sqrt(2 * (t + 1) / t * math.log(1 + math.sqrt(t + 1) / (2 * level)))
        return self.standard_error * multiple


def difference(mine: Floats, base: Floats, theirs: Floats, stable_base: Floats) -> Difference | None:
    """The difference of mean `mine / base` and `theirs / stable_base`, [steps, 64] each, weighted within steps."""
    n, m = base.sum(axis=1), stable_base.sum(axis=1)
    keep = (n > 0) & (m > 0)
    if not keep.any():
        return None
    mine, base, theirs, stable_base, n, m = (each[keep] for each in (mine, base, theirs, stable_base, n, m))
    weight = n * m / (n + m)
    total = float(weight.sum())
    mean, stable_mean = mine.sum(axis=1) / n, theirs.sum(axis=1) / m
    influence = (weight / n) @ (mine - base * mean[:, None]) - (weight / m) @ (
        theirs - stable_base * stable_mean[:, None]
    )
    variance = GROUPS / (GROUPS - 1) * float(influence @ influence) / total**2
    return Difference(float(weight @ (mean - stable_mean)) / total, math.sqrt(variance), total)


def judge_accuracy(matured: Strata, margin: float, level: float) -> Finding:
    """The share of labelled rows that were right; it may be lower by the margin."""
    return _judge("accuracy", CORRECT, -1.0, matured, margin, level)


def judge_log_loss(matured: Strata, margin: float, level: float) -> Finding:
    """The mean log loss of labelled rows, nats; it may be higher by the margin."""
    return _judge("log_loss", LOG_LOSS, 1.0, matured, margin, level)


def _judge(criterion: str, field: int, worse: float, matured: Strata, margin: float, level: float) -> Finding:
    mine, theirs = matured.candidate, matured.stable
    labelled, stable_labelled = mine[:, :, LABELLED], theirs[:, :, LABELLED]
    n, m = float(labelled.sum()), float(stable_labelled.sum())
    if min(n, m) < LEAST_REQUESTS:
        reason = f"{n:,.0f} and {m:,.0f} matured labels of candidate and stable; each needs {LEAST_REQUESTS}"
        return Finding(criterion, "not_enough_data", count=int(n), reason=reason)
    value, stable = float(mine[:, :, field].sum()) / n, float(theirs[:, :, field].sum()) / m
    seen = f"{criterion.replace('_', ' ')} {value:.4g} against {stable:.4g} of the same time"
    units = min(effective_units(labelled.sum(axis=0)), effective_units(stable_labelled.sum(axis=0)))
    if units < LEAST_UNITS:
        reason = (
            f"{seen}, but from about {units:.0f} effective units on one side; {LEAST_UNITS:.0f} can be judged"
        )
        return Finding(criterion, "not_enough_units", value, stable, count=int(n), reason=reason)
    coverage = coverage_p_value(matured)
    if coverage < COVERAGE_P:
        reason = f"{seen}, but the revisions' shares of labelled answers differ (p = {coverage:.2g})"
        return Finding(
            criterion, "not_comparable", value, stable, p_value=coverage, count=int(n), reason=reason
        )
    found = difference(mine[:, :, field], labelled, theirs[:, :, field], stable_labelled)
    if found is None:
        reason = f"{seen}, but no step has labels of both"
        return Finding(criterion, "not_enough_data", value, stable, count=int(n), reason=reason)
    half = found.half_width(level)
    lower, upper = found.value - half, found.value + half
    least, most = sorted((worse * lower, worse * upper))  # how much worse
    verdict = "fail" if least > margin else "pass" if most < margin else "not_enough_data"
    result = {"fail": "worse by more than", "pass": "not worse by", "not_enough_data": "undecided at"}[
        verdict
    ]
    reason = (
        f"{seen}: a difference of {found.value:+.3g}, between {lower:+.3g} and {upper:+.3g} (always-valid, {n:,.0f} "
        f"and {m:,.0f} labels); {result} the margin of {margin:g}"
    )
    return Finding(
        criterion,
        verdict,  # type: ignore[arg-type]
        value,
        stable,
        found.value,
        lower,
        upper,
        worse * margin,
        count=int(n),
        reason=reason,
    )


def coverage_p_value(matured: Strata) -> float:
    """Two-sided p of equal label coverage (labels per answer), cluster-robust."""
    answered = [
        (side[:, :, REQUESTS] - side[:, :, FAILURES] - side[:, :, REJECTED]).clip(min=0)
        for side in (matured.candidate, matured.stable)
    ]
    found = difference(
        matured.candidate[:, :, LABELLED], answered[0], matured.stable[:, :, LABELLED], answered[1]
    )
    if found is None or abs(found.value) < 1e-12:
        return 1.0
    if found.standard_error == 0:
        return 0.0
    return math.erfc(abs(found.value) / found.standard_error / math.sqrt(2))
