from __future__ import annotations

import math

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from phantom_contracts.outcomes import true_label
from phantom_monitor.domain.answers import score_bins
from phantom_monitor.domain.counts import (
    Agreement,
    GroupSums,
    Quality,
    Regression,
    WindowCounts,
    latency_bins,
    window_start,
)
from phantom_monitor.domain.figures import figures

from .conftest import FRAUD

numbers = st.integers(0, 50)
labels = st.sampled_from(["legit", "fraud"])


@st.composite
def window_counts(draw: st.DrawFn) -> WindowCounts:
    counts = WindowCounts(
        requests=draw(numbers), answered=draw(numbers), attempts=draw(numbers), rows=draw(numbers)
    )
    counts.latency_ms.add(np.array(draw(st.lists(st.floats(0.1, 1e4), max_size=20))))
    counts.classes = draw(st.dictionaries(labels, st.integers(1, 9)))
    counts.scores = draw(st.dictionaries(st.integers(0, 999), st.integers(1, 9), max_size=5))
    counts.quality = {
        label: Quality({3: 2}, 1.5, 2.5, {"fraud": draw(st.integers(1, 9))})
        for label in draw(st.sets(labels))
    }
    counts.groups = {
        draw(st.integers(0, 63)): GroupSums(requests=draw(numbers), log_loss=0.5, latency={4: 2})
    }
    counts.agreement = draw(st.sampled_from([None, Agreement(2, 1, -0.5, 0.25, 0.5)]))
    counts.regression = draw(st.sampled_from([None, Regression(2, 0.5, 1.0, 0.5, 3.0, 4.5)]))
    return counts


def merged(*parts: WindowCounts) -> dict[str, object]:
    whole = WindowCounts()
    for part in parts:
        whole.merge(part)
    return orjson.loads(orjson.dumps(whole.to_dict(), option=orjson.OPT_SORT_KEYS))


@given(window_counts(), window_counts(), window_counts())
def test_merging_is_addition_in_any_order(a: WindowCounts, b: WindowCounts, c: WindowCounts) -> None:
    assert merged(a, b, c) == merged(c, a, b)


@given(window_counts())
def test_counts_survive_being_stored(counts: WindowCounts) -> None:
    stored = orjson.loads(orjson.dumps(counts.to_dict()))
    assert WindowCounts.from_dict(stored).to_dict() == counts.to_dict()


def test_windows_stored_before_a_sum_was_thought_of_are_read() -> None:
    stored = WindowCounts(requests=3).to_dict() | {
        "groups": {"7": {"requests": 3, "failures": 1, "labelled": 2, "correct": 1}}
    }
    assert WindowCounts.from_dict(stored).groups[7] == GroupSums(3, 1, 0, 2, 1, 0.0, {})


def test_latencies_fall_into_half_octaves() -> None:
    latencies = [-1.0, 0.0, 0.9, 1.0, 1.41, 1.42, 2.0, 2.83, 4.0, 1000.0, 1e13, math.nan]
    assert latency_bins(np.array(latencies)).tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4, 19, 63, 0]


def test_windows_begin_every_five_seconds() -> None:
    assert [window_start(us) for us in (0, 4_999_999, 5_000_000)] == [0, 0, 5]


def test_scores_fall_into_a_thousand_bins() -> None:
    assert score_bins(np.array([0.0, 0.0005, 0.5, 0.9999, 1.0], dtype="<f4")).tolist() == [
        0,
        0,
        500,
        999,
        999,
    ]


def test_p95_is_absent_below_73_requests() -> None:
    few, enough = WindowCounts(), WindowCounts()
    few.latency_ms.add(np.arange(1.0, 73.0))
    enough.latency_ms.add(np.arange(1.0, 74.0))
    assert figures(few).latency_p95_ms is None
    p95 = figures(enough).latency_p95_ms
    assert p95 is not None
    assert abs(p95 - 69) / 69 < 0.01


def test_reported_labels_are_put_into_the_models_terms() -> None:
    classes = ("legit", "fraud")
    assert true_label(True, FRAUD, classes) == "fraud"
    assert true_label("legit", FRAUD, classes) == "legit"
    assert true_label("maybe", FRAUD, classes) is None
    assert true_label(None, FRAUD, classes) is None
    assert true_label(12.5, None, ()) == "12.5"
    assert true_label("high", None, ()) is None
