"""What a window counts. Everything merges by addition; taking back a label is adding its negative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from phantom_statistics.latency import LatencySketch

WINDOW_S = 5
WINDOW_US = WINDOW_S * 1_000_000


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
    """Sums of one unit group."""

    requests: int = 0
    failures: int = 0
    labelled: int = 0
    correct: int = 0

    def merge(self, other: GroupSums) -> None:
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
        content["groups"] = {str(number): _slots(sums) for number, sums in self.groups.items()}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> WindowCounts:
        """The inverse of `to_dict`."""
        regression = content["regression"]
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
            groups={int(number): GroupSums(**sums) for number, sums in content["groups"].items()},
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
