"""Which replica of a revision gets a call: the one with fewer outstanding calls of two drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """A replica as the choice sees it."""

    # Calls that wait for its answer.
    outstanding: int

    def is_open(self, now: float) -> bool:
        """Connected, not draining, not ejected (or due for a probe)."""
        ...

    def is_last_resort(self, now: float) -> bool:
        """Ejected for failed answers, but connected: better than nothing."""
        ...


CandidateT = TypeVar("CandidateT", bound=Candidate)


def choose(
    candidates: Sequence[CandidateT],
    now: float,
    below: Callable[[int], int],
    excluded: Collection[CandidateT] = (),
) -> CandidateT | None:
    """One of the open candidates, None where there is none.

    `below(n)` draws an integer in [0, n). Where every candidate is ejected for its answers, one of them is taken
    all the same: it may be the request or the model that fails, and a refusal would help nobody.
    """
    if len(candidates) == 2 and not excluded:  # the common case, without lists
        first, second = candidates
        if first.is_open(now) and second.is_open(now):
            if first.outstanding == second.outstanding:
                return candidates[below(2)]
            return first if first.outstanding < second.outstanding else second
    usable = [each for each in candidates if each.is_open(now) and each not in excluded]
    if not usable:
        usable = [each for each in candidates if each.is_last_resort(now) and each not in excluded]
    if len(usable) < 2:
        return usable[0] if usable else None
    at = below(len(usable))
    other = below(len(usable) - 1)
    first, second = usable[at], usable[other + (other >= at)]
    return first if first.outstanding <= second.outstanding else second
