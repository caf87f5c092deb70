"""Several workers' metrics as one: what counters say together never falls, whoever comes and goes.

A worker that ends, or forgets a series, leaves its last numbers behind in the sum. A series that no worker has told
of for an hour is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

FORGET_AFTER_S = 3600.0

Labels = tuple[tuple[str, str], ...]
SampleKey = tuple[str, Labels]
Rule = Literal["sum", "least", "greatest"]

_COUNTED = ("counter", "histogram")
_COMBINE: Mapping[Rule, Callable[[Sequence[float]], float]] = {"sum": sum, "least": min, "greatest": max}
_WORDS: Mapping[Rule, str] = {
    "sum": "sum of the workers",
    "least": "the least of the workers'",
    "greatest": "the greatest of the workers'",
}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric as it is exposed: samples by name and labels, in the order in which they are written."""

    name: str
    kind: str  # counter, histogram, gauge
    help: str
    samples: Mapping[SampleKey, float]


@dataclass(slots=True)
class _Series:
    """The samples of one counter or one histogram."""

    seen_s: float = 0.0
    # Only ever added to: what has been told by workers that are gone is in it, too.
    total: dict[SampleKey, float] = field(default_factory=dict)
    last: dict[str, Mapping[SampleKey, float]] = field(default_factory=dict)

    def take(self, worker: str, samples: Mapping[SampleKey, float]) -> None:
        """Add what the worker has counted since it told last."""
        before = self.last.get(worker, {})
        # Forgotten and begun again between two readings. A histogram's samples only make sense together.
        if any(value < before.get(key, 0.0) for key, value in samples.items()):
            before = {}
        # Sums of sums would fall by a rounding error when a worker goes, which reads like a counter's new beginning.
        for key, value in samples.items():
            self.total[key] = self.total.get(key, 0.0) + (value - before.get(key, 0.0))
        self.last[worker] = samples


class Totals:
    """`rules` says how gauges are combined; those that it does not name are summed."""

    def __init__(self, now_s: Callable[[], float], rules: Mapping[str, Rule]) -> None:
        self._now_s = now_s
        self._rules = rules
        # Name → the family without samples, in the order in which they came first.
        self._known: dict[str, Family] = {}
        # Family → labels (without a bucket's bound) → what was counted.
        self._series: dict[str, dict[Labels, _Series]] = {}
        self._gauges: dict[str, dict[str, Mapping[SampleKey, float]]] = {}

    def take(self, worker: str, families: Iterable[Family]) -> None:
        """What a worker says now, all of it."""
        told: set[tuple[str, Labels]] = set()
        self._gauges[worker] = {}
        for family in families:
            self._known.setdefault(family.name, Family(family.name, family.kind, family.help, {}))
            if family.kind not in _COUNTED:
                self._gauges[worker][family.name] = family.samples
                continue
            for labels, samples in _by_series(family.samples).items():
                told.add((family.name, labels))
                series = self._series.setdefault(family.name, {}).setdefault(labels, _Series())
                series.take(worker, samples)
                series.seen_s = self._now_s()
        self._leave(worker, told)

    def miss(self, worker: str) -> None:
        """It does not answer: what it had counted stays; how it stands is not known."""
        self._gauges.pop(worker, None)

    def bury(self, worker: str) -> None:
        """It has ended; a successor of the same name counts from zero."""
        self.miss(worker)
        self._leave(worker, set())

    def families(self) -> list[Family]:
        """All workers as one."""
        self._forget()
        merged = []
        for known in self._known.values():
            if known.kind in _COUNTED:
                merged.append(replace(known, samples=self._counted(known.name)))
                continue
            words = _WORDS[self._rules.get(known.name, "sum")]
            merged.append(replace(known, help=f"{known.help} ({words})", samples=self._gauge(known.name)))
        return merged

    def _leave(self, worker: str, told: set[tuple[str, Labels]]) -> None:
        """Of this worker nothing more is to come in the series that it has not told of."""
        for name, by_labels in self._series.items():
            for labels, series in by_labels.items():
                if (name, labels) not in told:
                    series.last.pop(worker, None)

    def _forget(self) -> None:
        late = self._now_s() - FORGET_AFTER_S
        for name, by_labels in self._series.items():
            kept = {labels: one for labels, one in by_labels.items() if one.last or one.seen_s > late}
            self._series[name] = kept

    def _counted(self, name: str) -> dict[SampleKey, float]:
        found: dict[SampleKey, float] = {}
        for series in self._series.get(name, {}).values():
            found |= series.total
        return found

    def _gauge(self, name: str) -> dict[SampleKey, float]:
        values: dict[SampleKey, list[float]] = {}
        for gauges in self._gauges.values():
            for key, value in gauges.get(name, {}).items():
                values.setdefault(key, []).append(value)
        combine = _COMBINE[self._rules.get(name, "sum")]
        return {key: combine(each) for key, each in values.items()}


def _by_series(samples: Mapping[SampleKey, float]) -> dict[Labels, dict[SampleKey, float]]:
    """A histogram's buckets, sum and count together."""
    found: dict[Labels, dict[SampleKey, float]] = {}
    for (name, labels), value in samples.items():
        own = tuple(each for each in labels if each[0] != "le") if name.endswith("_bucket") else labels
        found.setdefault(own, {})[name, labels] = value
    return found
