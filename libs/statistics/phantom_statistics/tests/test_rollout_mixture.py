import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from phantom_statistics.rollouts.mixture import SPREAD, Events, relative_rate


def _events(share, candidate, stable):
    return Events(*(np.atleast_1d(np.asarray(each, dtype=float)) for each in (share, candidate, stable)))


def _log_likelihood(events, eta):
    f, x, z = events.share, events.candidate, events.candidate + events.stable
    return float((x * eta - z * np.log(1 - f + f * np.exp(eta))).sum())


CASES = [
    _events(0.1, 60, 300),
    _events(0.01, 12, 400),
    _events(0.5, 30, 30),
    _events(0.3, 5, 200),  # fewer than expected
    _events(0.1, 0, 5000),
    _events(0.2, 14, 0),
    _events([0.01, 0.06, 0.11], [2, 9, 20], [90, 80, 85]),
]


@pytest.mark.parametrize("events", CASES)
@pytest.mark.parametrize("effect", [1.0, 3.0])
def test_the_p_value_is_the_inverse_of_the_likelihood_averaged_over_the_prior(events, effect):
    prior = stats.halfnorm(scale=SPREAD)

    def weighed(eta):
        return math.exp(_log_likelihood(events, eta) / effect) * prior.pdf(eta)

    parts = np.concatenate([np.linspace(0, 0.2, 41), np.linspace(0.25, 6, 60)])
    mean = sum(integrate.quad(weighed, a, b)[0] for a, b in itertools.pairwise(parts))
    assert relative_rate(events, effect, 0.05).p_value == pytest.approx(min(1, 1 / mean), rel=1e-5)


@pytest.mark.parametrize("events", CASES[:4] + CASES[6:])
def test_the_interval_holds_the_rates_that_the_evidence_does_not_rule_out(events):
    found = relative_rate(events, 1.0, 0.05)
    prior = stats.norm(scale=SPREAD)

    def weighed(eta):
        return math.exp(_log_likelihood(events, eta)) * prior.pdf(eta)

    mean = integrate.quad(weighed, -6, 6, limit=400, points=[-1, -0.1, 0, 0.1, 1])[0]
    for end in (found.lower, found.upper):
        against = math.log(mean) - _log_likelihood(events, math.log(end))
        assert against == pytest.approx(math.log(1 / 0.1), abs=0.05)
    assert found.lower < found.estimate < found.upper


def test_one_step_estimates_the_ratio_of_rates():
    found = relative_rate(_events(0.1, 200, 900), 1.0, 0.05)
    assert found.estimate == pytest.approx((200 / 0.1) / (900 / 0.9), rel=1e-6)


def test_steps_of_one_share_are_one_step():
    together = relative_rate(_events(0.1, 60, 300), 2.0, 0.05)
    apart = relative_rate(_events([0.1, 0.1], [20, 40], [180, 120]), 2.0, 0.05)
    assert apart.p_value == pytest.approx(together.p_value, rel=1e-9)
    assert apart.lower == pytest.approx(together.lower, rel=1e-9)


def test_a_ramp_is_not_taken_for_a_difference():
    # Errors ten times as frequent in the second step, in both revisions: pooled, the candidate looks 4 times worse.
    found = relative_rate(_events([0.01, 0.5], [5, 500], [495, 500]), 1.0, 0.05)
    assert found.estimate == pytest.approx(1.0, rel=1e-6)
    assert found.p_value == 1.0


def test_the_interval_and_the_p_value_agree_at_every_level():
    for events in CASES:
        for level in (0.2, 0.05, 0.001):
            found = relative_rate(events, 1.0, level)
            assert (found.lower > 1) == (found.p_value <= level) or abs(math.log(found.p_value / level)) < 0.1


def test_no_events_on_a_side_leave_that_end_open():
    assert relative_rate(_events(0.1, 0, 5000), 1.0, 0.05).lower == 0
    assert math.isinf(relative_rate(_events(0.2, 14, 0), 1.0, 0.05).upper)


def test_looking_after_every_event_keeps_the_level():
    rng = np.random.default_rng(6)
    share, level, fired = 0.1, 0.1, 0
    for _ in range(300):
        mine = np.cumsum(rng.random(300) < share)
        fired += any(
            relative_rate(_events(share, mine[n], n + 1 - mine[n]), 1.0, level).p_value <= level
            for n in range(9, 300, 10)
        )
    assert fired <= stats.binom.ppf(0.99, 300, level)
