"""What a window counts. Everything merges by addition; taking back a label is adding its negative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from phantom_statistics.latency import LatencySketch

WINDOW_S = 5
WINDOW_US = WINDOW_S * 1_000_000
LATENCY_BINS = 64


class WindowKey(NamedTuple):
    """Which window: 5 s from `start_s` (unix seconds) of one endpoint × revision × arm × decision × route version."""

    workspace: str
    endpoint: str
    revision: str
    arm: str
    decision: str
    route_version: int
    segment: str
    start_s: int


def window_start(time_us: int) -> int:
    """The start, unix seconds, of the window that holds a time in unix microseconds."""
    return time_us // WINDOW_US * WINDOW_S


def latency_bins(latencies_ms: np.ndarray) -> np.ndarray:
    """Of each latency the bin i, 0 to 63, that holds it: [2^(i/2), 2^((i+1)/2)) ms; what is below 1 ms is in bin 0."""
    above = np.fmax(latencies_ms, 1.0)
    bins: np.ndarray = np.minimum((2 * np.log2(above)).astype(np.int64), LATENCY_BINS - 1)
    return bins


@dataclass(slots=True)
class Quality:
    """Rows of one true label: score bins, log loss, and what was predicted."""

    scores: dict[int, int] = field(default_factory=dict)
    log_loss_sum: float = 0.0
    log_loss_squares: float = 0.0
    confusion: dict[str, int] = field(default_factory=dict)

    def merge(self, other: Quality) -> None:
        """Add the other's."""
        _add(self.scores, other.scores)
        _add(self.confusion, other.confusion)
        self.log_loss_sum += other.log_loss_sum
        self.log_loss_squares += other.log_loss_squares


@dataclass(slots=True)
class Regression:
    """Sums over labelled rows; the error is prediction minus actual."""

    count: int = 0
    error: float = 0.0
    error_squares: float = 0.0
    error_absolute: float = 0.0
    actual: float = 0.0
    actual_squares: float = 0.0

    def merge(self, other: Regression) -> None:
        """Add the other's."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class GroupSums:
    """Sums of one unit group. `latency`: calls answered OK by `latency_bins`."""

    requests: int = 0
    failures: int = 0
    rejected: int = 0
    labelled: int = 0
    correct: int = 0
    log_loss: float = 0.0
    latency: dict[int, int] = field(default_factory=dict)

    def merge(self, other: GroupSums) -> None:
        """Add the other's."""
        self.requests += other.requests
        self.failures += other.failures
        self.rejected += other.rejected
        self.labelled += other.labelled
        self.correct += other.correct
        self.log_loss += other.log_loss
        if other.latency:
            _add(self.latency, other.latency)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is 0 is left out, since a window has up to 64 of these."""
        content: dict[str, Any] = {name: value for name in _GROUP_SUMS if (value := getattr(self, name))}
        if self.latency:
            content["latency"] = _text_keys(self.latency)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> GroupSums:
        """The inverse of `to_dict`; windows stored before a sum was thought of have none of it."""
        sums = cls(**content)
        sums.latency = _number_keys(content["latency"]) if "latency" in content else {}
        return sums


_GROUP_SUMS = ("requests", "failures", "rejected", "labelled", "correct", "log_loss")


@dataclass(slots=True)
class Agreement:
    """Rows of a shadow revision beside the answers; `difference`: shadow's score or value minus the answer's."""

    compared: int = 0
    agreed: int = 0
    difference: float = 0.0
    difference_squares: float = 0.0
    difference_absolute: float = 0.0

    def merge(self, other: Agreement) -> None:
        """Add the other's."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_SCALARS = (
    "requests",
    "answered",
    "attempts",
    "failed_attempts",
    "rejected_inputs",
    "fallbacks",
    "rows",
)


@dataclass(slots=True)
class WindowCounts:
    """The content of a window, in the terms of `WindowPublished`."""

    requests: int = 0
    answered: int = 0
    attempts: int = 0
    failed_attempts: int = 0
    rejected_inputs: int = 0
    fallbacks: int = 0
    rows: int = 0
    latency_ms: LatencySketch = field(default_factory=LatencySketch)
    classes: dict[str, int] = field(default_factory=dict)
    scores: dict[int, int] = field(default_factory=dict)
    quality: dict[str, Quality] = field(default_factory=dict)
    regression: Regression | None = None
    groups: dict[int, GroupSums] = field(default_factory=dict)
    agreement: Agreement | None = None

    def merge(self, other: WindowCounts) -> None:
        """Add the other's."""
        for name in _SCALARS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latency_ms.merge(other.latency_ms)
        _add(self.classes, other.classes)
        _add(self.scores, other.scores)
        for label, quality in other.quality.items():
            self.quality.setdefault(label, Quality()).merge(quality)
        if other.regression is not None:
            self.regression = self.regression or Regression()
            self.regression.merge(other.regression)
        for number, sums in other.groups.items():
            self.groups.setdefault(number, GroupSums()).merge(sums)
        if other.agreement is not None:
            self.agreement = self.agreement or Agreement()
            self.agreement.merge(other.agreement)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the fields of `WindowPublished`."""
        content: dict[str, Any] = {name: getattr(self, name) for name in _SCALARS}
        content["latency_ms"] = self.latency_ms.to_dict()
        content["classes"], content["scores"] = self.classes, _text_keys(self.scores)
        content["quality"] = {
            label: {
                "scores": _text_keys(q.scores),
                "log_loss_sum": q.log_loss_sum,
                "log_loss_squares": q.log_loss_squares,
                "confusion": q.confusion,
            }
            for label, q in self.quality.items()
            if q.confusion
        }
        content["regression"] = _slots(self.regression) if self.regression else None
        content["groups"] = {str(number): sums.to_dict() for number, sums in self.groups.items()}
        if self.agreement is not None:
            content["agreement"] = _slots(self.agreement)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> WindowCounts:
        """The inverse of `to_dict`."""
        regression, agreement = content["regression"], content.get("agreement")
        return cls(
            **{name: content[name] for name in _SCALARS},
            latency_ms=LatencySketch.from_dict(content["latency_ms"]),
            classes=dict(content["classes"]),
            scores=_number_keys(content["scores"]),
            quality={
                label: Quality(
                    _number_keys(q["scores"]), q["log_loss_sum"], q["log_loss_squares"], dict(q["confusion"])
                )
                for label, q in content["quality"].items()
            },
            regression=Regression(**regression) if regression else None,
            groups={int(number): GroupSums.from_dict(sums) for number, sums in content["groups"].items()},
            agreement=Agreement(**agreement) if agreement else None,
        )


def _add(into: dict[Any, int], other: Mapping[Any, int]) -> None:
    for key, count in other.items():
        total = into.get(key, 0) + count
        if total:
            into[key] = total
        else:
            into.pop(key, None)


def _slots(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def _text_keys(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(key): count for key, count in counts.items()}


def _number_keys(counts: Mapping[str, int]) -> dict[int, int]:
    return {int(key): count for key, count in counts.items()}
