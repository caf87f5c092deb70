import numpy as np
import pytest
from scipy import stats

from phantom_statistics.intervals import clopper_pearson, wilson

CASES = [(0, 10), (10, 10), (1, 10), (37, 400), (5_000, 10_000), (1, 100_000)]


@pytest.mark.parametrize(("successes", "trials"), CASES)
@pytest.mark.parametrize(("ours", "method"), [(clopper_pearson, "exact"), (wilson, "wilson")])
def test_an_interval_agrees_with_scipy(successes, trials, ours, method):
    theirs = stats.binomtest(successes, trials).proportion_ci(0.999, method=method)
    interval = ours(successes, trials, 0.999)
    assert (interval.lower, interval.upper) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_clopper_pearson_covers_at_least_as_often_as_it_says():
    trials = 200
    for share in (0.01, 0.1, 0.37, 0.5):
        counts = np.arange(trials + 1)
        covered = np.array([clopper_pearson(int(k), trials, 0.99).holds(share) for k in counts])
        assert stats.binom.pmf(counts, trials, share)[covered].sum() >= 0.99


def test_no_trials_say_nothing():
    assert (wilson(0, 0).lower, wilson(0, 0).upper) == (0.0, 1.0)
    assert (clopper_pearson(0, 0).lower, clopper_pearson(0, 0).upper) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("successes", "trials", "confidence"), [(2, 1, 0.9), (-1, 1, 0.9), (0, 1, 1.0), (0, -1, 0.9)]
)
def test_counts_that_cannot_be_are_refused(successes, trials, confidence):
    for interval in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match=r"successes|confidence"):
            interval(successes, trials, confidence)
