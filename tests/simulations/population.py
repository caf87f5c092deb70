"""Who calls an endpoint in a simulated rollout, and what comes of it: units with ways of their own.

A unit's calls come at a steady rate (Poisson) and each ends in one of `OUTCOMES` with the unit's own probabilities, so
sums over any set of units are Poisson with the summed rates: groups are drawn directly, exactly as if every call had
been. Latency and score depend on the unit's kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from phantom_statistics.groups import GROUPS
from phantom_statistics.latency import LatencySketch
from phantom_statistics.rollouts import Pair, Sums
from phantom_statistics.scores import BINS

Floats = NDArray[np.float64]

OUTCOMES = ("failed", "rejected", "unlabelled", "right_sure", "right_unsure", "wrong_unsure", "wrong_sure")
LOSSES = np.array([0.05, 0.6, 0.8, 2.5])  # log loss of the four labelled outcomes
REJECTED, LABELLED, ACCURACY = 0.005, 0.5, 0.9

KINDS = 5
LATENCIES = np.geomspace(5, 130, 48)  # ms
_MEDIANS = 20 * np.exp(0.25 * np.linspace(-1.5, 1.5, KINDS))
LATENCY_OF_KIND = stats.norm.pdf(np.log(LATENCIES)[None, :], np.log(_MEDIANS)[:, None], 0.45)  # [kinds, 48]
LATENCY_OF_KIND /= LATENCY_OF_KIND.sum(axis=1, keepdims=True)
COARSE = np.floor(2 * np.log2(LATENCIES)).astype(int)  # the coarse bin of each latency
SCORES = np.arange(10, BINS, 20)
SCORE_OF_KIND = stats.beta.pdf((SCORES[None, :] + 0.5) / BINS, np.linspace(0.6, 3, KINDS)[:, None], 4)
SCORE_OF_KIND /= SCORE_OF_KIND.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Population:
    """Units [n]: calls per step, group, bucket in [0, 1), probabilities of outcomes [n, 7], kind."""

    rate: Floats
    group: NDArray[np.int64]
    bucket: Floats
    outcome: Floats
    kind: NDArray[np.int64]

    def intensities(self, share: float, factor: float) -> Intensities:
        """Expected counts of a step; the lowest `share` of buckets meets a candidate failing `factor` times as much."""
        arm = (self.bucket < share).astype(np.int64)
        outcome = self.outcome
        if factor != 1:
            failed = np.minimum(outcome[:, :1] * np.where(arm, factor, 1)[:, None], 1)
            outcome = np.concatenate([failed, outcome[:, 1:] * (1 - failed) / (1 - outcome[:, :1])], axis=1)
        place = arm * GROUPS + self.group
        ends = np.stack([_sum(place, self.rate * outcome[:, k], 2 * GROUPS) for k in range(7)], axis=1)
        answered = self.rate * outcome[:, 2:].sum(axis=1)
        kinds = _sum(place * KINDS + self.kind, answered, 2 * GROUPS * KINDS).reshape(2, GROUPS, KINDS)
        return Intensities(
            ends.reshape(2, GROUPS, 7), kinds @ LATENCY_OF_KIND, kinds.sum(axis=1) @ SCORE_OF_KIND
        )


@dataclass(frozen=True)
class Intensities:
    """Expected counts of a step, stable [0] and candidate [1]: outcomes, latencies by group, scores."""

    outcomes: Floats  # [2, 64, 7]
    latencies: Floats  # [2, 64, latencies]
    scores: Floats  # [2, scores]

    def draw(self, part: float, rng: np.random.Generator) -> Pair:
        """What is counted in a `part` of the step."""
        outcomes = rng.poisson(self.outcomes * part)
        latencies = rng.poisson(self.latencies * part)
        scores = rng.poisson(self.scores * part)
        return Pair(*(_sums(outcomes[arm], latencies[arm], scores[arm]) for arm in (0, 1)))


@dataclass(frozen=True)
class Crowd:
    """So many units that each calls once: every call is a unit of its own. `calls` a step."""

    calls: float
    error_rate: float

    def intensities(self, share: float, factor: float) -> Intensities:
        """Expected counts of a step, spread evenly over the groups."""
        arms = np.array([1 - share, share]) * self.calls
        failed = self.error_rate * np.array([1, factor])
        answered = (1 - failed) * (1 - REJECTED)
        labelled, wrong = LABELLED * answered, 1 - ACCURACY
        ends = [failed, REJECTED * (1 - failed), answered - labelled]
        ends += [labelled * part / 2 for part in (1 - wrong, 1 - wrong, wrong, wrong)]
        outcomes = np.stack(ends, axis=1) * arms[:, None]
        kinds = np.repeat((answered * arms / KINDS)[:, None], KINDS, axis=1)
        return Intensities(
            np.repeat(outcomes[:, None] / GROUPS, GROUPS, axis=1),
            np.repeat((kinds @ LATENCY_OF_KIND)[:, None] / GROUPS, GROUPS, axis=1),
            kinds @ SCORE_OF_KIND,
        )


def make_population(
    units: int, weights: str, spread: float, calls: float, error_rate: float, rng: np.random.Generator
) -> Population:
    """Units whose calls add up to about `calls` a step; `spread` is the coefficient of variation of their error rates.

    `weights`: equal; lognormal (sigma 1.5), pareto (shape 1.2) or zipf (1/rank) calls of a unit. The rates of rejected
    input, labels' rightness and log loss spread as the errors do, independently.
    """
    heavy = {
        "equal": lambda: np.ones(units),
        "lognormal": lambda: np.exp(1.5 * rng.standard_normal(units)),
        "pareto": lambda: rng.pareto(1.2, units) + 1,
        "zipf": lambda: rng.permutation(1 / np.arange(1, units + 1)),
    }[weights]()
    rate = heavy / heavy.sum() * calls
    failed, rejected = (_spread(mean, spread, rate, rng) for mean in (error_rate, REJECTED))
    wrong = _spread(1 - ACCURACY, spread / 2, rate, rng)
    sure = rng.beta(2, 2, units) if spread else np.full(units, 0.5)
    answered = (1 - failed) * (1 - rejected)
    labelled = LABELLED * answered
    right = labelled * (1 - wrong)
    outcome = np.stack(
        [
            failed,
            rejected * (1 - failed),
            answered - labelled,
            right * sure,
            right * (1 - sure),
            labelled * wrong * (1 - sure),
            labelled * wrong * sure,
        ],
        axis=1,
    )
    groups, kinds = rng.integers(GROUPS, size=units), rng.integers(KINDS, size=units)
    return Population(rate, groups, rng.random(units), outcome, kinds)


def _spread(mean: float, spread: float, rate: Floats, rng: np.random.Generator) -> Floats:
    """Probabilities [n] from a gamma law, scaled so that the mean over calls is the wanted one."""
    if not spread:
        return np.full(len(rate), mean)
    drawn = np.minimum(rng.gamma(1 / spread**2, mean * spread**2, len(rate)), 0.5)
    return np.minimum(drawn * mean / (drawn @ rate / rate.sum()), 0.9)


def _sum(place: NDArray[np.int64], values: Floats, length: int) -> Floats:
    return np.bincount(place, values, length)


def _sums(outcomes: NDArray[np.int64], latencies: NDArray[np.int64], scores: NDArray[np.int64]) -> Sums:
    sums = Sums()
    labelled = outcomes[:, 3:]
    sums.groups[:, 0] = outcomes.sum(axis=1)
    sums.groups[:, 1:3] = outcomes[:, :2]
    sums.groups[:, 3] = labelled.sum(axis=1)
    sums.groups[:, 4] = outcomes[:, 3] + outcomes[:, 4]
    sums.groups[:, 5] = labelled @ LOSSES
    starts = np.flatnonzero(np.diff(COARSE, prepend=-1))
    sums.slow[:, COARSE[starts]] = np.add.reduceat(latencies, starts, axis=1)
    sums.latency = sketch_of(latencies.sum(axis=0))
    sums.scores[SCORES] = scores
    sums.rows = int(scores.sum())
    low = int(scores[: len(SCORES) // 2].sum())
    sums.classes = {"no": low, "yes": sums.rows - low}
    return sums


_EMPTY = LatencySketch()
_BIN = np.array([_EMPTY.edge_of(float(value)) for value in LATENCIES])


def sketch_of(counts: NDArray[np.int64]) -> LatencySketch:
    """The sketch of `counts` values of each latency."""
    used = np.flatnonzero(counts)
    steps = np.diff(_BIN[used], prepend=0)
    return LatencySketch.from_dict(
        {
            "relative_accuracy": _EMPTY.relative_accuracy,
            "zeros": 0,
            "refused": 0,
            "steps": steps.tolist(),
            "counts": counts[used].tolist(),
        }
    )


def share_slower(threshold_ms: float) -> float:
    """The true share of answers slower than a threshold."""
    return float(LATENCY_OF_KIND.mean(axis=0)[threshold_ms < LATENCIES].sum())
