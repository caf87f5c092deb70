"""Is a version slower or less right than another on the same cases? Both answer in turn, so what the machine does
meanwhile meets both.

Per case the order is A B, then B A (ABBA). Worsening is relative: p95 of the candidate over that of the other, minus 1;
and the other's accuracy minus the candidate's, over the other's. Each is judged on its 95 % interval: worse beyond the
limit only where the whole interval lies beyond it, within the limit only where the whole interval does. Accuracy's
interval is the paired one of Bonett and Price. That of the p95s is a bootstrap of pairs in blocks of ten successive
ones, as neighbours in time are slow together. The number of calls is fixed before, so nothing is looked at early.
A case that one of them refuses is not right there, and says nothing of latency.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phantom_platform.errors import Invalid
from phantom_probing.cases import passes
from phantom_probing.client import Client, decode
from phantom_probing.datasets import Labelled
from phantom_probing.measure import QUANTILES_FROM, quantile
from phantom_probing.quality import paired_shares

CALLS = 600
"""Of each side at least; fewer cases are gone through several times."""

WARM_UP = 50
BLOCK = 10
RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Worsening:
    """Relative, 0.05 is five per cent worse. `verdict`: `pass`, `fail`, `not_enough_data`."""

    candidate: float
    other: float
    estimate: float
    lower: float
    upper: float
    limit: float
    verdict: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Calls of each side, and both judgements. Accuracy counts every case once."""

    calls: int
    cases: int
    latency_p95: Worsening
    accuracy: Worsening

    @property
    def has_failed(self) -> bool:
        return "fail" in (self.latency_p95.verdict, self.accuracy.verdict)


async def compare(
    candidate: Client,
    other: Client,
    cases: Labelled,
    limit: float,
    tolerance: float = 0.0,
    calls: int = CALLS,
    progress: Callable[[float], None] | None = None,
) -> Comparison:
    """Raises any error but `Invalid`, a refusal of the case: figures of a server that fails would mean nothing."""
    if calls < QUANTILES_FROM:
        raise Invalid(
            f"{calls} calls say nothing of a p95; use at least {QUANTILES_FROM}", code="too_few_calls"
        )
    count = cases.rows.count
    if not count:
        raise Invalid("there is no case to compare with", code="no_rows")
    total = max(calls, count)
    sides = [_Side(candidate, cases, tolerance), _Side(other, cases, tolerance)]
    for place in range(WARM_UP):
        for side in sides:
            await side.call(place % count)
    for side in sides:
        side.took_ms.clear()
    for turn in range(total):
        for side in sides if turn % 2 == 0 else reversed(sides):
            await side.call(turn % count)
        if progress is not None and turn % 50 == 0:
            progress(turn / total)
            await asyncio.sleep(0)
    mine, theirs = (np.array(side.took_ms) for side in sides)
    return Comparison(
        calls=total,
        cases=count,
        latency_p95=latency_worsening(mine, theirs, limit),
        accuracy=accuracy_worsening(sides[0].is_right, sides[1].is_right, limit),
    )


class _Side:
    def __init__(self, client: Client, cases: Labelled, tolerance: float) -> None:
        self.client = client
        self._cases = cases
        self._tolerance = tolerance
        self._bodies: dict[int, bytes] = {}
        self.took_ms: list[float] = []
        self.is_right = np.zeros(cases.rows.count, dtype=bool)

    def body(self, place: int) -> bytes:
        """The request of a case for this side's schema."""
        if place not in self._bodies:
            names = {feature.name for feature in self.client.schema.features}
            row = self._cases.rows.part(place, place + 1).only(names)
            self._bodies[place] = self.client.request(row)
        return self._bodies[place]

    async def call(self, place: int) -> None:
        try:
            answer, took_ms = await self.client.timed(self.body(place))
        except Invalid:
            self.took_ms.append(float("nan"))
            return
        self.took_ms.append(took_ms)
        self.is_right[place] = passes(decode(answer, self.client.schema), self._cases, place, self._tolerance)


def latency_worsening(
    mine: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], limit: float, seed: int = 0
) -> Worsening:
    """Of latencies [calls], entry i of both measured one after the other; NaN where there is none."""
    is_both = ~(np.isnan(mine) | np.isnan(theirs))
    mine, theirs = mine[is_both], theirs[is_both]
    if len(mine) < QUANTILES_FROM:
        reason = f"{len(mine)} cases were answered by both; a p95 needs {QUANTILES_FROM}"
        return _unknown(float("nan"), float("nan"), limit, reason)
    first, second = quantile(mine, 0.95), quantile(theirs, 0.95)
    lower, upper = _bootstrap(mine, theirs, seed)
    words = f"p95 {first:.3g} ms against {second:.3g} ms"
    return _judged(words, first, second, first / second - 1, (lower, upper), limit)


def accuracy_worsening(mine: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_], limit: float) -> Worsening:
    """Of right answers [cases]."""
    first, second = float(mine.mean()), float(theirs.mean())
    words = f"accuracy {first:.4f} against {second:.4f}"
    if not second:
        reason = f"{words}: the other version answers no case right"
        return Worsening(first, second, 0.0, float("-inf"), float("inf"), limit, "not_enough_data", reason)
    difference = paired_shares(mine, theirs, CONFIDENCE)
    interval = (-difference.upper / second, -difference.lower / second)
    return _judged(words, first, second, (second - first) / second, interval, limit)


def _unknown(mine: float, theirs: float, limit: float, reason: str) -> Worsening:
    return Worsening(mine, theirs, 0.0, float("-inf"), float("inf"), limit, "not_enough_data", reason)


def _judged(
    words: str, mine: float, theirs: float, estimate: float, interval: tuple[float, float], limit: float
) -> Worsening:
    lower, upper = interval
    verdict = "fail" if lower > limit else "pass" if upper <= limit else "not_enough_data"
    reason = f"{words}: {estimate:+.1%} worse ({lower:+.1%} to {upper:+.1%}), the limit is {limit:.1%}"
    return Worsening(mine, theirs, estimate, lower, upper, limit, verdict, reason)


def _bootstrap(
    mine: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], seed: int
) -> tuple[float, float]:
    """The percentile interval of the p95s' ratio - 1, resampling moving blocks of pairs."""
    random = np.random.default_rng(seed)
    count = len(mine)
    block = min(BLOCK, count)
    starts = random.integers(0, count - block + 1, (RESAMPLES, -(-count // block)))
    chosen = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :count]
    rank = int(0.95 * (count - 1))  # the lower-rank quantile, of every resample at once
    first, second = (np.partition(side[chosen], rank, axis=1)[:, rank] for side in (mine, theirs))
    ratios = first / second - 1
    tail = (1 - CONFIDENCE) / 2
    return float(np.quantile(ratios, tail)), float(np.quantile(ratios, 1 - tail))
