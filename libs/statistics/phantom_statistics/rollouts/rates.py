"""Is the candidate's rate of errors, of rejected inputs, of slow answers higher than the stable one's, now?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from phantom_statistics.groups import GROUPS
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
    exact, coarse, slowest = [], [], 0.0
    for pair in pairs:
        stable, candidate = pair.control.latency, pair.candidate.latency
        trials, stable_trials = candidate.count, stable.count
        edge = stable.edge(P95)
        if not trials or stable_trials < _NEEDED_FOR_P95 or edge is None:
            continue
        slowest = stable.edge_value(edge)
        mine = candidate.edge_of(slowest * (1 + tolerance)) if tolerance else edge
        exact.append((trials, candidate.count_above(mine), stable_trials, stable.count_above(edge)))
        first = nearest_coarse_edge(slowest)
        coarse += [np.add.reduceat(side.slow, (0, first), axis=1) for side in (pair.candidate, pair.control)]
    totals = np.array(exact, dtype=float).reshape(-1, 4)
    groups = np.array(coarse, dtype=float).reshape(-1, 2, GROUPS, 2)  # fast and slow of each side
    trials_of = groups.sum(axis=3)
    counts = Counts(groups[:, 0, :, 1], trials_of[:, 0], groups[:, 1, :, 1], trials_of[:, 1]).usable()
    shares = totals[:, 0] / (totals[:, 0] + totals[:, 2])
    what = f"of the answers took longer than {slowest:.3g} ms, the stable revision's p95,"
    return _judge(
        "latency_p95",
        what,
        counts,
        Events(shares, totals[:, 1], totals[:, 3]),
        level,
        trials=(float(totals[:, 0].sum()), float(totals[:, 2].sum())),
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
