"""A mergeable sketch of latencies (a DDSketch with logarithmic bins), filled in bulk by numpy.

Any quantile it answers is within the relative accuracy of the lower-rank sample quantile. Sketches of the
same accuracy merge by addition, in any order, to the sketch of all values.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

RELATIVE_ACCURACY = 0.005
SMALLEST = 1e-9  # below this a value counts as zero
LARGEST = 1e15
P95_MINIMUM = 73  # below so many values a p95 says nothing: n > z² q / (1 - q) at 95 %


class LatencySketch:
    """Counts of values in logarithmic bins: bin i holds values in (gamma^(i-1), gamma^i]."""

    __slots__ = ("_bins", "_first", "refused", "relative_accuracy", "zeros")

    def __init__(self, relative_accuracy: float = RELATIVE_ACCURACY) -> None:
        if not 0 < relative_accuracy < 1:
            raise ValueError(f"the relative accuracy is a share between 0 and 1, not {relative_accuracy}")
        self.relative_accuracy = relative_accuracy
        self.refused = 0  # values that were no latency: not finite, negative or beyond LARGEST
        self.zeros = 0
        self._first = 0  # index of _bins[0]
        self._bins = np.zeros(0, dtype=np.int64)

    @property
    def count(self) -> int:
        """How many values it holds, the refused ones excluded."""
        return self.zeros + int(self._bins.sum())

    def add(self, values: np.ndarray) -> int:
        """Add values [n] of one unit; returns how many were refused (they are counted, not kept)."""
        values = np.asarray(values, dtype=np.float64).ravel()
        good = values[(values >= 0) & (values <= LARGEST)]  # NaN compares false
        refused = len(values) - len(good)
        self.refused += refused
        positive = good[good >= SMALLEST]
        self.zeros += len(good) - len(positive)
        if len(positive):
            indices = np.ceil(np.log(positive) / self._log_gamma).astype(np.int64)
            first = int(indices.min())
            self._add_bins(first, np.bincount(indices - first))
        return refused

    def merge(self, other: "LatencySketch") -> None:
        """Add the other's counts to this one."""
        if other.relative_accuracy != self.relative_accuracy:
            raise ValueError(f"accuracies differ: {self.relative_accuracy} and {other.relative_accuracy}")
        self.refused += other.refused
        self.zeros += other.zeros
        if len(other._bins):
            self._add_bins(other._first, other._bins)

    def quantile(self, q: float) -> float | None:
        """The lower-rank quantile (numpy's `method="lower"`), to the relative accuracy; None when empty."""
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, not at {q}")
        count = self.count
        if count == 0:
            return None
        rank = math.floor(q * (count - 1))
        if rank < self.zeros:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._bins), rank - self.zeros, side="right"))
        gamma = math.exp(self._log_gamma)
        return 2 * math.exp((self._first + place) * self._log_gamma) / (1 + gamma)

    def edge(self, q: float) -> int | None:
        """The bin that holds the lower-rank quantile, for `count_above`; None when empty."""
        count = self.count
        if count == 0:
            return None
        rank = math.floor(q * (count - 1)) - self.zeros
        if rank < 0:
            return math.floor(math.log(SMALLEST) / self._log_gamma) - 1
        return self._first + int(np.searchsorted(np.cumsum(self._bins), rank, side="right"))

    def edge_of(self, value: float) -> int:
        """The bin that holds a positive value: what lies above it is larger than the value for certain."""
        return math.ceil(math.log(value) / self._log_gamma)

    def edge_value(self, edge: int) -> float:
        """The upper end of a bin."""
        return math.exp(edge * self._log_gamma)

    def count_above(self, edge: int) -> int:
        """How many values lie in bins above the bin `edge`: an exact count, the same edge in every sketch."""
        return int(self._bins[max(0, edge + 1 - self._first) :].sum())

    def p95(self) -> float | None:
        """The 95th percentile, as `quantile` gives it; None below the least count that supports one."""
        return self.quantile(0.95) if self.count >= P95_MINIMUM else None

    def to_dict(self) -> dict[str, Any]:
        """A compact form for JSON: the occupied bins, each index as the distance from the one before."""
        occupied = np.flatnonzero(self._bins)
        steps = np.diff(occupied + self._first, prepend=0)
        return {
            "relative_accuracy": self.relative_accuracy,
            "zeros": self.zeros,
            "refused": self.refused,
            "steps": steps.tolist(),
            "counts": self._bins[occupied].tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LatencySketch":
        """The sketch of `to_dict`; ValueError when it is not one."""
        steps, counts = data["steps"], data["counts"]
        if len(steps) != len(counts) or any(step <= 0 for step in steps[1:]) or any(n <= 0 for n in counts):
            raise ValueError("the bins of the sketch are not ascending positive counts")
        if data["zeros"] < 0 or data["refused"] < 0:
            raise ValueError("the sketch has negative counts")
        sketch = cls(data["relative_accuracy"])
        sketch.zeros, sketch.refused = data["zeros"], data["refused"]
        if steps:
            indices = np.cumsum(np.asarray(steps, dtype=np.int64))
            limit = math.log(LARGEST) / sketch._log_gamma + 1
            if abs(indices[0]) > limit or abs(indices[-1]) > limit:
                raise ValueError("the sketch has bins for values that no sketch holds")
            sketch._first = int(indices[0])
            sketch._bins = np.zeros(int(indices[-1] - indices[0]) + 1, dtype=np.int64)
            sketch._bins[indices - indices[0]] = counts
        return sketch

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LatencySketch) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def _log_gamma(self) -> float:
        return math.log((1 + self.relative_accuracy) / (1 - self.relative_accuracy))

    def _add_bins(self, first: int, counts: np.ndarray) -> None:
        if not len(self._bins):
            self._first, self._bins = first, counts.astype(np.int64)
            return
        low = min(first, self._first)
        high = max(first + len(counts), self._first + len(self._bins))
        if low < self._first or high > self._first + len(self._bins):
            grown = np.zeros(high - low, dtype=np.int64)
            grown[self._first - low : self._first - low + len(self._bins)] = self._bins
            self._first, self._bins = low, grown
        self._bins[first - self._first : first - self._first + len(counts)] += counts
