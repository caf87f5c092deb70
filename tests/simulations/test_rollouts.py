"""The simulation in small; docs/rollout-verdicts.md has the results of the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats

from phantom_statistics.rollouts import Criteria, strata
from simulations.population import share_slower
from simulations.rollouts import (
    ALL,
    AT_LEAST,
    AT_MOST,
    GUIDE,
    Scenario,
    holds,
    main,
    most_allowed,
    null_scenarios,
    power_scenarios,
    run,
)

ERRORS_ONLY = Criteria(compare_latency=False, compare_rejected=False)
# Four thousand users, some of whom fail often, with a thousand calls each a step.
FAITHFUL = Scenario("users with ways of their own", spread=2, calls=4e6, looks=1, criteria=ERRORS_ONLY)


def test_a_candidate_that_is_no_different_is_seldom_rolled_back():
    scenario = next(each for each in null_scenarios() if each.name == "null: 4,000 lognormal units, CV 1")
    shorter = replace(scenario, shares=GUIDE[::2], looks=1)
    result = run(shorter, 150, seed=11, processes=1)
    assert result["rolled_back"] <= most_allowed(150, 0.05)


def test_the_stable_revision_is_inside_the_thresholds_of_the_simulation():
    assert all(each.error_rate < ALL.error_rate_threshold for each in null_scenarios())
    assert 0.03 < share_slower(ALL.latency_p95_threshold_ms) < 0.05


def test_a_doubled_error_rate_is_rolled_back_in_time():
    scenario = next(each for each in power_scenarios() if each.bound == AT_LEAST and each.shares == (10,))
    result = run(scenario, 60, seed=12, processes=1)
    assert result["rolled_back"] >= stats.binom.ppf(0.01, 60, 0.95)
    assert result["criteria"].keys() <= {"error_rate", "latency_p95", "rejected_share"}


def test_without_variances_over_groups_of_units_it_would_be_rolled_back_often(monkeypatch):
    assert run(FAITHFUL, 30, seed=13, processes=1)["rolled_back"] <= most_allowed(30, 0.05)
    monkeypatch.setattr(strata, "design_effect", lambda residuals, independent: 1.0)
    assert run(FAITHFUL, 30, seed=13, processes=1)["rolled_back"] > 15


def test_steps_share_their_units_so_adding_the_steps_variances_is_too_little(monkeypatch):
    honest = strata.Counts.design_effect

    def by_step(counts):
        """As if every step had units of its own."""
        parts = [
            strata.Counts(*(getattr(counts, name)[step : step + 1] for name in counts.__slots__))
            for step in range(len(counts.events))
        ]
        share = counts.shares()
        weights = (1 - share) ** 2 * counts.events.sum(axis=1) + share**2 * counts.stable_events.sum(axis=1)
        return sum(weight * honest(part) for weight, part in zip(weights, parts, strict=True)) / weights.sum()

    monkeypatch.setattr(strata.Counts, "design_effect", by_step)
    assert run(FAITHFUL, 60, seed=13, processes=1)["rolled_back"] > most_allowed(60, 0.05)


def test_two_thousand_rollouts_may_roll_back_122_times():
    assert most_allowed(2_000, 0.05) == 122
    null, power = Scenario("", bound=AT_MOST), Scenario("", bound=AT_LEAST)
    assert [holds(null, 122, 2_000), holds(null, 123, 2_000)] == [True, False]
    assert [holds(power, 1_900, 2_000), holds(power, 1_899, 2_000)] == [True, False]
    assert holds(replace(null, bound=None), 2_000, 2_000) is None


def test_the_script_reports_and_keeps_its_results(tmp_path, capsys):
    out = tmp_path / "report.json"
    arguments = [
        "--rollouts",
        "2",
        "--only",
        "p0 1 %, share 10 %, calls",
        "--processes",
        "1",
        "--out",
        str(out),
    ]
    assert main(arguments) in (0, 1)
    assert "calls as units" in capsys.readouterr().out
    assert '"rolled_back"' in out.read_text()


def test_a_part_of_a_name_that_fits_nothing_is_refused():
    with pytest.raises(SystemExit):
        main(["--only", "no such scenario"])
