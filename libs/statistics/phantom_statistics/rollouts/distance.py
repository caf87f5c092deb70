"""How far the two revisions' predictions lie apart: scores by their largest difference of distribution functions,
classes by total variation, each with an always-valid lower bound.

Rows of one unit may all be the same, so the sample's size is the number of effective units, never of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phantom_statistics.rollouts.clusters import LEAST_UNITS, Floats
from phantom_statistics.rollouts.evidence import REQUESTS, Pair
from phantom_statistics.rollouts.strata import LEAST_REQUESTS, Counts, Strata
from phantom_statistics.rollouts.verdict import Finding


@dataclass(frozen=True, slots=True)
class Distance:
    """A distance, 0..1, and its always-valid lower bound; `of` says what was compared."""

    value: float
    lower: float
    of: str


def judge_distance(
    pairs: Sequence[Pair], strata: Strata, limit: float | None, level: float
) -> Finding | None:
    """The larger of the two distances; None where predictions have neither scores nor classes."""
    both = [pair for pair in pairs if pair.candidate.rows and pair.control.rows]
    rows = sum(pair.candidate.rows for pair in both)
    if min(rows, sum(pair.control.rows for pair in both)) < LEAST_REQUESTS:
        reason = f"{rows:,} predictions of the candidate beside stable ones; each side needs {LEAST_REQUESTS}"
        return Finding("distribution_distance", "not_enough_data", limit=limit, count=rows, reason=reason)
    requests = strata.candidate[:, :, REQUESTS], strata.stable[:, :, REQUESTS]
    units = Counts(requests[0], requests[0], requests[1], requests[1]).usable().units()
    found = [
        each
        for each in (score_distance(both, units, level / 2), class_distance(both, units, level / 2))
        if each
    ]
    if not found:
        return None
    far = max(found, key=lambda each: (each.lower, each.value))
    verdict = "pass"
    if min(units) < LEAST_UNITS:
        verdict = "not_enough_units" if limit is not None else "pass"
    elif limit is not None and far.lower > limit:
        verdict = "fail"
    reason = (
        f"{far.of} lie {far.value:.3g} apart, at least {far.lower:.3g} (always-valid, {rows:,} predictions)"
    )
    reason += f"; the limit is {limit:g}" if limit is not None else "; no limit is set"
    return Finding(
        "distribution_distance",
        verdict,  # type: ignore[arg-type]
        estimate=far.value,
        lower=far.lower,
        upper=1.0,
        limit=limit,
        count=rows,
        reason=reason,
    )


def score_distance(pairs: Sequence[Pair], units: tuple[float, float], level: float) -> Distance | None:
    """The largest difference between the distribution functions of scores, weighted within steps."""
    mine = np.stack([pair.candidate.scores for pair in pairs])
    theirs = np.stack([pair.control.scores for pair in pairs])
    differences = _weighted_difference(mine, theirs)
    if differences is None:
        return None
    value = float(np.abs(np.cumsum(differences)).max())
    radius = sum(_uniform_radius(n, level / 2) for n in units)
    return Distance(value, max(0.0, value - radius), "the distributions of scores")


def class_distance(pairs: Sequence[Pair], units: tuple[float, float], level: float) -> Distance | None:
    """The total variation between shares of predicted classes: half the sum of differences."""
    names = sorted(
        {name for pair in pairs for side in (pair.candidate, pair.control) for name in side.classes}
    )
    if len(names) < 2:
        return None
    mine = np.array([[pair.candidate.classes.get(name, 0) for name in names] for pair in pairs])
    theirs = np.array([[pair.control.classes.get(name, 0) for name in names] for pair in pairs])
    differences = _weighted_difference(mine, theirs)
    if differences is None:
        return None
    value = float(np.abs(differences).sum()) / 2
    # Total variation is the largest difference over sets of classes; a set and its complement differ alike.
    tail = math.log(level / 2) - (len(names) - 1) * math.log(2)
    radius = sum(_share_radius(n, tail) for n in units)
    return Distance(value, max(0.0, value - radius), "the shares of predicted classes")


def _weighted_difference(mine: NDArray[np.int64], theirs: NDArray[np.int64]) -> Floats | None:
    n, m = mine.sum(axis=1), theirs.sum(axis=1)
    keep = (n > 0) & (m > 0)
    if not keep.any():
        return None
    n, m = n[keep], m[keep]
    weight = n * m / (n + m)
    weight = weight / weight.sum()
    return (weight / n) @ mine[keep] - (weight / m) @ theirs[keep]  # type: ignore[no-any-return]


def _uniform_radius(n: float, level: float) -> float:
    """Always-valid bound of sup |F_n - F| (Howard & Ramdas 2022, arXiv 1906.09712, theorem 2)."""
    n = max(n, 1.0)
    return 0.85 * math.sqrt((math.log(math.log(math.e * n)) + 0.8 * math.log(1612 / level)) / n)


def _share_radius(n: float, log_level: float) -> float:
    """Always-valid bound of |share - truth|: the sub-Gaussian normal mixture with variance n/4, prior weight 100."""
    n = max(n, 1.0)
    variance, prior = n / 4, 25.0
    log_term = 0.5 * math.log((variance + prior) / prior) + math.log(2) - log_level
    return math.sqrt(2 * (variance + prior) * log_term) / n
