import math

import numpy as np
import pytest
from scipy import special, stats

from phantom_statistics.rollouts import Sums, measurements
from phantom_statistics.rollouts.thresholds import (
    Share,
    failed_calls,
    judge_error_threshold,
    judge_latency_threshold,
    slow_answers,
)
from phantom_statistics.tests.rollout_sums import sums_of

LEVEL = 0.001


@pytest.mark.parametrize(("events", "trials"), [(3, 200), (0, 100), (100, 100), (40, 1000)])
def test_the_interval_ends_where_the_averaged_likelihood_rules_a_share_out(events, trials):
    lower, upper = Share(events, trials, 1.0).interval(LEVEL)
    log_mean = special.betaln(events + 0.5, trials - events + 0.5) - special.betaln(0.5, 0.5)
    for end in (lower, upper):
        if 0 < end < 1:
            at = special.xlogy(events, end) + special.xlog1py(trials - events, -end)
            assert log_mean - at == pytest.approx(math.log(1 / LEVEL), abs=0.02)
    exact = stats.binomtest(events, trials).proportion_ci(1 - LEVEL)
    assert lower <= exact.low + 1e-9
    assert upper >= exact.high - 1e-9


def test_a_design_effect_makes_each_call_count_less():
    assert Share(40, 1000, 4.0).interval(LEVEL) == pytest.approx(Share(10, 250, 1.0).interval(LEVEL))


def test_watching_a_share_call_by_call_keeps_the_level():
    rng = np.random.default_rng(2)
    fired = 0
    for _ in range(400):
        events = np.cumsum(rng.random(400) < 0.05)
        fired += any(Share(events[n], n + 1, 1.0).lies_beyond(0.05, 0.1) for n in range(19, 400, 5))
    assert fired <= stats.binom.ppf(0.99, 400, 0.1)


def test_a_healthy_rate_does_not_fail_a_threshold_that_its_point_value_often_exceeds():
    above = beyond = 0
    for seed in range(300):
        share = failed_calls(sums_of(1_000, 0.008, seed=seed))
        above += share.value > 0.01
        beyond += share.lies_beyond(0.01, LEVEL)
    assert above > 30
    assert beyond == 0


def test_three_measurements_beyond_the_threshold_fail_and_two_do_not():
    bad = [sums_of(300, 0.2, seed=seed) for seed in range(3)]
    found = judge_error_threshold(0.01, bad, 3, LEVEL)
    assert found.verdict == "fail"
    assert found.lower > found.limit == 0.01
    assert "3 of 3 measurements" in found.reason
    assert judge_error_threshold(0.01, bad[:2], 3, LEVEL).verdict == "not_enough_data"
    assert judge_error_threshold(0.01, bad[:2], 2, LEVEL).verdict == "fail"


def test_a_rate_within_the_threshold_passes_and_nothing_measured_is_no_pass():
    assert judge_error_threshold(0.05, [sums_of(300, 0.01)], 3, LEVEL).verdict == "pass"
    assert judge_error_threshold(0.05, [], 3, LEVEL).verdict == "not_enough_data"
    assert judge_error_threshold(0.01, [sums_of(300, 0.013, seed=1)], 3, LEVEL).verdict in (
        "pass",
        "not_enough_data",
    )


def test_one_user_who_always_fails_is_no_reason():
    sums = sums_of(300, 0.0)
    sums.groups[9, :2] += 25  # one user's 25 calls, all failed
    assert not failed_calls(sums).lies_beyond(0.01, LEVEL)
    everyone = sums_of(300, 0.0)
    everyone.groups[:25, 1] += 1
    assert failed_calls(everyone).lies_beyond(0.01, LEVEL)


def test_a_revision_that_fails_every_call_of_five_users_fails():
    assert failed_calls(sums_of(100, 1.0, units=5)).lies_beyond(0.01, LEVEL)


def test_a_p95_is_beyond_its_threshold_when_surely_more_than_a_twentieth_is_slower():
    slow, fine = sums_of(2_000, slower=1.5), sums_of(2_000)
    share = slow_answers(slow, 50)
    rng = np.random.default_rng(0)
    assert share.value == pytest.approx((rng.lognormal(3, 0.5, 10**6) * 1.5 > 50).mean(), rel=0.2)
    failed = judge_latency_threshold(50, [slow] * 3, 3, LEVEL)
    assert failed.verdict == "fail"
    assert failed.candidate == slow.latency.quantile(0.95)
    assert failed.lower > failed.limit == pytest.approx(0.05)
    assert judge_latency_threshold(50, [fine] * 3, 3, LEVEL).verdict == "pass"


def test_a_value_at_the_threshold_is_not_slower():
    sums = Sums()
    sums.latency.add(np.full(200, 50.0))
    assert slow_answers(sums, 50.0).events == 0


def _windows(*calls, every=5):
    return [(1_000 + every * place, sums_of(count, seed=place)) for place, count in enumerate(calls)]


def test_measurements_are_disjoint_consecutive_and_long_and_big_enough():
    cut = measurements(_windows(*[60] * 9), 20, 0)
    assert [each.requests for each in cut] == [240, 240]  # 4 windows of 5 s each, one left over
    assert [each.requests for each in measurements(_windows(*[60] * 9), 5, 0)] == [
        120
    ] * 4  # 100 calls at least
    assert [each.requests for each in measurements(_windows(*[60] * 9), 5, 1_500)] == [300]
    assert measurements([], 5, 0) == []


def test_windows_without_traffic_count_as_time_and_order_does_not_matter():
    windows = _windows(200, 200, 200, every=30)
    assert len(measurements(windows, 30, 0)) == 2
    assert len(measurements(windows, 60, 0)) == 1
    assert measurements(windows[::-1], 30, 0) == measurements(windows, 30, 0)


def test_measuring_leaves_the_windows_alone():
    windows = _windows(200, 200)
    measurements(windows, 10, 0)
    assert [sums.requests for _, sums in windows] == [200, 200]
