"""Is the candidate's rate of errors, of rejected inputs, of slow answers higher than the stable one's, now?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from phantom_statistics.rollouts.clusters import LEAST_UNITS
from phantom_statistics.rollouts.evidence import FAILURES, REJECTED, REQUESTS, Pair
from phantom_statistics.rollouts.mixture import Events, relative_rate
from phantom_statistics.rollouts.packing import SLOW_BINS
from phantom_statistics.rollouts.strata import LEAST_EVENTS, LEAST_REQUESTS, Counts, Strata
from phantom_statistics.rollouts.verdict import Finding
from phantom_statistics.rollouts.words import percent, times

P95 = 0.95
_NEEDED_FOR_P95 = 73  # fewer values say nothing of a p95 (z² q / (1 - q))


def judge_errors(strata: Strata, level: float) -> Finding:
    """The error rate."""
    return _judge_field("error_rate", "of the calls failed", strata, FAILURES, level)


def judge_rejected(strata: Strata, level: float) -> Finding:
    """The share of calls refused as malformed."""
    return _judge_field("rejected_share", "of the calls were rejected as malformed", strata, REJECTED, level)


def _judge_field(criterion: str, what: str, strata: Strata, field: int, level: float) -> Finding:
    counts = Counts(
        strata.candidate[:, :, field],
        strata.candidate[:, :, REQUESTS],
        strata.stable[:, :, field],
        strata.stable[:, :, REQUESTS],
    ).usable()
    return _judge(criterion, what, counts, counts.totals(), level)


def judge_latency(pairs: Sequence[Pair], level: float, tolerance: float = 0.0) -> Finding:
    """Answers slower than the stable revision's p95 of the same step; exact counts of the sketches' bins.

    With a tolerance, the candidate's answers count as slow above that p95 times 1 + tolerance only.

    The spread between units is taken from the groups' coarse bins, at the edge nearest to that p95.
    """
    kept = [
        pair
        for pair in pairs
        if pair.candidate.latency.count and pair.control.latency.count >= _NEEDED_FOR_P95
    ]
    exact = np.zeros((len(kept), 4))
    coarse = np.zeros((len(kept), 4, 64))
    slowest = 0.0
    for place, pair in enumerate(kept):
        edge = pair.control.latency.edge(P95)
        assert edge is not None  # it holds values
        slowest = pair.control.latency.edge_value(edge)
        first = nearest_coarse_edge(slowest)
        for side, sums in enumerate((pair.candidate, pair.control)):
            mine = edge if side or not tolerance else sums.latency.edge_of(slowest * (1 + tolerance))
            exact[place, 2 * side] = sums.latency.count_above(mine)
            exact[place, 2 * side + 1] = sums.latency.count
            coarse[place, 2 * side] = sums.slow[:, first:].sum(axis=1)
            coarse[place, 2 * side + 1] = sums.slow.sum(axis=1)
    counts = Counts(coarse[:, 0], coarse[:, 1], coarse[:, 2], coarse[:, 3]).usable()
    totals = Events(exact[:, 1] / (exact[:, 1] + exact[:, 3]), exact[:, 0], exact[:, 2])
    what = f"of the answers took longer than {slowest:.3g} ms, the stable revision's p95,"
    return _judge(
        "latency_p95",
        what,
        counts,
        totals,
        level,
        trials=(float(exact[:, 1].sum()), float(exact[:, 3].sum())),
    )


def nearest_coarse_edge(value_ms: float) -> int:
    """The coarse bin whose lower end, 2^(i/2) ms, is nearest to a latency on the logarithmic scale."""
    if value_ms <= 1:
        return 1
    return min(max(round(2 * math.log2(value_ms)), 1), SLOW_BINS - 1)


def _judge(
    criterion: str,
    what: str,
    counts: Counts,
    totals: Events,
    level: float,
    trials: tuple[float, float] | None = None,
) -> Finding:
    mine, theirs = trials or (float(counts.trials.sum()), float(counts.stable_trials.sum()))
    if min(mine, theirs) < LEAST_REQUESTS:
        reason = f"{mine:,.0f} calls of the candidate, {theirs:,.0f} of the stable one; each needs {LEAST_REQUESTS}"
        return Finding(criterion, "not_enough_data", count=int(mine), reason=reason)
    x, y = float(totals.candidate.sum()), float(totals.stable.sum())
    rate, stable_rate = x / mine, y / theirs
    seen = f"{percent(rate)} {what} against {percent(stable_rate)} at the same time"
    units = min(counts.units())
    if units < LEAST_UNITS:
        reason = (
            f"{seen}, but from about {units:.0f} effective units on one side; {LEAST_UNITS:.0f} can be judged"
        )
        return Finding(criterion, "not_enough_units", rate, stable_rate, count=int(mine), reason=reason)
    if x + y < LEAST_EVENTS:
        reason = f"{seen}: {x + y:.0f} cases in all, no sign of a difference"
        return Finding(criterion, "pass", rate, stable_rate, limit=1.0, count=int(mine), reason=reason)
    spread = counts.design_effect()
    test = relative_rate(totals, spread, level)
    failed = test.p_value <= level
    reason = (
        f"{seen}: {times(test.estimate)} the stable rate, between {times(test.lower)} and {times(test.upper)} "
        f"({percent(1 - level)} always-valid interval, {mine:,.0f} and {theirs:,.0f} calls, design effect {spread:.2g})"
    )
    return Finding(
        criterion,
        "fail" if failed else "pass",
        rate,
        stable_rate,
        test.estimate,
        test.lower,
        test.upper,
        1.0,
        test.p_value,
        int(mine),
        reason,
    )
