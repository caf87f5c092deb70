"""Do two runtimes answer alike, and up to how many rows is the second one sooner? Both found out, not assumed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Protocol

import numpy as np

from phantom_runtimes.model import Float32, Predictions

PROBABILITY = 1e-5
"""Largest difference of a probability; of a value, relative to it or to the median, whichever is larger."""
MARGIN = 4 * PROBABILITY
"""Largest difference of a margin, relative above 1. A probability changes by a quarter of it at most,
so one that is near 0 or 1 on the rows tried does not hide a leaf that differs."""
SIZES = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)
"""Rows in one run while proving: a runtime sums few rows by other code than many."""
MOST_ROWS = 256
REPEATS = 4
BUDGET_S = 5.0


class Runtime(Protocol):
    """One way of running a model."""

    def predict(self, matrix: Float32) -> Predictions:
        """Answers for [rows, features]."""
        ...

    def margins(self, matrix: Float32) -> Float32:
        """What the trees sum up to, [rows, groups]."""
        ...


class Derived(Runtime, Protocol):
    """One that makes its answers from the margins."""

    def answers(self, margins: Float32) -> Predictions:
        """Answers for [rows, groups]."""
        ...


class DisagreementError(Exception):
    """The runtimes were not shown to agree; the message says how."""


def prove(one: Runtime, other: Derived, chunks: Iterable[Float32], most_rows: int) -> int:
    """Rows compared. DisagreementError where labels, probabilities, values or margins differ by more than allowed.

    `other` is run on pieces of at most `most_rows`.
    """
    sizes = [size for size in SIZES if size < most_rows] + [most_rows]
    until = time.monotonic() + BUDGET_S
    rows = 0
    for chunk in chunks:
        margins = np.concatenate([other.margins(piece) for piece in _pieces(chunk, sizes)])
        _compare(one.predict(chunk), other.answers(margins))
        _check_margins(one.margins(chunk), margins)
        rows += len(chunk)
        if time.monotonic() > until:
            raise DisagreementError(f"not proved: {rows} rows took longer than {BUDGET_S:g} s")
    return rows


def _compare(wanted: Predictions, found: Predictions) -> None:
    if wanted.labels is not None and found.labels is not None:
        differing = int(np.count_nonzero(found.labels != wanted.labels))
        if differing:
            raise DisagreementError(f"{differing} of {len(wanted.labels)} labels differ")
    if wanted.probabilities is not None and found.probabilities is not None:
        _check("probabilities", found.probabilities - wanted.probabilities, PROBABILITY)
    else:
        size = np.abs(wanted.scores)
        scale = np.maximum(size, max(float(np.median(size)), np.finfo(np.float64).tiny))
        _check("values", (found.scores - wanted.scores) / scale, PROBABILITY)


def _check_margins(wanted: Float32, found: Float32) -> None:
    _check("margins", (found - wanted) / np.maximum(1, np.abs(wanted)), MARGIN)


def _check(what: str, differences: np.ndarray, allowed: float) -> None:
    worst = float(np.abs(differences).max())
    if not worst <= allowed:  # also where it is no number
        raise DisagreementError(f"{what} differ by {worst:.1e}, allowed is {allowed:.0e}")


def _pieces(chunk: Float32, sizes: list[int]) -> Iterator[Float32]:
    start = 0
    for size in cycle(sizes):
        if start >= len(chunk):
            return
        yield chunk[start : start + size]
        start += size


def sooner_up_to(one: Runtime, other: Runtime, chunks: Iterable[Float32]) -> int:
    """Up to how many rows in one run `other` answers sooner than `one`; 0: never. Takes milliseconds.

    The rows should differ: a processor learns the way of a few rows through the trees by heart.
    """
    rows = _first(chunks, 2 * MOST_ROWS)
    size, best, best_gain = 1, 0, 0.0
    while size <= MOST_ROWS:
        ours, theirs = _seconds(one, rows, size), _seconds(other, rows, size)
        if theirs >= ours:
            if not best:
                return 0
            gain = best_gain / (best_gain + theirs - ours)  # where the two lines between the sizes cross
            return best + int(best * gain)
        best, best_gain = size, ours - theirs
        size *= 2
    return MOST_ROWS


def _first(chunks: Iterable[Float32], count: int) -> Float32:
    """At least so many rows, where there are so many."""
    taken: list[Float32] = []
    for chunk in chunks:
        taken.append(chunk)
        if sum(map(len, taken)) >= count:
            break
    return np.concatenate(taken)


def _seconds(runtime: Runtime, rows: Float32, size: int) -> float:
    """The shortest of some runs of so many rows, each of other ones."""
    best = float("inf")
    for repeat in range(REPEATS):
        start = (repeat * size) % max(1, len(rows) - size)
        piece = rows[start : start + size]
        began = time.perf_counter()
        runtime.predict(piece)
        best = min(best, time.perf_counter() - began)
    return best
