"""Simulated rollouts through the real `judge`: how often does it roll back a candidate that is no different, and a bad
one in time?

    python -m simulations.rollouts --rollouts 2000 --seed 1 --out report.json     (in tests/)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
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
from phantom_statistics.rollouts import (
    Criteria,
    Pair,
    StepEvidence,
    Sums,
    judge,
    measurements,
    requests_to_detect_doubling,
)
from simulations.population import Crowd, Population, make_population

GUIDE = (*range(1, 100, 5), 100)  # percent; 1 % to 100 % by 5: 21 steps
ALL = Criteria(
    error_rate_threshold=0.01,
    latency_p95_threshold_ms=50.0,
    minimum_requests=1000,
    quality_margin=0.02,
    max_distribution_distance=0.1,
)
COMPARISONS = Criteria(quality_margin=0.02)
AT_MOST, AT_LEAST = "at most the level", "at least 95 %"


@dataclass(frozen=True)
class Scenario:
    """Conditions of one run. `calls` and `looks` are per step; `factor` multiplies the candidate's error rate.

    `units` 0: every call is a unit of its own. `bound`: what the run is held to, None where it is only reported.
    """

    name: str
    units: int = 4_000
    weights: str = "equal"
    spread: float = 0.0
    error_rate: float = 0.008
    factor: float = 1.0
    shares: tuple[float, ...] = GUIDE
    calls: float = 40_000
    looks: int = 2
    criteria: Criteria = ALL
    failure_threshold: int = 3
    bound: str | None = None


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
    population = _population(scenario, rng)
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


def _population(scenario: Scenario, rng: np.random.Generator) -> Population | Crowd:
    if not scenario.units:
        return Crowd(scenario.calls, scenario.error_rate)
    return make_population(
        scenario.units, scenario.weights, scenario.spread, scenario.calls, scenario.error_rate, rng
    )


def null_scenarios() -> list[Scenario]:
    """The candidate is no different, the stable one inside its thresholds; everything is judged."""
    held_to = [
        Scenario(f"null: 4,000 {weights} units, CV {spread}", weights=weights, spread=spread, bound=AT_MOST)
        for weights in ("equal", "pareto", "lognormal")
        for spread in (0, 1, 2)
    ]
    often: dict[str, Any] = {"shares": (10,), "calls": 300_000, "looks": 100, "bound": AT_MOST}
    held_to += [
        Scenario("null: one step of 10 %, 100 looks, calls as units", units=0, **often),
        Scenario("null: one step of 10 %, 100 looks, 4,000 equal units, CV 1", spread=1, **often),
    ]
    reported = [
        Scenario("null: 4,000 zipf units, CV 1", weights="zipf", spread=1),
        Scenario("null: 500 equal units, CV 1", units=500, spread=1),
        Scenario("null: 500 pareto units, CV 1", units=500, weights="pareto", spread=1),
        Scenario("null: 4,000 equal units, CV 2, 1,000 calls each a step", spread=2, calls=4e6),
    ]
    return held_to + reported


def power_scenarios() -> list[Scenario]:
    """The candidate fails twice as often; one step that ends when it has had 45/p0 calls, 45 looks on the way."""
    made = []
    for error_rate in (0.01, 0.001):
        for share in (1, 5, 10):
            name = f"power: p0 {100 * error_rate:g} %, share {share} %, calls as units"
            made.append(_doubled(name, error_rate, share, units=0, bound=AT_LEAST))
    for units, spread in ((40_000, 0.0), (40_000, 1.0), (4_000, 0.0), (4_000, 1.0)):
        name = f"power: p0 1 %, share 10 %, {units:,} equal units, CV {spread:g}"
        made.append(_doubled(name, 0.01, 10, units=units, spread=spread))
    return made


def scenarios() -> list[Scenario]:
    """What is held to a bound first, then what is only reported."""
    return sorted([*power_scenarios(), *null_scenarios()], key=lambda each: each.bound is None)


def _doubled(name: str, error_rate: float, share: float, **more: Any) -> Scenario:
    calls = requests_to_detect_doubling(error_rate) / (share / 100)
    return Scenario(
        name,
        error_rate=error_rate,
        factor=2.0,
        shares=(share,),
        calls=calls,
        looks=45,
        criteria=COMPARISONS,
        **more,
    )


def run(scenario: Scenario, rollouts: int, seed: int, processes: int) -> dict[str, Any]:
    """Figures of many rollouts; the seed of each is (seed, its number)."""
    seeds = [(seed, number) for number in range(rollouts)]
    if processes == 1:
        outcomes = [simulate(scenario, each) for each in seeds]
    else:
        with ProcessPoolExecutor(processes) as pool:
            outcomes = list(pool.map(partial(simulate, scenario), seeds, chunksize=20))
    fired = Counter(each.fired for each in outcomes if each.fired)
    interval = clopper_pearson(fired.total(), rollouts, 0.95)
    return {
        "scenario": scenario.name,
        "rollouts": rollouts,
        "rolled_back": fired.total(),
        "interval_95": [interval.lower, interval.upper],
        "criteria": dict(fired.most_common()),
        "held_share_of_looks": sum(each.held for each in outcomes) / sum(each.looks for each in outcomes),
        "bound": scenario.bound,
        "holds": holds(scenario, fired.total(), rollouts),
    }


def holds(scenario: Scenario, rolled_back: int, rollouts: int) -> bool | None:
    """Whether the run keeps what it is held to; None where it is only reported."""
    if scenario.bound == AT_MOST:
        return rolled_back <= most_allowed(rollouts, scenario.criteria.level)
    if scenario.bound == AT_LEAST:
        return rolled_back >= 0.95 * rollouts
    return None


def most_allowed(rollouts: int, level: float) -> int:
    """The 99 % binomial bound: a true rate of `level` stays at or below it in at most 99 % (122 of 2,000 at 5 %)."""
    return max(int(stats.binom.ppf(0.99, rollouts, level)) - 1, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the scenarios whose names contain `--only`, print them as a Markdown table, keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="part of a scenario's name")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="results as JSON")
    options = parser.parse_args(arguments)
    chosen = [scenario for scenario in scenarios() if options.only in scenario.name]
    if not chosen:
        parser.error(
            f"no scenario has {options.only!r} in its name: {', '.join(each.name for each in scenarios())}"
        )
    results: list[dict[str, Any]] = []
    sys.stdout.write(HEAD)
    for scenario in chosen:
        results.append(run(scenario, options.rollouts, options.seed, options.processes))
        sys.stdout.write(row(results[-1]))
        sys.stdout.flush()
        if options.out:
            report = {"rollouts": options.rollouts, "seed": options.seed, "results": results}
            options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any(result["holds"] is False for result in results) else 0


HEAD = (
    "| scenario | rolled back | share (95 % interval) | bound | by | held looks |\n"
    "|---|---:|---|---|---|---:|\n"
)


def row(result: dict[str, Any]) -> str:
    """One line of the Markdown table."""
    share = 100 * result["rolled_back"] / result["rollouts"]
    low, high = (100 * end for end in result["interval_95"])
    bound = {True: "kept", False: "**broken**", None: "reported only"}[result["holds"]]
    criteria = ", ".join(f"{name} {count}" for name, count in result["criteria"].items())
    return (
        f"| {result['scenario']} | {result['rolled_back']:,} of {result['rollouts']:,} | "
        f"{share:.2f} % ({low:.2f} to {high:.2f}) | {bound} | {criteria} | "
        f"{100 * result['held_share_of_looks']:.0f} % |\n"
    )


if __name__ == "__main__":
    sys.exit(main())
