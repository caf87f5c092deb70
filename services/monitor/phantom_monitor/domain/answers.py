"""Answers as the gateways logged them, and what they add to windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from phantom_monitor.domain.counts import GroupSums, WindowCounts, WindowKey, latency_bins, window_start
from phantom_statistics.groups import unit_group
from phantom_statistics.scores import BINS

OK, CANCELLED, INVALID_ARGUMENT = 0, 1, 3
# Decision and arm of what a shadow revision answered: nobody got it.
SHADOW = "shadow"
# Codes that are charged to a revision: unknown, deadline exceeded, internal, unavailable.
CHARGED = frozenset({2, 4, 13, 14})


@dataclass(slots=True)
class Block:
    """Rows of outputs as arrays. `labels` is None for regression, `values` for classification."""

    class_labels: tuple[str, ...]
    labels: np.ndarray | None  # int32 [rows]
    probabilities: np.ndarray | None  # float32 [rows, classes]
    scores: np.ndarray | None  # float32 [rows]
    values: np.ndarray | None  # float64 [rows]
    # Made when first asked for, once for all records of a batch that share the block.
    _row_labels: list[str] | None = None
    _row_bins: list[int] | None = None

    def row_labels(self) -> list[str]:
        """Each row's label; empty for regression."""
        if self._row_labels is None:
            indexes = [] if self.labels is None else self.labels.tolist()
            self._row_labels = [self.class_labels[index] for index in indexes]
        return self._row_labels

    def row_bins(self) -> list[int]:
        """Each row's score bin; empty where there are no scores."""
        if self._row_bins is None:
            self._row_bins = [] if self.scores is None else score_bins(self.scores).tolist()
        return self._row_bins


@dataclass(slots=True)
class Row:
    """One row's answer: a class label and probabilities, or a number."""

    label: str | None
    probabilities: list[float] | None
    score: float | None
    value: float | None
    class_labels: tuple[str, ...] = ()

    def columns(self) -> tuple[str | None, list[str], list[float] | None, float | None, float | None]:
        """As the tables have it: label, class labels, probabilities, score, value."""
        return self.label, list(self.class_labels), self.probabilities, self.score, self.value


@dataclass(slots=True)
class Answer:
    """One record: a call, or (row_offset > 0) a further part of one; with decision `shadow`, a copy's answer."""

    workspace: str
    endpoint: str
    prediction_id: bytes
    request_id: str
    unit: str
    assigned: str
    served: str
    arm: str
    decision: str
    route_version: int
    status: int
    received_us: int
    answered_us: int
    rows: int
    row_offset: int
    block: Block | None
    block_row: int
    failed: list[tuple[str, int]]  # attempts before the one that ended the call: (revision, gRPC code)

    @property
    def group(self) -> int:
        """The unit's group; a call without a unit is a unit of its own."""
        return unit_group(self.unit or self.prediction_id.hex())

    def row_answers(self) -> Iterator[Row]:
        """Its rows' answers; none where the call failed."""
        if self.block is None or self.status != OK:
            return
        for i in range(self.block_row, self.block_row + self.rows):
            yield _row(self.block, i)

    def key(self, revision: str, time_us: int) -> WindowKey:
        """The window of a revision that holds a time."""
        return WindowKey(
            self.workspace,
            self.endpoint,
            revision,
            self.arm,
            self.decision,
            self.route_version,
            "",
            window_start(time_us),
        )


def tally(answers: Iterable[Answer]) -> dict[WindowKey, WindowCounts]:
    """What answers add to the windows of their answer times.

    Requests, latency and rows count under the assigned revision, attempts under the one that made them.
    """
    windows: dict[WindowKey, WindowCounts] = {}
    latencies: dict[WindowKey, tuple[list[float], list[GroupSums]]] = {}
    for answer in answers:
        key = answer.key(answer.assigned, answer.answered_us)
        counts = windows.get(key)
        if counts is None:
            counts = windows[key] = WindowCounts()
        if answer.row_offset == 0:
            group = _count_call(answer, counts)
            _count_attempts(answer, key, windows)
            if answer.status == OK:
                values, groups = latencies.setdefault(key, ([], []))
                values.append((answer.answered_us - answer.received_us) / 1000)
                groups.append(group)
        if answer.status == OK:
            _count_rows(answer, counts)
    for key, (values, groups) in latencies.items():
        found = np.asarray(values)
        windows[key].latency_ms.add(found)
        for group, place in zip(groups, latency_bins(found).tolist(), strict=True):
            group.latency[place] = group.latency.get(place, 0) + 1
    return windows


def _count_call(answer: Answer, counts: WindowCounts) -> GroupSums:
    """Count a call; returns the sums of its unit's group."""
    counts.requests += 1
    number = answer.group
    group = counts.groups.get(number)
    if group is None:
        group = counts.groups[number] = GroupSums()
    group.requests += 1
    if answer.status == OK:
        counts.answered += 1
        counts.fallbacks += answer.served != answer.assigned
    elif answer.status == INVALID_ARGUMENT:
        counts.rejected_inputs += 1
        group.rejected += 1
    if any(revision == answer.assigned and code in CHARGED for revision, code in _attempts(answer)):
        group.failures += 1
    return group


def _attempts(answer: Answer) -> list[tuple[str, int]]:
    """Every attempt of a call: those that failed before, and the one that ended it (revision, gRPC code)."""
    last = [] if answer.status == CANCELLED else [(answer.served or answer.assigned, answer.status)]
    return [*answer.failed, *last]


def _count_attempts(answer: Answer, own: WindowKey, windows: dict[WindowKey, WindowCounts]) -> None:
    for revision, code in _attempts(answer):
        key = own if revision == answer.assigned else answer.key(revision, answer.answered_us)
        counts = windows.setdefault(key, WindowCounts()) if key is not own else windows[own]
        counts.attempts += 1
        counts.failed_attempts += code in CHARGED


def _count_rows(answer: Answer, counts: WindowCounts) -> None:
    counts.rows += answer.rows
    block = answer.block
    if block is None:
        return
    rows = slice(answer.block_row, answer.block_row + answer.rows)
    for label in block.row_labels()[rows]:
        counts.classes[label] = counts.classes.get(label, 0) + 1
    for place in block.row_bins()[rows]:
        counts.scores[place] = counts.scores.get(place, 0) + 1


def score_bins(scores: np.ndarray) -> np.ndarray:
    """The bin, 0 to 999, of each score in [0, 1]."""
    return np.clip((scores.astype(np.float64) * BINS).astype(np.int64), 0, BINS - 1)


def _row(block: Block, i: int) -> Row:
    return Row(
        label=block.class_labels[int(block.labels[i])] if block.labels is not None else None,
        probabilities=block.probabilities[i].tolist() if block.probabilities is not None else None,
        score=float(block.scores[i]) if block.scores is not None else None,
        value=float(block.values[i]) if block.values is not None else None,
        class_labels=block.class_labels,
    )
