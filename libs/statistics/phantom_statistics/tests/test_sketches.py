import json

import numpy as np
import pytest
from ddsketch import DDSketch
from hypothesis import given, settings
from hypothesis import strategies as st

from phantom_statistics.groups import GROUPS, unit_group, unit_groups
from phantom_statistics.latency import LatencySketch
from phantom_statistics.scores import ScoreHistogram

QUANTILES = (0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 1.0)
latencies = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


@given(latencies)
@settings(deadline=None, max_examples=150)
def test_quantiles_are_within_the_relative_accuracy_of_the_lower_rank_quantile(values):
    sketch = LatencySketch()
    sketch.add(np.array(values))
    for q in QUANTILES:
        exact = np.quantile(values, q, method="lower")
        assert sketch.quantile(q) == pytest.approx(exact, rel=0.005 + 1e-9, abs=1e-9)


@given(latencies, latencies, latencies)
@settings(deadline=None, max_examples=75)
def test_merged_sketches_are_the_sketch_of_all_values_in_any_order(a, b, c):
    whole, left, right = LatencySketch(), LatencySketch(), LatencySketch()
    whole.add(np.array(a + b + c))
    for parts, merged in (((a, b, c), left), ((c, b, a), right)):
        for part in parts:
            one = LatencySketch()
            one.add(np.array(part))
            merged.merge(one)
    assert left == right == whole


@given(latencies)
@settings(deadline=None, max_examples=50)
def test_a_sketch_survives_json(values):
    sketch = LatencySketch()
    sketch.add(np.array([*values, float("nan")]))
    again = LatencySketch.from_dict(json.loads(json.dumps(sketch.to_dict())))
    assert again == sketch
    assert again.refused == 1


def test_the_sketch_agrees_with_the_ddsketch_library():
    values = np.random.default_rng(7).lognormal(1, 1, 20_000)
    theirs, ours = DDSketch(0.005), LatencySketch()
    for value in values:
        theirs.add(value)
    ours.add(values)
    for q in (0.5, 0.95, 0.99):
        assert ours.quantile(q) == pytest.approx(theirs.get_quantile_value(q), rel=0.0101)


def test_what_is_no_latency_is_refused_and_counted():
    sketch = LatencySketch()
    assert sketch.add(np.array([1.0, np.nan, np.inf, -np.inf, -1.0, 1e300, 0.0])) == 5
    assert (sketch.refused, sketch.count, sketch.zeros) == (5, 2, 1)


def test_an_empty_sketch_has_no_quantiles():
    assert LatencySketch().quantile(0.95) is None
    assert LatencySketch.from_dict(LatencySketch().to_dict()) == LatencySketch()


def test_a_window_of_latencies_is_small_as_json():
    sketch = LatencySketch()
    sketch.add(np.random.default_rng(3).lognormal(1, 0.7, 5_000))
    assert len(json.dumps(sketch.to_dict())) < 5_000


def test_sketches_of_different_accuracy_do_not_merge():
    with pytest.raises(ValueError, match="accuracies differ"):
        LatencySketch().merge(LatencySketch(0.01))


@pytest.mark.parametrize(
    "change",
    [{"steps": [1, 0], "counts": [1, 1]}, {"counts": [-1]}, {"zeros": -1}, {"steps": [10**9]}, {"steps": []}],
)
def test_a_broken_sketch_is_refused(change):
    good = {"relative_accuracy": 0.005, "zeros": 0, "refused": 0, "steps": [5], "counts": [1]}
    LatencySketch.from_dict(good)
    with pytest.raises(ValueError, match="sketch"):
        LatencySketch.from_dict({**good, **change})


def test_scores_fall_into_their_bins():
    histogram = ScoreHistogram()
    assert histogram.add(np.array([0.0, 0.0005, 0.5, 0.9999, 1.0, -0.1, 1.1, np.inf, np.nan])) == 1
    assert {int(n): int(histogram.counts[n]) for n in np.flatnonzero(histogram.counts)} == {
        0: 2,
        500: 1,
        999: 2,
    }
    assert (histogram.below, histogram.above, histogram.refused, histogram.count) == (1, 2, 1, 8)


@given(st.lists(st.floats(-1, 2), max_size=100), st.lists(st.floats(0, 1), max_size=100))
@settings(deadline=None, max_examples=50)
def test_histograms_merge_by_addition_and_survive_json(a, b):
    whole, one, two = ScoreHistogram(), ScoreHistogram(), ScoreHistogram()
    whole.add(np.array(a + b))
    one.add(np.array(a))
    two.add(np.array(b))
    one.merge(two)
    assert ScoreHistogram.from_dict(json.loads(json.dumps(one.to_dict()))) == whole


def test_histograms_of_different_range_do_not_merge():
    with pytest.raises(ValueError, match="ranges differ"):
        ScoreHistogram().merge(ScoreHistogram(0, 10))
    with pytest.raises(ValueError, match="empty"):
        ScoreHistogram(1, 0)


def test_unit_groups_are_even_and_pinned():
    units = [f"N{n}" for n in range(64_000)]
    counts = np.bincount(unit_groups(units), minlength=GROUPS)
    assert counts.min() > 850
    assert counts.max() < 1_150
    assert unit_groups(units[:9]).tolist() == [unit_group(unit) for unit in units[:9]]
    assert [unit_group(unit) for unit in ("", "N14228", "42")] == [34, 57, 10]
