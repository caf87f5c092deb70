import numpy as np
import pytest
from scipy import stats

from phantom_statistics.rollouts import Pair
from phantom_statistics.rollouts.distance import (
    _uniform_radius,
    class_distance,
    judge_distance,
    score_distance,
)
from phantom_statistics.rollouts.strata import Strata
from phantom_statistics.tests.rollout_sums import sums_of

LEVEL = 0.00125


def _judge(pair, limit):
    return judge_distance([pair], Strata.of([pair]), limit, LEVEL)


def test_scores_lie_apart_by_the_kolmogorov_smirnov_statistic():
    pair = Pair(sums_of(3_000), sums_of(2_000, seed=1, score_shift=0.1))
    raw = [np.repeat(np.arange(1000), side.scores) for side in (pair.candidate, pair.control)]
    found = score_distance([pair], (2_000, 3_000), LEVEL)
    assert found.value == pytest.approx(stats.ks_2samp(*raw).statistic)
    assert 0 < found.lower < found.value


def test_classes_lie_apart_by_their_total_variation():
    pair = Pair(sums_of(3_000), sums_of(2_000, seed=1))
    pair.control.classes, pair.candidate.classes = {"a": 600, "b": 400}, {"a": 100, "b": 100, "c": 300}
    assert class_distance([pair], (500, 1_000), LEVEL).value == pytest.approx(0.6)
    pair.control.classes = pair.candidate.classes = {"a": 5}
    assert class_distance([pair], (500, 1_000), LEVEL) is None  # one class cannot differ


def test_a_growing_share_in_a_changing_world_is_no_distance():
    early = Pair(sums_of(5_000), sums_of(100, seed=1))
    late = Pair(sums_of(3_000, seed=2, score_shift=0.3), sums_of(3_000, seed=3, score_shift=0.3))
    assert score_distance([early, late], (3_000, 3_000), LEVEL).value < 0.06


def test_it_fails_only_when_certainly_above_the_limit():
    far, near = sums_of(20_000, seed=1, score_shift=0.3), sums_of(20_000, seed=1, score_shift=0.02)
    found = _judge(Pair(sums_of(40_000), far), 0.2)
    assert found.verdict == "fail"
    assert found.lower > 0.2
    assert _judge(Pair(sums_of(40_000), far), None).verdict == "pass"  # reported only
    assert _judge(Pair(sums_of(40_000), near), 0.2).verdict == "pass"


def test_few_predictions_or_units_are_not_judged():
    assert _judge(Pair(sums_of(400), sums_of(99, seed=1)), 0.1).verdict == "not_enough_data"
    alike = Pair(sums_of(4_000), sums_of(4_000, seed=1, units=10, score_shift=0.5))
    assert _judge(alike, 0.1).verdict == "not_enough_units"


def test_predictions_without_scores_and_classes_have_no_distance():
    pair = Pair(sums_of(400), sums_of(400, seed=1))
    for side in (pair.control, pair.candidate):
        side.scores[:] = 0
        side.classes = {}
    assert _judge(pair, 0.1) is None


def test_the_radius_is_above_the_single_look_one_and_shrinks():
    for n in (100, 1_000, 10_000):
        single = np.sqrt(np.log(2 / LEVEL) / 2 / n)  # Dvoretzky, Kiefer, Wolfowitz
        assert single < _uniform_radius(n, LEVEL) < 2.2 * single
