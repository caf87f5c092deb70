"""A sequential test of a relative rate, safe to look at as often as one likes.

Given an error while both revisions serve, it is the candidate's with probability f r / (f r + 1 - f), where f is its
share of the calls and r its error rate relative to the stable one's, whatever the load does (Lindon & Malek 2022,
arXiv 2011.03567). Averaging the likelihood over a prior of r > 1 gives, over that at r0, a martingale of mean 1 if r0
is true, so it exceeds 1/level ever with probability at most `level` (Robbins 1970; Howard et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from phantom_statistics.rollouts.clusters import Floats

SPREAD = math.log(2)  # standard deviation of the prior of log r: it looks for doublings
_FURTHEST = 8.0  # of log r
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_STEPS = np.linspace(-12, 12, 97)


@dataclass(frozen=True, slots=True)
class RelativeRate:
    """The estimate of r and its always-valid interval; `p_value` is of r = 1 against r > 1."""

    estimate: float
    lower: float
    upper: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Events:
    """Per step [S]: the candidate's share of calls (0..1, ends excluded), its events, the stable one's."""

    share: Floats
    candidate: Floats
    stable: Floats

    def log_likelihood(self, log_r: Floats) -> Floats:
        """Of each log r [n], without the constant."""
        # X log r - sum of Z log(1 - f + f r)
        ratio = np.log1p(self.share[:, None] * np.expm1(log_r)[None, :])
        return log_r * self.candidate.sum() - (self.candidate + self.stable) @ ratio  # type: ignore[no-any-return]

    def mirrored(self) -> Events:
        """The revisions exchanged: r becomes 1/r."""
        return Events(1 - self.share, self.stable, self.candidate)


def relative_rate(events: Events, design_effect: float, level: float) -> RelativeRate:
    """The test on `events`, each worth 1/`design_effect` of an independent one.

    The test averages over r > 1 only; the interval averages over both sides at twice the level, so that each end has
    about `level` and the lower one agrees with the test.
    """
    centre, sd = _peak(events, design_effect)
    log_mean = _log_mean(events, design_effect, centre, sd)
    log_other = _log_mean(events.mirrored(), design_effect, -centre, sd)
    grid = centre + sd * _STEPS
    log_both = float(np.logaddexp(log_mean, log_other))  # twice the mean under the whole normal prior
    above = events.log_likelihood(grid) / design_effect - (log_both + math.log(level))
    lower, upper = _crossings(grid, above)
    return RelativeRate(math.exp(centre), lower, upper, min(1.0, math.exp(-log_mean)))  # log L(r = 1) is 0


def _log_mean(events: Events, design_effect: float, centre: float, sd: float) -> float:
    """Log of the likelihood's mean under a half-normal prior on log r > 0, over the part that matters."""
    low, high = max(0.0, centre - 8 * sd), max(0.0, centre) + 8 * sd
    if centre < 0:  # it falls from r = 1 on, as fast as its slope there says
        slope = (
            float((events.candidate + events.stable) @ events.share - events.candidate.sum()) / design_effect
        )
        high = min(high, 40 / slope)
    nodes = low + (high - low) * (_NODES + 1) / 2
    values = events.log_likelihood(nodes) / design_effect - nodes**2 / (2 * SPREAD**2)
    top = float(values.max())
    density = 2 / (SPREAD * math.sqrt(2 * math.pi))
    return top + math.log(float(np.exp(values - top) @ _WEIGHTS) * (high - low) / 2 * density)


def _peak(events: Events, design_effect: float) -> tuple[float, float]:
    """The likelihood's highest log r, and the standard deviation that its curvature gives (at most 1)."""
    candidate = float(events.candidate.sum())
    both = events.candidate + events.stable
    place = 0.0
    information = 0.0
    for _ in range(30):
        odds = events.share * math.exp(place)
        share = odds / (1 - events.share + odds)
        information = float(both @ (share * (1 - share)))
        if information <= 0:
            break
        move = (candidate - float(both @ share)) / information
        place = min(max(place + min(max(move, -1.0), 1.0), -_FURTHEST), _FURTHEST)
        if abs(move) < 1e-6 or abs(place) == _FURTHEST:
            break
    sd = math.sqrt(design_effect / information) if information > 0 else 1.0
    return place, min(sd, 1.0)


def _crossings(grid: Floats, above: Floats) -> tuple[float, float]:
    """Where the concave curve `above` [n] over `grid` crosses zero, as ratios; 0 and infinity where it does not."""
    inside = np.flatnonzero(above >= 0)
    if not len(inside):
        top = int(above.argmax())
        return math.exp(grid[top]), math.exp(grid[top])
    first, last = int(inside[0]), int(inside[-1])
    lower = 0.0 if first == 0 else math.exp(_zero(grid, above, first - 1))
    upper = math.inf if last == len(grid) - 1 else math.exp(_zero(grid, above, last))
    return lower, upper


def _zero(grid: Floats, above: Floats, left: int) -> float:
    part = above[left] / (above[left] - above[left + 1])
    return float(grid[left] + part * (grid[left + 1] - grid[left]))
