"""Rows that put two ways of walking the same trees to the test: every leaf, every side of every threshold.

Rows drawn at random seldom reach a deep leaf and never hit a threshold. So each row is made for one leaf: the
features on its path lie on the path's bounds, just beside them, or are missing where the path allows it; the others
hold thresholds of other trees, values beside them, anything, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from phantom_runtimes.model import Float32
from phantom_runtimes.xgboost_trees import Forest, Places

AT_LEAST = 10_000
MOST_LEAVES = 20_000
"""Of a larger forest so many leaves are drawn."""
CHUNK = 1_000
CHUNK_VALUES = 200_000
"""Rows and values made at a time; several candidates for each are held at once."""

_LOWEST = np.finfo(np.float32).min
_BELOW, _ABOVE = np.float32(-np.inf), np.float32(np.inf)


def rows(forest: Forest, random: np.random.Generator) -> Iterator[Float32]:
    """Chunks [some, features] of at least AT_LEAST rows in all; NaN is missing, nothing is infinite."""
    leaves = random.permutation(np.flatnonzero(forest.is_leaf))[:MOST_LEAVES]
    leaves = np.resize(leaves, max(AT_LEAST, len(leaves)))
    cuts = _Cuts(forest)
    size = max(1, min(CHUNK, CHUNK_VALUES // forest.features))
    for start in range(0, len(leaves), size):
        chunk = leaves[start : start + size]
        matrix = cuts.anything(len(chunk), random)
        _lead(forest, chunk, matrix, random)
        yield np.clip(matrix, _LOWEST, -_LOWEST)


class _Cuts:
    """Each feature's thresholds."""

    def __init__(self, forest: Forest) -> None:
        inner = ~forest.is_leaf
        order = np.lexsort((forest.values[inner], forest.feature[inner]))
        self._values = np.concatenate([forest.values[inner][order], np.zeros(1, dtype=np.float32)])
        self._counts = np.bincount(forest.feature[inner], minlength=forest.features)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])

    def anything(self, count: int, random: np.random.Generator) -> Float32:
        """[count, features] of thresholds, their neighbours, values between and beyond, zeros and missing ones."""
        shape = (count, len(self._counts))
        drawn = self._starts + (random.random(shape) * self._counts).astype(np.int64)
        cut = np.where(self._counts, self._values[np.minimum(drawn, len(self._values) - 1)], np.float32(0))
        noise = random.normal(size=shape).astype(np.float32)
        with np.errstate(over="ignore"):
            choices = (
                cut,
                np.nextafter(cut, _BELOW),
                np.nextafter(cut, _ABOVE),
                np.nan_to_num(cut + noise),
                np.nan_to_num(cut * (1 + noise)),
                noise,
                np.full(shape, np.nan, dtype=np.float32),
            )
        return _picked(choices, random)


def _lead(forest: Forest, leaves: Places, matrix: Float32, random: np.random.Generator) -> None:
    """Change row i so that it reaches leaf i. In place."""
    low = np.full(matrix.shape, _BELOW)  # at least this
    high = np.full(matrix.shape, _ABOVE)  # below this
    may_miss = np.ones(matrix.shape, dtype=bool)
    at, row = leaves, np.arange(len(leaves))
    while True:
        above = forest.parent[at]
        row, at, above = row[above >= 0], at[above >= 0], above[above >= 0]
        if not len(at):
            break
        place = (row, forest.feature[above])
        is_left = forest.left[above] == at
        cut = forest.values[above]
        high[place] = np.where(is_left, np.minimum(high[place], cut), high[place])
        low[place] = np.where(is_left, low[place], np.maximum(low[place], cut))
        may_miss[place] &= forest.missing_left[above] == is_left
        at = above
    bound = np.isfinite(low) | np.isfinite(high)
    low, high = low[bound], high[bound]
    lowest = np.where(np.isfinite(low), low, np.nextafter(high, _BELOW))
    highest = np.where(np.isfinite(high), np.nextafter(high, _BELOW), low)
    missing = np.where(may_miss[bound], np.float32(np.nan), lowest)
    share = random.random(low.shape, dtype=np.float32)
    middle: Float32 = np.clip(lowest * (1 - share) + highest * share, lowest, highest)
    matrix[bound] = _picked((lowest, highest, middle, missing), random)


def _picked(choices: tuple[npt.NDArray[np.float32], ...], random: np.random.Generator) -> Float32:
    """One of the choices at each place."""
    return np.choose(random.integers(0, len(choices), choices[0].shape), choices)
