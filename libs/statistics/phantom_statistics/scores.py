"""A mergeable histogram of scores: 1,000 equal bins over a fixed range, [0, 1] unless said otherwise."""

from collections.abc import Mapping
from typing import Any

import numpy as np

BINS = 1_000


class ScoreHistogram:
    """Counts per bin; the upper end of the range belongs to the last bin; what lies outside is counted."""

    __slots__ = ("above", "below", "counts", "high", "low", "refused")

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise ValueError(f"the range [{low}, {high}] is empty")
        self.low, self.high = low, high
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.below = 0
        self.above = 0
        self.refused = 0  # NaN

    @property
    def count(self) -> int:
        """How many scores it holds, the refused ones excluded."""
        return int(self.counts.sum()) + self.below + self.above

    def add(self, scores: np.ndarray) -> int:
        """Add scores [n]; returns how many were refused because they are no number."""
        scores = np.asarray(scores, dtype=np.float64).ravel()
        inside = scores[(scores >= self.low) & (scores <= self.high)]
        places = ((inside - self.low) / (self.high - self.low) * BINS).astype(np.int64)
        self.counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)
        self.below += int((scores < self.low).sum())
        self.above += int((scores > self.high).sum())
        refused = int(np.isnan(scores).sum())
        self.refused += refused
        return refused

    def merge(self, other: "ScoreHistogram") -> None:
        """Add the other's counts to this one."""
        if (self.low, self.high) != (other.low, other.high):
            raise ValueError(f"ranges differ: [{self.low}, {self.high}] and [{other.low}, {other.high}]")
        self.counts += other.counts
        self.below += other.below
        self.above += other.above
        self.refused += other.refused

    def to_dict(self) -> dict[str, Any]:
        """A compact form for JSON: the occupied bins only."""
        occupied = np.flatnonzero(self.counts)
        return {
            "range": [self.low, self.high],
            "bins": occupied.tolist(),
            "counts": self.counts[occupied].tolist(),
            "below": self.below,
            "above": self.above,
            "refused": self.refused,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ScoreHistogram":
        """The histogram of `to_dict`; ValueError when it is not one."""
        histogram = cls(*data["range"])
        bins, counts = data["bins"], data["counts"]
        if (
            len(bins) != len(counts)
            or any(not 0 <= place < BINS for place in bins)
            or any(n < 0 for n in counts)
        ):
            raise ValueError(f"the histogram's bins are not counts of bins 0 to {BINS - 1}")
        histogram.counts[bins] = counts
        histogram.below, histogram.above, histogram.refused = data["below"], data["above"], data["refused"]
        return histogram

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScoreHistogram) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it changes
