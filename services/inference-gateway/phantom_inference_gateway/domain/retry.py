"""Whether and where a call that failed is tried again (contracts §8)."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

MAX_ATTEMPTS = 3
BUDGET_SHARE = 0.2
BUDGET_WINDOW_S = 10

_INTERNAL, _UNAVAILABLE, _UNKNOWN, _EXHAUSTED = 13, 14, 2, 8
_RETRIED_CODES = frozenset((_UNKNOWN, _INTERNAL, _UNAVAILABLE))


class Ending(enum.Enum):
    """How one attempt ended."""

    # With an answer, whatever its status.
    ANSWERED = "answered"
    # It never left: not written to any stream.
    UNSENT = "unsent"
    # Refused as `draining` or `wrong_replica`, before execution.
    REFUSED = "refused"
    # Its stream died while it was in execution.
    LOST = "lost"
    # Its deadline passed.
    EXPIRED = "expired"


class Step(enum.Enum):
    """What to do next."""

    # The attempt's answer is the call's.
    DONE = "done"
    # Another replica of the same revision; the stable one if there is none.
    SAME_REVISION = "same_revision"
    # Alone in its frame, same revision only.
    ALONE = "alone"


@dataclass(slots=True)
class Trial:
    """What a call has behind it."""

    attempts: int = 0
    lost: int = 0


def is_replica_failure(code: int) -> bool:
    """Whether an answer's status is charged to the replica and may be retried."""
    return code in _RETRIED_CODES


def next_step(ending: Ending, code: int, trial: Trial, budget: RetryBudget, now: float) -> Step:
    """The step after an attempt; counts it in `trial` and takes from `budget` where it has to.

    Never-written and refused work counts neither as an attempt nor against the budget. A lost call is retried once.
    """
    if ending in (Ending.UNSENT, Ending.REFUSED):
        return Step.ALONE if trial.lost else Step.SAME_REVISION
    trial.attempts += 1
    if ending is Ending.EXPIRED:
        return Step.DONE
    if ending is Ending.LOST:
        trial.lost += 1
        if trial.lost > 1:
            return Step.DONE
    elif not is_replica_failure(code) or trial.lost:
        return Step.DONE
    if trial.attempts >= MAX_ATTEMPTS or not budget.take(now):
        return Step.DONE
    return Step.ALONE if ending is Ending.LOST else Step.SAME_REVISION


class RetryBudget:
    """20 % of the requests of the last 10 s, plus a burst. Counts by whole seconds."""

    __slots__ = ("_burst", "_requests", "_retries", "_seconds", "refused", "taken")

    def __init__(self, burst: int) -> None:
        self._burst = burst
        # [second, requests, retries], oldest first
        self._seconds: deque[list[int]] = deque()
        self._requests = self._retries = 0
        self.taken = self.refused = 0

    def count(self, now: float) -> None:
        """One request came."""
        self._slot(int(now))[1] += 1
        self._requests += 1

    def take(self, now: float) -> bool:
        """Whether one more retry fits; it is then taken."""
        slot = self._slot(int(now))
        if self._retries >= self._burst + BUDGET_SHARE * self._requests:
            self.refused += 1
            return False
        slot[2] += 1
        self._retries += 1
        self.taken += 1
        return True

    def _slot(self, second: int) -> list[int]:
        seconds = self._seconds
        if seconds and seconds[-1][0] >= second:
            return seconds[-1]
        while seconds and seconds[0][0] <= second - BUDGET_WINDOW_S:
            _, requests, retries = seconds.popleft()
            self._requests -= requests
            self._retries -= retries
        seconds.append([second, 0, 0])
        return seconds[-1]
