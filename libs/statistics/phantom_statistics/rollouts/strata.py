"""Both revisions' groups by step, as arrays; and events of the candidate beside what the stable rate predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phantom_statistics.rollouts.clusters import Floats, design_effect, effective_units
from phantom_statistics.rollouts.evidence import Pair
from phantom_statistics.rollouts.mixture import Events

LEAST_REQUESTS = 100  # a side
LEAST_EVENTS = 10  # both sides together


@dataclass(frozen=True, slots=True)
class Strata:
    """Steps in which both revisions had traffic: `candidate` and `stable` [steps, 64 groups, fields]."""

    candidate: Floats
    stable: Floats

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Strata:
        """The groups of the pairs."""
        if not pairs:
            return cls(np.zeros((0, 64, 6)), np.zeros((0, 64, 6)))
        return cls(
            np.stack([pair.candidate.groups for pair in pairs]),
            np.stack([pair.control.groups for pair in pairs]),
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """Events among trials by step and group [steps, 64], both revisions."""

    events: Floats
    trials: Floats
    stable_events: Floats
    stable_trials: Floats

    def usable(self) -> Counts:
        """The steps in which both revisions had trials."""
        keep = (self.trials.sum(axis=1) > 0) & (self.stable_trials.sum(axis=1) > 0)
        if keep.all():
            return self
        return Counts(
            self.events[keep], self.trials[keep], self.stable_events[keep], self.stable_trials[keep]
        )

    def shares(self) -> Floats:
        """The candidate's realised share of each step's trials [steps]."""
        mine, theirs = self.trials.sum(axis=1), self.stable_trials.sum(axis=1)
        return mine / (mine + theirs)  # type: ignore[no-any-return]

    def totals(self) -> Events:
        """The events by step."""
        return Events(self.shares(), self.events.sum(axis=1), self.stable_events.sum(axis=1))

    def units(self) -> tuple[float, float]:
        """Effective units of candidate and stable, each step weighted as it weighs in observed minus expected."""
        share = self.shares()
        return effective_units((1 - share) @ self.trials), effective_units(share @ self.stable_trials)

    def design_effect(self) -> float:
        """Of observed minus expected candidate events, sum over steps of (1 - f) x - f y.

        A group's influence is its own part of that sum, less what its trials predict at its revision's rate.
        """
        share = self.shares()
        mine = self.events - self.trials * _ratio(self.events, self.trials)
        theirs = self.stable_events - self.stable_trials * _ratio(self.stable_events, self.stable_trials)
        totals = self.totals()
        independent = (1 - share) ** 2 @ totals.candidate + share**2 @ totals.stable
        return design_effect((1 - share) @ mine - share @ theirs, float(independent))


def _ratio(events: Floats, trials: Floats) -> Floats:
    return events.sum(axis=1, keepdims=True) / trials.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]
