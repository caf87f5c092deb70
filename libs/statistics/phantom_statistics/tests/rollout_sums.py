"""Sums for the tests of verdicts, drawn call by call."""

from __future__ import annotations

import numpy as np

from phantom_statistics.rollouts import Pair, StepEvidence, Sums


def sums_of(
    calls: int,
    error_rate: float = 0.0,
    *,
    seed: int = 0,
    units: int | None = None,
    rejected: float = 0.0,
    slower: float = 1.0,
    accuracy: float = 0.9,
    log_loss: float = 0.3,
    labelled: float = 1.0,
    score_shift: float = 0.0,
) -> Sums:
    """Calls of `units` equal units (None: each call is one); latencies are log-normal with p95 ~ 46 ms x `slower`."""
    rng = np.random.default_rng(seed)
    unit = rng.integers(units, size=calls) if units else np.arange(calls)
    group = rng.integers(64, size=int(unit.max()) + 1 if calls else 1)[unit]
    sums, draw = Sums(), rng.random(calls)
    columns = [
        np.ones(calls),
        draw < error_rate,
        draw > 1 - rejected,
        rng.random(calls) < labelled,
    ]
    columns.append(columns[3] * (rng.random(calls) < accuracy))
    columns.append(columns[3] * rng.exponential(log_loss, calls))
    for place, column in enumerate(columns):
        sums.groups[:, place] = np.bincount(group, column, 64)
    latency = rng.lognormal(3, 0.5, calls) * slower
    sums.latency.add(latency)
    np.add.at(sums.slow, (group, np.clip(np.floor(2 * np.log2(latency)), 0, 63).astype(int)), 1)
    scores = np.clip(rng.beta(2, 5, calls) + score_shift, 0, 1)
    sums.scores += np.bincount(np.minimum((scores * 1000).astype(int), 999), minlength=1000)
    sums.classes = {"yes": int((scores > 0.5).sum()), "no": int((scores <= 0.5).sum())}
    sums.rows = calls
    return sums


def step_of(candidate: Sums, control: Sums, number: int = 0) -> StepEvidence:
    """A step whose outcomes are all matured."""
    pair = Pair(control, candidate)
    return StepEvidence(number, pair, pair)
