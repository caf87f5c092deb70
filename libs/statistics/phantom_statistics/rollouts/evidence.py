"""Sums of windows, one revision each, and how they pair up: all that a verdict reads.

Everything merges by addition, so a step is the sum of its windows whatever their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phantom_statistics.groups import GROUPS
from phantom_statistics.latency import LatencySketch
from phantom_statistics.rollouts.packing import SLOW_BINS, pack, unpack
from phantom_statistics.scores import BINS

FIELDS = ("requests", "failures", "rejected", "labelled", "correct", "log_loss")
REQUESTS, FAILURES, REJECTED, LABELLED, CORRECT, LOG_LOSS = range(len(FIELDS))


def _no_groups() -> NDArray[np.float64]:
    return np.zeros((GROUPS, len(FIELDS)))


def _no_slow() -> NDArray[np.int64]:
    return np.zeros((GROUPS, SLOW_BINS), dtype=np.int64)


def _no_scores() -> NDArray[np.int64]:
    return np.zeros(BINS, dtype=np.int64)


@dataclass(slots=True, eq=False)
class Sums:
    """What one revision did in some windows."""

    groups: NDArray[np.float64] = field(default_factory=_no_groups)  # [64 unit groups, FIELDS]
    # [64 unit groups, 64]: calls answered OK by latency, bin i holds [2^(i/2), 2^((i+1)/2)) ms, clipped to 0..63
    slow: NDArray[np.int64] = field(default_factory=_no_slow)
    latency: LatencySketch = field(default_factory=LatencySketch)  # ms, of calls answered OK
    classes: dict[str, int] = field(default_factory=dict)  # predicted class → rows
    scores: NDArray[np.int64] = field(default_factory=_no_scores)  # [1000] equal bins of [0, 1], rows
    rows: int = 0

    @classmethod
    def of_window(cls, window: Any) -> Sums:
        """The sums of one published window, as an event or as its plain mapping."""
        sums = cls(classes=dict(_read(window, "classes", {})), rows=int(_read(window, "rows", 0)))
        for number, group in _read(window, "groups", {}).items():
            _read_group(sums, int(number), group)
        for place, count in _read(window, "scores", {}).items():
            if not 0 <= int(place) < BINS:
                raise ValueError(f"a window has score bin {place}; bins are 0 to {BINS - 1}")
            sums.scores[int(place)] += count
        sketch = _read(window, "latency_ms")
        if sketch is not None:
            sums.latency = LatencySketch.from_dict(_plain_sketch(sketch))
        return sums

    @classmethod
    def total(cls, many: Iterable[Sums]) -> Sums:
        """The sum of all of them, a new object."""
        whole = cls()
        for each in many:
            whole.merge(each)
        return whole

    def merge(self, other: Sums) -> None:
        """Add the other's."""
        self.groups += other.groups
        self.slow += other.slow
        self.latency.merge(other.latency)
        for name, count in other.classes.items():
            self.classes[name] = self.classes.get(name, 0) + count
        self.scores += other.scores
        self.rows += other.rows

    @property
    def requests(self) -> int:
        """Calls."""
        return int(self.groups[:, REQUESTS].sum())

    def to_bytes(self) -> bytes:
        """A compact form (a 5 s window takes a few kB); `from_bytes` is its inverse."""
        return pack(self.groups, self.slow, self.latency.to_dict(), self.classes, self.scores, self.rows)

    @classmethod
    def from_bytes(cls, data: bytes) -> Sums:
        """The sums of `to_bytes`; ValueError when they are not."""
        groups, slow, latency, classes, scores, rows = unpack(data)
        return cls(groups, slow, LatencySketch.from_dict(latency), classes, scores, rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sums) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]  # it changes


@dataclass(slots=True)
class Pair:
    """Both revisions over the same windows."""

    control: Sums
    candidate: Sums

    @classmethod
    def empty(cls) -> Pair:
        """Nothing yet."""
        return cls(Sums(), Sums())

    def merge(self, other: Pair) -> None:
        """Add the other's."""
        self.control.merge(other.control)
        self.candidate.merge(other.candidate)


@dataclass(slots=True)
class StepEvidence:
    """One step below 100 %: what was seen so far, and the part of it whose outcomes are matured."""

    step: int
    operational: Pair
    matured: Pair


def _read(value: Any, name: str, default: Any = None) -> Any:
    if isinstance(value, Mapping):
        return value.get(name, default)
    return getattr(value, name, default)


def _read_group(sums: Sums, number: int, group: Any) -> None:
    if not 0 <= number < GROUPS:
        raise ValueError(f"a window names unit group {number}; groups are 0 to {GROUPS - 1}")
    sums.groups[number] += [_read(group, name, 0) for name in FIELDS]
    for place, count in _read(group, "latency", {}).items():
        sums.slow[number, min(max(int(place), 0), SLOW_BINS - 1)] += count


def _plain_sketch(sketch: Any) -> Mapping[str, Any]:
    if isinstance(sketch, Mapping):
        return sketch
    names = ("relative_accuracy", "zeros", "refused", "steps", "counts")
    return {name: getattr(sketch, name) for name in names}
