import math

import numpy as np
import pytest
from scipy import stats

from phantom_statistics.rollouts import Pair
from phantom_statistics.rollouts.quality import coverage_p_value, difference, judge_accuracy, judge_log_loss
from phantom_statistics.rollouts.strata import Strata
from phantom_statistics.tests.rollout_sums import sums_of

LEVEL = 0.00625


def _strata(*pairs):
    return Strata.of(pairs)


def test_the_difference_of_one_step_is_that_of_means_with_the_cluster_robust_error():
    rng = np.random.default_rng(0)
    labels, stable_labels = rng.poisson(40, (1, 64)), rng.poisson(400, (1, 64))
    correct, stable_correct = rng.binomial(labels, 0.8), rng.binomial(stable_labels, 0.9)
    found = difference(correct, labels, stable_correct, stable_labels)
    assert found.value == pytest.approx(
        correct.sum() / labels.sum() - stable_correct.sum() / stable_labels.sum()
    )
    independent = math.sqrt(0.8 * 0.2 / labels.sum() + 0.9 * 0.1 / stable_labels.sum())
    assert found.standard_error == pytest.approx(independent, rel=0.3)


def test_the_error_is_right_where_units_have_ways_of_their_own():
    rng = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(400):
        arms = []
        for units in (200, 400):
            group, calls = rng.integers(64, size=units), rng.poisson(20, units)
            right = rng.binomial(calls, rng.beta(4, 1, units))
            arms += [np.bincount(group, each, 64)[None] for each in (right, calls)]
        found = difference(*arms)
        values.append(found.value)
        errors.append(found.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.1)


def test_differences_are_taken_within_steps():
    # The world gets harder while the share grows: pooled means differ by .13, steps not at all.
    labels = np.repeat(np.array([[10.0], [300.0]]), 64, axis=1)
    stable = np.repeat(np.array([[300.0], [300.0]]), 64, axis=1)
    rates = np.array([[0.9], [0.6]])
    found = difference(labels * rates, labels, stable * rates, stable)
    assert found.value == pytest.approx(0, abs=1e-12)


def test_the_half_width_is_that_of_the_asymptotic_confidence_sequence():
    found = difference(
        np.full((1, 64), 45.0), np.full((1, 64), 50.0), np.full((1, 64), 90.0), np.full((1, 64), 100.0)
    )
    t = found.effective / 100
    by_hand = math.sqrt(2 * (t + 1) / t * math.log(1 + math.sqrt(t + 1) / (2 * 0.01)))
    assert found.half_width(0.01) == found.standard_error * by_hand
    assert 3 < by_hand < 4.5  # in standard errors; a single look at 1 % takes 2.3


def test_worse_by_more_than_the_margin_fails_in_its_own_direction():
    matured = _strata(Pair(sums_of(20_000), sums_of(5_000, seed=1, accuracy=0.8, log_loss=0.6)))
    accuracy, loss = judge_accuracy(matured, 0.02, LEVEL), judge_log_loss(matured, 0.02, LEVEL)
    assert accuracy.verdict == "fail"
    assert accuracy.upper < accuracy.limit == -0.02
    assert loss.verdict == "fail"
    assert loss.lower > loss.limit == 0.02
    assert accuracy.estimate == pytest.approx(-0.1, abs=0.02)
    assert loss.estimate == pytest.approx(0.3, abs=0.03)


def test_better_is_never_a_failure():
    matured = _strata(Pair(sums_of(20_000, accuracy=0.8, log_loss=0.6), sums_of(5_000, seed=1)))
    assert judge_accuracy(matured, 0.02, LEVEL).verdict == "pass"
    assert judge_log_loss(matured, 0.02, LEVEL).verdict == "pass"


def test_equal_quality_passes_with_many_labels_and_is_undecided_with_few():
    few = _strata(Pair(sums_of(2_000), sums_of(300, seed=1)))
    many = _strata(Pair(sums_of(60_000), sums_of(60_000, seed=1)))
    assert judge_accuracy(few, 0.02, LEVEL).verdict == "not_enough_data"
    assert judge_accuracy(many, 0.02, LEVEL).verdict == "pass"


def test_quality_needs_a_hundred_labels_and_fifty_units_a_side():
    few = _strata(Pair(sums_of(2_000), sums_of(99, seed=1, accuracy=0.1)))
    alike = _strata(Pair(sums_of(20_000), sums_of(5_000, seed=1, accuracy=0.1, units=15)))
    assert judge_accuracy(few, 0.02, LEVEL).verdict == "not_enough_data"
    assert judge_accuracy(alike, 0.02, LEVEL).verdict == "not_enough_units"
    assert judge_accuracy(_strata(), 0.02, LEVEL).verdict == "not_enough_data"


def test_unequal_label_coverage_is_not_comparable():
    matured = _strata(Pair(sums_of(20_000, labelled=0.5), sums_of(5_000, seed=1, labelled=0.4, accuracy=0.5)))
    found = judge_accuracy(matured, 0.02, LEVEL)
    assert found.verdict == "not_comparable"
    assert found.p_value < 0.001


def test_the_coverage_test_keeps_its_level_whatever_failed_before():
    p_values = [
        coverage_p_value(
            _strata(
                Pair(
                    sums_of(2_000, 0.02, seed=seed, labelled=0.5),
                    sums_of(500, 0.02, seed=900 + seed, labelled=0.5),
                )
            )
        )
        for seed in range(300)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
