"""Fixed thresholds: a measurement fails only when its always-valid interval lies wholly beyond the threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from phantom_statistics.latency import LatencySketch
from phantom_statistics.rollouts.clusters import Floats, design_effect
from phantom_statistics.rollouts.evidence import FAILURES, REQUESTS, Sums
from phantom_statistics.rollouts.rates import P95, nearest_coarse_edge
from phantom_statistics.rollouts.verdict import Finding
from phantom_statistics.rollouts.words import percent


@dataclass(frozen=True, slots=True)
class Share:
    """Events among trials, and how many calls weigh as much as one independent one."""

    events: float
    trials: float
    design_effect: float

    @property
    def value(self) -> float:
        """The share, 0..1."""
        return self.events / self.trials if self.trials else 0.0

    def lies_beyond(self, threshold: float, level: float) -> bool:
        """Whether the always-valid interval lies wholly above the threshold."""
        return self.value > threshold and self._log_mean() - self._log_at(threshold) > -math.log(level)

    def interval(self, level: float) -> tuple[float, float]:
        """The always-valid interval: the shares that the evidence does not rule out.

        A share is ruled out where the likelihood averaged over Beta(1/2, 1/2) is more than 1/`level` times that at the
        share (Robbins 1970), each call counting 1/`design_effect`.
        """
        if not self.trials:
            return 0.0, 1.0
        least = self._log_mean() + math.log(level)
        return self._end(0.0, least), self._end(1.0, least)

    def _end(self, outside: float, least: float) -> float:
        inside = self.value
        if inside == outside:
            return outside
        for _ in range(24):
            middle = (inside + outside) / 2
            if self._log_at(middle) < least:
                outside = middle
            else:
                inside = middle
        return inside

    def _log_mean(self) -> float:
        x, n = self.events / self.design_effect, self.trials / self.design_effect
        return _log_beta(x + 0.5, n - x + 0.5) - _log_beta(0.5, 0.5)

    def _log_at(self, share: float) -> float:
        x, n = self.events / self.design_effect, self.trials / self.design_effect
        hits = 0.0 if not x else x * math.log(share) if share > 0 else -math.inf
        misses = 0.0 if x == n else (n - x) * math.log1p(-share) if share < 1 else -math.inf
        return hits + misses


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def failed_calls(sums: Sums) -> Share:
    """Failures among calls."""
    return _share(sums.groups[:, FAILURES], sums.groups[:, REQUESTS])


def slow_answers(sums: Sums, threshold_ms: float) -> Share:
    """Answers slower than the threshold for certain (sketch bins wholly above it) among answers."""
    sketch = sums.latency
    above = float(sketch.count_above(sketch.edge_of(threshold_ms)))
    slow = sums.slow[:, nearest_coarse_edge(threshold_ms) :].sum(axis=1).astype(float)
    spread = _share(slow, sums.slow.sum(axis=1).astype(float)).design_effect
    return Share(above, float(sketch.count), spread)


def judge_error_threshold(threshold: float, measured: Sequence[Sums], failures: int, level: float) -> Finding:
    """The error rate of each measurement against the threshold."""
    return _judge(
        "error_rate_threshold",
        [failed_calls(sums) for sums in measured],
        threshold,
        failures,
        level,
        _error_words,
    )


def judge_latency_threshold(
    threshold_ms: float, measured: Sequence[Sums], failures: int, level: float
) -> Finding:
    """The p95 of each measurement: it is beyond the threshold when more than 5 % of the answers are slower."""
    shares = [slow_answers(sums, threshold_ms) for sums in measured]

    def words(share: float) -> str:
        return f"{percent(share)} of the answers took longer than {threshold_ms:g} ms"

    finding = _judge("latency_p95_threshold", shares, 1 - P95, failures, level, words)
    whole = LatencySketch()
    for sums in measured:
        whole.merge(sums.latency)
    return Finding(
        finding.criterion,
        finding.verdict,
        candidate=whole.quantile(P95),
        estimate=finding.estimate,
        lower=finding.lower,
        upper=finding.upper,
        limit=finding.limit,
        count=finding.count,
        reason=finding.reason,
    )


def _error_words(share: float) -> str:
    return f"{percent(share)} of the calls failed"


def _share(events: Floats, trials: Floats) -> Share:
    x, n = float(events.sum()), float(trials.sum())
    if not n:
        return Share(0.0, 0.0, 1.0)
    return Share(x, n, design_effect(events - trials * (x / n), x * (1 - x / n)))


def _judge(
    criterion: str,
    shares: Sequence[Share],
    limit: float,
    failures: int,
    level: float,
    words: Callable[[float], str],
) -> Finding:
    if not shares:
        return Finding(criterion, "not_enough_data", limit=limit, reason="no measurement is complete yet")
    beyond = [share for share in shares if share.lies_beyond(limit, level)]
    shown = beyond[-1] if beyond else shares[-1]
    lower, upper = shown.interval(level)
    trials = sum(share.trials for share in shares)
    overall = sum(share.events for share in shares) / trials if trials else 0.0
    if len(beyond) >= failures:
        verdict, result = "fail", f"{failures} are enough"
    elif overall > limit:
        verdict, result = "not_enough_data", "above the limit in all, but not for certain"
    else:
        verdict, result = "pass", "within the limit in all"
    reason = (
        f"{len(beyond)} of {len(shares)} measurements lie wholly beyond {percent(limit)}; the last "
        f"{'of them' if beyond else 'one'}: {words(shown.value)}, between {percent(lower)} and {percent(upper)} "
        f"of {shown.trials:,.0f} (always-valid); {result}: {words(overall)}"
    )
    return Finding(
        criterion,
        verdict,  # type: ignore[arg-type]
        candidate=overall,
        estimate=shown.value,
        lower=lower,
        upper=upper,
        limit=limit,
        count=int(trials),
        reason=reason,
    )
