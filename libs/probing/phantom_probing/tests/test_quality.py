"""Quality figures, checked against arithmetic and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from phantom_platform.errors import Invalid
from phantom_probing import quality


def test_accuracy_has_its_interval_log_loss_and_counts_by_class() -> None:
    expected, labels = ["a", "a", "b", "b"], ["a", "b", "b", "b"]
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.0, 1.0], [0.2, 0.8]], dtype=np.float32)
    found = quality.classification(expected, labels, probabilities, ("a", "b"))
    assert (found.rows, found.correct, found.accuracy) == (4, 3, 0.75)
    assert (found.lower, found.upper) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.4, 1.0, 0.8]).mean(), abs=1e-6)
    assert found.classes == {"a": quality.ClassCounts(2, 1, 1), "b": quality.ClassCounts(2, 3, 2)}


def test_a_certain_wrong_answer_has_a_finite_log_loss() -> None:
    found = quality.classification(["a"], ["b"], np.array([[0.0, 1.0]], dtype=np.float32), ("a", "b"))
    assert found.log_loss == pytest.approx(-np.log(1e-15))


def test_a_label_that_the_model_does_not_know_is_named() -> None:
    with pytest.raises(Invalid, match="'maybe'") as error:
        quality.log_losses(["maybe"], np.ones((1, 2), dtype=np.float32), ("a", "b"))
    assert error.value.code == "unknown_class"


def test_regression_figures() -> None:
    found = quality.regression(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 3.0]))
    assert (found.mae, found.rmse, found.r2) == pytest.approx((1 / 3, (1 / 3) ** 0.5, 0.5))
    assert quality.regression(np.ones(2), np.zeros(2)).r2 is None


def test_nothing_is_judged_on_no_rows() -> None:
    with pytest.raises(Invalid) as error:
        quality.classification([], [])
    assert error.value.code == "no_rows"


def test_a_paired_difference_knows_how_sure_it_is() -> None:
    candidate = np.array([True] * 95 + [False] * 5)
    other = np.array([True] * 85 + [False] * 15)
    found = quality.paired_shares(candidate, other)
    assert found.estimate == pytest.approx(0.1)
    assert 0 < found.lower < 0.1 < found.upper
    same = quality.paired_shares(candidate, candidate)
    assert same.estimate == 0
    assert -0.05 < same.lower < 0 < same.upper < 0.05


@pytest.mark.parametrize(("both", "rows"), [(0.8, 40), (0.9, 200), (0.6, 1000)])
def test_paired_intervals_hold_the_true_difference_about_as_often_as_they_say(both: float, rows: int) -> None:
    random = np.random.default_rng(5)
    gained, lost = 0.06, 0.03
    held = 0
    for _ in range(1000):
        kinds = random.choice(4, rows, p=[both, gained, lost, 1 - both - gained - lost])
        found = quality.paired_shares(kinds <= 1, (kinds == 0) | (kinds == 2))
        held += found.lower <= gained - lost <= found.upper
    assert held >= 930


def test_paired_means_are_students() -> None:
    found = quality.paired_means(np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0]))
    assert found.estimate == 1.0
    assert (found.lower, found.upper) == pytest.approx((1 - 2.4841, 1 + 2.4841), abs=1e-3)
    assert quality.paired_means(np.ones(1), np.zeros(1)).upper == float("inf")
