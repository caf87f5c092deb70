"""Rounds: every load of a group once, then again, so that what the machine does meanwhile concerns all alike."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .measure import Figures, Shape, measure
from .processes import cpu_s, signal_all, tree
from .system import System

IDLE_CORES = 0.02
"""A system that uses more of a core while nobody calls it is paused between its turns."""


@dataclass(frozen=True)
class Run:
    """How much to measure. `folder` is temporary."""

    folder: Path
    rounds: int = 5
    seconds: float = 2.5
    # Of the memory group.
    requests: int = 1_000_000
    soak_s: float = 600.0
    # What a group had to leave out, with the reason; the rest of it was measured.
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One load of a round."""

    case: str
    system: Any  # a System: our own classes state its attributes, and mypy does not read tests
    shape: Shape

    @property
    def key(self) -> str:
        """What its figures are kept under."""
        return f"{self.case}: {self.system.name}"


def measure_cells(
    run: Run,
    cells: Sequence[Cell],
    beside: Mapping[str, Sequence[int]] | None = None,
    *,
    pauses: bool = False,
) -> dict[str, list[Figures]]:
    """Key → one entry a round. Odd rounds go backwards: a drift of the machine then favours nobody.

    `pauses`: systems that are busy while idle are stopped (SIGSTOP) but for their turns.
    """
    found: dict[str, list[Figures]] = {cell.key: [] for cell in cells}
    restless = Restless([cell.system for cell in cells] if pauses else [])
    try:
        for number in range(run.rounds):
            for cell in cells if number % 2 == 0 else reversed(cells):
                with restless.turn(cell.system):
                    figures = measure(cell.system, cell.shape, run.folder, beside)
                found[cell.key].append(figures)
                say(f"  round {number + 1}: {cell.key}: {brief(figures)}")
    finally:
        restless.wake()
    return found


class Restless:
    """The systems that use the processor while nobody calls them."""

    def __init__(self, systems: Sequence[System]) -> None:
        self._asleep: dict[str, list[int]] = {}
        trees = {each.name: tree(each.pids()) for each in systems}
        before = {name: cpu_s(pids) for name, pids in trees.items()}
        if trees:
            time.sleep(2.0)
        for name, pids in trees.items():
            if cpu_s(pids) - before[name] > 2.0 * IDLE_CORES:
                say(f"  {name} is busy while idle: paused between its turns")
                signal_all(pids, signal.SIGSTOP)
                self._asleep[name] = pids

    @contextmanager
    def turn(self, system: System) -> Iterator[None]:
        """Awake for as long as it is loaded."""
        pids = self._asleep.get(system.name, [])
        signal_all(pids, signal.SIGCONT)
        if pids:
            time.sleep(1.0)  # what it put off while it was stopped
        try:
            yield
        finally:
            if pids:
                self._asleep[system.name] = tree(pids)
            signal_all(self._asleep.get(system.name, []), signal.SIGSTOP)

    def wake(self) -> None:
        """All of them, so that they can end."""
        for pids in self._asleep.values():
            signal_all(pids, signal.SIGCONT)


def brief(figures: Figures) -> str:
    """One line for who waits."""
    found = figures.found
    parts = ", ".join(f"{name} {value:.3f}" for name, value in (figures.cpu | figures.beside).items())
    return f"{found.rate:,.0f}/s, p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms, CPU s/1000: {parts}"


def say(text: str) -> None:
    """Progress goes to stderr, the table alone to stdout."""
    sys.stderr.write(f"{text}\n")


@contextmanager
def started(system: System) -> Iterator[System]:
    """The system, up; stopped at the end whatever happens."""
    try:
        system.start()
        yield system
    finally:
        system.stop()
