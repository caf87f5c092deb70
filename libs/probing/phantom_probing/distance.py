"""How far two sets of predictions lie apart, 0 to 1: the definition by which rollouts judge, on bare numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from phantom_probing.rows import Numbers
from phantom_statistics.scores import BINS


def distance(mine: Numbers, theirs: Numbers, my_labels: Sequence[str], their_labels: Sequence[str]) -> float:
    """The larger of the largest difference of the scores' distribution functions (on 1,000 bins over [0, 1]) and the
    total variation between the shares of predicted classes. At least one row a side.
    """
    return max(_score_distance(mine, theirs), class_distance(my_labels, their_labels))


def values_distance(mine: Numbers, theirs: Numbers) -> float:
    """Of a regression: the largest difference of the distribution functions."""
    places = np.concatenate([mine, theirs])
    first = np.searchsorted(np.sort(mine), places, side="right") / len(mine)
    second = np.searchsorted(np.sort(theirs), places, side="right") / len(theirs)
    return float(np.abs(first - second).max())


def class_distance(mine: Sequence[str], theirs: Sequence[str]) -> float:
    """Total variation: half the sum of the shares' differences."""
    first, second = Counter(mine), Counter(theirs)
    names = first.keys() | second.keys()
    return sum(abs(first[name] / len(mine) - second[name] / len(theirs)) for name in names) / 2


def _score_distance(mine: Numbers, theirs: Numbers) -> float:
    first, second = (np.bincount(_bins(scores), minlength=BINS) / len(scores) for scores in (mine, theirs))
    return float(np.abs(np.cumsum(first - second)).max())


def _bins(scores: Numbers) -> np.ndarray:
    return np.clip((np.nan_to_num(scores) * BINS).astype(np.int64), 0, BINS - 1)
