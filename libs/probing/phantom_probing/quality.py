"""How right the answers are: against known labels or values, and of two models on the same rows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log, sqrt

import numpy as np
import numpy.typing as npt
from scipy import special

from phantom_platform.errors import Invalid
from phantom_probing.rows import Numbers
from phantom_statistics.intervals import wilson

CONFIDENCE = 0.95
SMALLEST_PROBABILITY = 1e-15
"""As in the monitor: the log loss of a probability of 0 would be infinite."""


@dataclass(frozen=True)
class ClassCounts:
    """Rows of one class."""

    expected: int
    predicted: int
    correct: int


@dataclass(frozen=True)
class Classification:
    """`lower` and `upper` are the ends of accuracy's 95 % Wilson interval."""

    rows: int
    correct: int
    accuracy: float
    lower: float
    upper: float
    log_loss: float | None  # None where no probabilities were answered
    classes: dict[str, ClassCounts] = field(default_factory=dict)


@dataclass(frozen=True)
class Regression:
    """In the unit of the values; `r2` is None where the actual values do not differ."""

    rows: int
    mae: float
    rmse: float
    r2: float | None


@dataclass(frozen=True)
class Difference:
    """Candidate minus other, on the same rows: mean and interval."""

    rows: int
    estimate: float
    lower: float
    upper: float


def classification(
    expected: Sequence[str],
    labels: Sequence[str],
    probabilities: npt.NDArray[np.float32] | None = None,
    class_labels: Sequence[str] = (),
) -> Classification:
    """Of labels against what was expected. Probabilities [rows, classes] in the order of `class_labels`."""
    _check_rows(len(expected), len(labels))
    hits = np.fromiter((a == b for a, b in zip(expected, labels, strict=True)), dtype=bool)
    correct = int(hits.sum())
    interval = wilson(correct, len(hits), CONFIDENCE)
    counts = {
        label: ClassCounts(
            expected=expected.count(label),
            predicted=labels.count(label),
            correct=sum(a == b == label for a, b in zip(expected, labels, strict=True)),
        )
        for label in class_labels or sorted({*expected, *labels})
    }
    loss = None if probabilities is None else float(log_losses(expected, probabilities, class_labels).mean())
    return Classification(
        len(hits), correct, correct / len(hits), interval.lower, interval.upper, loss, counts
    )


def log_losses(
    expected: Sequence[str], probabilities: npt.NDArray[np.float32], class_labels: Sequence[str]
) -> Numbers:
    """[rows], natural logarithm. Invalid `unknown_class` where an expected label is none of the model's."""
    places = {label: place for place, label in enumerate(class_labels)}
    unknown = sorted({label for label in expected if label not in places})
    if unknown:
        raise Invalid(
            f"the labels {', '.join(map(repr, unknown[:5]))} are not classes of the model, which has "
            f"{', '.join(class_labels)}",
            code="unknown_class",
        )
    chosen = probabilities[np.arange(len(expected)), [places[label] for label in expected]]
    return -np.log(np.maximum(chosen.astype(np.float64), SMALLEST_PROBABILITY))


def log_loss_of(probability: float) -> float:
    """Of one row, by the probability of its true class."""
    return -log(max(probability, SMALLEST_PROBABILITY))


def regression(expected: Numbers, values: Numbers) -> Regression:
    """Of values against what was expected."""
    _check_rows(len(expected), len(values))
    errors = values - expected
    spread = float(((expected - expected.mean()) ** 2).sum())
    squares = float((errors**2).sum())
    return Regression(
        rows=len(errors),
        mae=float(np.abs(errors).mean()),
        rmse=sqrt(squares / len(errors)),
        r2=1 - squares / spread if spread > 0 else None,
    )


def paired_shares(
    candidate: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], confidence: float = CONFIDENCE
) -> Difference:
    """The difference of two shares (of right answers, say) on the same rows.

    The estimate is the sample's; the interval is Bonett and Price's (2012) adjusted Wald interval for paired
    proportions, which keeps its level down to a few rows and has a width even where all answers agree.
    """
    _check_rows(len(candidate), len(other))
    rows = len(candidate)
    only_candidate, only_other = int((candidate & ~other).sum()), int((~candidate & other).sum())
    gained, lost = (only_candidate + 1) / (rows + 2), (only_other + 1) / (rows + 2)
    half = _z(confidence) * sqrt((gained + lost - (gained - lost) ** 2) / (rows + 2))
    centre = gained - lost
    return Difference(
        rows, (only_candidate - only_other) / rows, max(-1.0, centre - half), min(1.0, centre + half)
    )


def paired_means(candidate: Numbers, other: Numbers, confidence: float = CONFIDENCE) -> Difference:
    """The difference of two means (of log losses, say) on the same rows, with Student's interval."""
    _check_rows(len(candidate), len(other))
    differences = candidate - other
    rows, estimate = len(differences), float(differences.mean())
    if rows < 2:
        return Difference(rows, estimate, float("-inf"), float("inf"))
    quantile = float(special.stdtrit(rows - 1, 1 - (1 - confidence) / 2))
    half = quantile * float(differences.std(ddof=1)) / sqrt(rows)
    return Difference(rows, estimate, estimate - half, estimate + half)


def _z(confidence: float) -> float:
    return float(special.ndtri(1 - (1 - confidence) / 2))


def _check_rows(rows: int, others: int) -> None:
    if rows != others:
        raise ValueError(f"{rows} rows cannot be compared with {others}")
    if not rows:
        raise Invalid("there is no row to judge by", code="no_rows")
