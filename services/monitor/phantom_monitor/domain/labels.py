"""What a known outcome adds to the window of its prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass

from phantom_monitor.domain.counts import GroupSums, Quality, Regression, WindowCounts, WindowKey
from phantom_statistics.scores import BINS

# Log loss of a probability of 0 would be infinite.
SMALLEST_PROBABILITY = 1e-15
Scalar = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Predicted:
    """A stored row: what was answered, and where it counts."""

    window: WindowKey
    prediction_id: str
    request_id: str
    row: int
    group: int
    label: str | None
    probabilities: tuple[float, ...] | None
    class_labels: tuple[str, ...]
    score: float | None
    value: float | None
    # The label that is counted now, in the model's terms; None where none is.
    counted: str | None


def relabel(row: Predicted, label: str | None) -> WindowCounts | None:
    """What to add to the row's window so that `label` is counted instead of what is counted now; None if nothing."""
    if label == row.counted:
        return None
    change = WindowCounts()
    if row.counted is not None:
        change.merge(_labelled(row, row.counted, -1))
    if label is not None:
        change.merge(_labelled(row, label, 1))
    return change


def _labelled(row: Predicted, label: str, sign: int) -> WindowCounts:
    counts = WindowCounts()
    if row.value is not None:
        error, actual = row.value - float(label), float(label)
        counts.regression = Regression(
            sign,
            sign * error,
            sign * error * error,
            sign * abs(error),
            sign * actual,
            sign * actual * actual,
        )
        counts.groups[row.group] = GroupSums(labelled=sign)
        return counts
    loss = _log_loss(row, label)
    quality = Quality(log_loss_sum=sign * loss, log_loss_squares=sign * loss * loss)
    quality.confusion[row.label or ""] = sign
    if row.score is not None:
        quality.scores[min(int(row.score * BINS), BINS - 1)] = sign
    counts.quality[label] = quality
    counts.groups[row.group] = GroupSums(
        labelled=sign, correct=sign * (row.label == label), log_loss=sign * loss
    )
    return counts


def _log_loss(row: Predicted, label: str) -> float:
    if row.probabilities is None:
        return 0.0
    return -math.log(max(row.probabilities[row.class_labels.index(label)], SMALLEST_PROBABILITY))
