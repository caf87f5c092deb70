import numpy as np
import pytest

from phantom_statistics.rollouts import Pair
from phantom_statistics.rollouts.rates import judge_errors, judge_latency, judge_rejected, nearest_coarse_edge
from phantom_statistics.rollouts.strata import Strata
from phantom_statistics.tests.rollout_sums import sums_of

LEVEL = 0.0125


def _errors(*pairs):
    return judge_errors(Strata.of(pairs), LEVEL)


def test_a_doubled_error_rate_fails_with_the_figures_it_rests_on():
    found = _errors(Pair(sums_of(40_000, 0.01), sums_of(4_500, 0.02, seed=1)))
    assert found.verdict == "fail"
    assert found.p_value <= LEVEL
    assert found.candidate == pytest.approx(0.02, rel=0.2)
    assert found.stable == pytest.approx(0.01, rel=0.2)
    assert found.limit == 1.0 < found.lower < found.estimate < found.upper
    assert found.estimate == pytest.approx(found.candidate / found.stable, rel=0.05)
    assert found.count == 4_500
    assert "times the stable rate" in found.reason
    assert "4,500" in found.reason


def test_the_same_error_rate_passes():
    found = _errors(Pair(sums_of(40_000, 0.01), sums_of(4_500, 0.01, seed=1)))
    assert found.verdict == "pass"
    assert found.lower < 1 < found.upper


def test_a_better_candidate_passes_with_an_interval_below_one():
    found = _errors(Pair(sums_of(40_000, 0.04), sums_of(9_000, 0.01, seed=1)))
    assert found.verdict == "pass"
    assert found.upper < 1


def test_errors_that_only_the_candidate_has_fail():
    assert _errors(Pair(sums_of(4_000, 0.0), sums_of(1_000, 0.03, seed=1))).verdict == "fail"


def test_a_side_with_less_than_a_hundred_calls_is_not_judged():
    found = _errors(Pair(sums_of(4_000, 0.01), sums_of(99, 0.9, seed=1)))
    assert found.verdict == "not_enough_data"
    assert found.count == 99
    assert _errors().verdict == "not_enough_data"


def test_fewer_than_fifty_effective_units_are_not_judged_however_bad_they_look():
    found = _errors(Pair(sums_of(40_000, 0.01), sums_of(4_500, 0.5, seed=1, units=20)))
    assert found.verdict == "not_enough_units"
    assert "effective units" in found.reason


def test_less_than_ten_errors_are_no_sign_of_a_difference():
    found = _errors(Pair(sums_of(4_000, 0.001), sums_of(400, 0.0, seed=1)))
    assert found.verdict == "pass"
    assert found.estimate is None


def test_what_one_group_of_units_does_again_and_again_counts_as_one():
    control, candidate = sums_of(40_000, 0.01), sums_of(4_000, 0.01, seed=1)
    candidate.groups[7, 1] += 60  # all new errors come from one group
    assert _errors(Pair(control, candidate)).verdict == "pass"
    candidate.groups[7, 1] -= 60
    candidate.groups[:60, 1] += 1  # the same number from everywhere
    assert _errors(Pair(control, candidate)).verdict == "fail"


def test_steps_are_compared_at_the_same_time():
    quiet = Pair(sums_of(9_900, 0.001), sums_of(1_000, 0.001, seed=1))
    troubled = Pair(sums_of(5_000, 0.1, seed=2), sums_of(5_000, 0.1, seed=3))
    found = _errors(quiet, troubled)
    assert found.candidate > 1.5 * found.stable  # pooled, it looks bad
    assert found.verdict == "pass"
    assert found.estimate == pytest.approx(1, abs=0.15)


def test_a_step_with_one_revision_only_says_nothing():
    both = Pair(sums_of(4_000, 0.02), sums_of(1_000, 0.02, seed=1))
    alone = Pair(sums_of(4_000, 0.5, seed=2), sums_of(0))
    assert _errors(both, alone).estimate == _errors(both).estimate


def test_rejected_inputs_are_a_criterion_of_their_own():
    pair = Pair(sums_of(40_000, 0.01, rejected=0.01), sums_of(4_000, 0.01, rejected=0.05, seed=1))
    found = judge_rejected(Strata.of([pair]), LEVEL)
    assert found.criterion == "rejected_share"
    assert found.verdict == "fail"
    assert _errors(pair).verdict == "pass"


def test_slower_answers_fail_on_exact_counts_above_the_stable_p95():
    rng = np.random.default_rng(0)
    control, candidate = sums_of(20_000), sums_of(4_000, seed=1, slower=1.3)
    found = judge_latency([Pair(control, candidate)], LEVEL)
    edge = control.latency.edge_value(control.latency.edge(0.95))
    assert found.verdict == "fail"
    assert found.lower > 1
    assert found.stable == pytest.approx(0.05, abs=0.003)
    assert found.candidate * 4_000 == candidate.latency.count_above(control.latency.edge(0.95))
    assert found.candidate == pytest.approx((rng.lognormal(3, 0.5, 10**6) * 1.3 > edge).mean(), rel=0.1)


def test_equally_fast_answers_pass_and_a_tolerance_lets_a_little_more_pass():
    control, same, slower = sums_of(40_000), sums_of(8_000, seed=1), sums_of(40_000, seed=2, slower=1.08)
    assert judge_latency([Pair(control, same)], LEVEL).verdict == "pass"
    assert judge_latency([Pair(control, slower)], LEVEL).verdict == "fail"
    assert judge_latency([Pair(control, slower)], LEVEL, 0.1).verdict == "pass"
    assert judge_latency([Pair(control, sums_of(40_000, seed=2, slower=1.4))], LEVEL, 0.1).verdict == "fail"


def test_latency_without_answers_is_not_judged():
    assert judge_latency([], LEVEL).verdict == "not_enough_data"
    assert judge_latency([Pair(sums_of(50), sums_of(50))], LEVEL).verdict == "not_enough_data"


@pytest.mark.parametrize(
    ("value", "edge"), [(0.2, 1), (1.0, 1), (2.0, 2), (45.0, 11), (46.0, 11), (1e12, 63)]
)
def test_the_coarse_edge_is_the_nearest_half_power_of_two(value, edge):
    assert nearest_coarse_edge(value) == edge
    if 2 < value < 1e9:
        assert abs(np.log2(value) - edge / 2) <= 0.25
