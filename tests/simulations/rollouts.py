"""Simulated rollouts through the real `judge`: how often does it roll back a candidate that is no different, and a bad
one in time?

    python -m simulations.rollouts --rollouts 2000 --seed 1 --out report.json     (in tests/)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from phantom_statistics.intervals import clopper_pearson
from phantom_statistics.rollouts import Criteria, Pair, StepEvidence, Sums, judge, measurements
from simulations.population import make_population

GUIDE = (*range(1, 100, 5), 100)  # percent; 1 % to 100 % by 5: 21 steps
ALL = Criteria(
    error_rate_threshold=0.01,
    latency_p95_threshold_ms=50.0,
    minimum_requests=1000,
    quality_margin=0.02,
    max_distribution_distance=0.1,
)
COMPARISONS = Criteria(quality_margin=0.02)


@dataclass(frozen=True)
class Scenario:
    """Conditions of one run. `calls` and `looks` are per step; `factor` multiplies the candidate's error rate."""

    name: str
    units: int = 4_000
    weights: str = "equal"
    spread: float = 0.0
    error_rate: float = 0.008
    factor: float = 1.0
    shares: tuple[float, ...] = GUIDE
    calls: float = 40_000
    looks: int = 4
    criteria: Criteria = ALL
    failure_threshold: int = 3


@dataclass
class Outcome:
    """What became of one rollout: the criterion that rolled it back and the candidate's calls until then."""

    fired: str
    step: int
    calls: int
    held: int  # looks without a pass
    looks: int


def simulate(scenario: Scenario, seed: tuple[int, ...]) -> Outcome:
    """One rollout, judged at every look until it is rolled back."""
    rng = np.random.default_rng(seed)
    population = make_population(
        scenario.units, scenario.weights, scenario.spread, scenario.calls, scenario.error_rate, rng
    )
    steps: list[StepEvidence] = []
    held = looks = calls = 0
    for number, share in enumerate(scenario.shares):
        expected = population.intensities(share / 100, scenario.factor)
        windows: list[tuple[int, Sums]] = []
        whole = Pair.empty()
        if share < 100:
            steps.append(StepEvidence(number, whole, whole))
        for look in range(scenario.looks):
            new = expected.draw(1 / scenario.looks, rng)
            whole.merge(new)
            windows.append((5 * look, new.candidate))
            calls += new.candidate.requests
            measured = measurements(windows, 5, scenario.criteria.minimum_requests)
            verdict = judge(
                scenario.criteria, steps, measured, scenario.failure_threshold, whole.candidate.requests
            )
            looks += 1
            held += verdict.verdict != "pass"
            if verdict.fired:
                return Outcome(verdict.fired, number, calls, held, looks)
    return Outcome("", len(scenario.shares), calls, held, looks)


def null_scenarios() -> list[Scenario]:
    """The candidate is no different, the stable one inside its thresholds; everything is judged."""
    guaranteed = [
        Scenario(f"{weights}, CV {spread:g}", weights=weights, spread=spread)
        for weights in ("equal", "lognormal", "pareto")
        for spread in (0, 1, 2)
    ]
    reported = [
        Scenario("zipf, CV 1", weights="zipf", spread=1),
        Scenario("500 equal units, CV 1", units=500, spread=1),
        Scenario("500 pareto units, CV 1", units=500, weights="pareto", spread=1),
    ]
    return guaranteed + reported


def power_scenarios() -> list[Scenario]:
    """The candidate fails twice as often; one step that ends when it has had 45/p0 calls."""
    made = []
    for error_rate in (0.01, 0.001):
        for share in (1, 5, 10):
            calls = 45 / error_rate / (share / 100)
            common = {"error_rate": error_rate, "factor": 2.0, "shares": (share,), "looks": 45}
            name = f"p0 {100 * error_rate:g} %, share {share} %"
            made.append(
                Scenario(
                    f"{name}, every call its own unit",
                    units=1_000_000,
                    calls=calls,
                    criteria=COMPARISONS,
                    **common,
                )
            )
    return made


def run(scenario: Scenario, rollouts: int, seed: int, processes: int) -> dict[str, Any]:
    """Figures of many rollouts; the seed of each is (seed, its number)."""
    seeds = [(seed, number) for number in range(rollouts)]
    if processes == 1:
        outcomes = [simulate(scenario, each) for each in seeds]
    else:
        with ProcessPoolExecutor(processes) as pool:
            outcomes = list(pool.map(partial(simulate, scenario), seeds, chunksize=20))
    fired = Counter(each.fired for each in outcomes if each.fired)
    low, high = (
        clopper_pearson(fired.total(), rollouts, 0.95).lower,
        clopper_pearson(fired.total(), rollouts, 0.95).upper,
    )
    return {
        "scenario": scenario.name,
        "rollouts": rollouts,
        "rolled_back": fired.total(),
        "share": fired.total() / rollouts,
        "interval_95": [low, high],
        "criteria": dict(fired.most_common()),
        "held_share_of_looks": sum(each.held for each in outcomes) / sum(each.looks for each in outcomes),
    }


def most_allowed(rollouts: int, level: float) -> int:
    """The 99 % binomial bound: a true rate of `level` exceeds it in 1 % of simulations (122 of 2,000 at 5 %)."""
    return int(stats.binom.ppf(0.99, rollouts, level))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios whose names contain `--only`, print a line each, keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a scenario's name")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="results as JSON")
    options = parser.parse_args(arguments)
    results = []
    for scenario in [*null_scenarios(), *power_scenarios()]:
        if options.only not in scenario.name:
            continue
        started = time.monotonic()
        result = run(scenario, options.rollouts, options.seed, options.processes)
        results.append(result)
        print(
            f"{scenario.name:48} {result['rolled_back']:5} of {options.rollouts} ({100 * result['share']:.2f} %) "
            f"{result['criteria']} held {100 * result['held_share_of_looks']:.0f} % of looks "
            f"[{time.monotonic() - started:.0f} s]",
            flush=True,
        )
    if options.out:
        report = {"rollouts": options.rollouts, "seed": options.seed, "results": results}
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
