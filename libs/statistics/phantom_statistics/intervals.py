"""Intervals of a proportion: Clopper-Pearson (never too narrow) and Wilson (close, for display)."""

from dataclasses import dataclass
from math import sqrt

from scipy import special


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of a proportion; both ends are included."""

    lower: float
    upper: float

    def holds(self, value: float) -> bool:
        return self.lower <= value <= self.upper


def clopper_pearson(successes: int, trials: int, confidence: float = 0.999) -> Interval:
    """The exact binomial interval: it holds the true share with at least `confidence`, at any count."""
    _check(successes, trials, confidence)
    tail = (1 - confidence) / 2
    failures = trials - successes
    lower = 0.0 if successes == 0 else float(special.betaincinv(successes, failures + 1, tail))
    upper = 1.0 if failures == 0 else float(special.betaincinv(successes + 1, failures, 1 - tail))
    return Interval(lower, upper)


def wilson(successes: int, trials: int, confidence: float = 0.999) -> Interval:
    """Wilson's score interval: right on average, a little too narrow for some shares."""
    _check(successes, trials, confidence)
    if trials == 0:
        return Interval(0.0, 1.0)
    z = float(special.ndtri(1 - (1 - confidence) / 2))
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    return Interval(
        0.0 if successes == 0 else max(0.0, centre - half),
        1.0 if successes == trials else min(1.0, centre + half),
    )


def _check(successes: int, trials: int, confidence: float) -> None:
    if trials < 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is not a count of successes")
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence is a share between 0 and 1, not {confidence}")
