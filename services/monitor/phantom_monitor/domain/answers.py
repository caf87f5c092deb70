"""Answers as the gateways logged them, and what they add to windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from phantom_monitor.domain.counts import GroupSums, WindowCounts, WindowKey, window_start
from phantom_statistics.groups import unit_group
from phantom_statistics.scores import BINS

OK, CANCELLED, INVALID_ARGUMENT = 0, 1, 3
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


@dataclass(slots=True)
class Row:
    """One row's answer: a class label and probabilities, or a number."""

    label: str | None
    probabilities: list[float] | None
    score: float | None
    value: float | None
    class_labels: tuple[str, ...] = ()


@dataclass(slots=True)
class Answer:
    """One record of kind `answer`: a call, or (row_offset > 0) a further part of one."""

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
    latencies: dict[WindowKey, list[float]] = {}
    for answer in answers:
        key = answer.key(answer.assigned, answer.answered_us)
        counts = windows.setdefault(key, WindowCounts())
        if answer.row_offset == 0:
            _count_call(answer, counts)
            _count_attempts(answer, windows)
            if answer.status == OK:
                latencies.setdefault(key, []).append((answer.answered_us - answer.received_us) / 1000)
        if answer.status == OK:
            _count_rows(answer, counts)
    for key, values in latencies.items():
        windows[key].latency_ms.add(np.asarray(values))
    return windows


def _count_call(answer: Answer, counts: WindowCounts) -> None:
    counts.requests += 1
    group = counts.groups.setdefault(answer.group, GroupSums())
    group.requests += 1
    if answer.status == OK:
        counts.answered += 1
        counts.fallbacks += answer.served != answer.assigned
    elif answer.status == INVALID_ARGUMENT:
        counts.rejected_inputs += 1
    if any(revision == answer.assigned and code in CHARGED for revision, code in _attempts(answer)):
        group.failures += 1


def _attempts(answer: Answer) -> list[tuple[str, int]]:
    """Every attempt of a call: those that failed before, and the one that ended it (revision, gRPC code)."""
    last = [] if answer.status == CANCELLED else [(answer.served or answer.assigned, answer.status)]
    return [*answer.failed, *last]


def _count_attempts(answer: Answer, windows: dict[WindowKey, WindowCounts]) -> None:
    for revision, code in _attempts(answer):
        counts = windows.setdefault(answer.key(revision, answer.answered_us), WindowCounts())
        counts.attempts += 1
        counts.failed_attempts += code in CHARGED


def _count_rows(answer: Answer, counts: WindowCounts) -> None:
    counts.rows += answer.rows
    block = answer.block
    if block is None:
        return
    rows = slice(answer.block_row, answer.block_row + answer.rows)
    if block.labels is not None:
        for index in block.labels[rows].tolist():
            label = block.class_labels[index]
            counts.classes[label] = counts.classes.get(label, 0) + 1
    if block.scores is not None:
        for place in score_bins(block.scores[rows]).tolist():
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
