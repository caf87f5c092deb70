import numpy as np
import pytest

from phantom_statistics.groups import GROUPS
from phantom_statistics.rollouts.clusters import design_effect, effective_units
from phantom_statistics.rollouts.strata import Counts


def _grouped(weights, rng):
    return np.bincount(rng.integers(GROUPS, size=len(weights)), weights, GROUPS)


@pytest.mark.parametrize("units", [20, 100, 1000])
def test_effective_units_of_equal_units_are_their_number(units):
    rng = np.random.default_rng(1)
    found = [1 / effective_units(_grouped(np.full(units, 7.0), rng)) for _ in range(400)]
    assert np.mean(found) == pytest.approx(1 / units, rel=0.05)  # its inverse is unbiased
    assert np.std(found) * units == pytest.approx(0.18, abs=0.05)


def test_effective_units_of_unequal_units_follow_the_inverse_sum_of_squared_shares():
    rng = np.random.default_rng(2)
    weights = 1000 / np.arange(1, 301)  # calls
    shares = weights / weights.sum()
    found = [1 / effective_units(_grouped(weights, rng)) for _ in range(2000)]
    assert np.mean(found) == pytest.approx((shares**2).sum(), rel=0.05)


def test_one_unit_is_one_and_none_is_none():
    one = np.zeros(GROUPS)
    assert effective_units(one) == 0
    one[5] = 1e6
    assert effective_units(one) == pytest.approx(1)
    assert effective_units(np.full(GROUPS, 10.0)) == 640  # never more than calls


def test_the_design_effect_is_one_for_independent_calls_and_the_size_of_what_comes_together():
    rng = np.random.default_rng(4)
    alone, together = [], []
    for _ in range(300):
        x, y = rng.poisson(5, (1, GROUPS)), rng.poisson(50, (1, GROUPS))
        trials, stable = np.full((1, GROUPS), 500.0), np.full((1, GROUPS), 5000.0)
        alone.append(Counts(x, trials, y, stable).design_effect())
        together.append(Counts(9 * x, trials, 9 * y, stable).design_effect())  # nine calls fail as one
    assert 1 <= np.mean(alone) < 1.12  # below 1 counts as 1
    assert np.mean(together) == pytest.approx(9, rel=0.05)


def test_influences_are_summed_over_steps_before_they_are_squared():
    rng = np.random.default_rng(5)
    x, y = rng.poisson(5.0, (1, GROUPS)), rng.poisson(50.0, (1, GROUPS))
    trials, stable = np.full((1, GROUPS), 500.0), np.full((1, GROUPS), 5000.0)
    once = Counts(9 * x, trials, 9 * y, stable).design_effect()
    four = Counts(*(np.repeat(each, 4, axis=0) for each in (9 * x, trials, 9 * y, stable))).design_effect()
    assert four == pytest.approx(4 * once)  # the same units failed again and again


def test_nothing_to_vary_has_no_design_effect():
    assert design_effect(np.zeros(GROUPS), 0.0) == 1.0
