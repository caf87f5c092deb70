"""When a replica is left out for a while: a state machine that is told what happened and when.

healthy → ejected: `threshold` failures in a row, or a frame unanswered past its latest deadline.
ejected → probing: the back-off has passed; one call is let through.
probing → healthy on an answer, → ejected for twice as long on a failure.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    HEALTHY = "healthy"
    EJECTED = "ejected"
    PROBING = "probing"


@dataclass(frozen=True, slots=True)
class EjectionRule:
    """When and for how long. Times in seconds."""

    threshold: int = 5
    base_s: float = 1.0
    limit_s: float = 30.0


class Ejection:
    """The state of one replica."""

    __slots__ = ("_failures", "_is_silent", "_rule", "_streak", "ejections", "state", "until")

    def __init__(self, rule: EjectionRule) -> None:
        self._rule = rule
        self._failures = 0
        self._streak = 0
        self._is_silent = False
        self.state = State.HEALTHY
        self.until = 0.0
        self.ejections = 0

    def admits(self, now: float) -> bool:
        """Whether a call may be sent. While probing, only the first may."""
        if self.state is State.HEALTHY:
            return True
        return self.state is State.EJECTED and now >= self.until

    def admits_in_need(self) -> bool:
        """Ejected because of its answers, not for silence: may be used where nothing else is left."""
        return not self._is_silent

    def sent(self, now: float) -> None:
        """A call was sent; to an ejected replica that is due, it is the probe."""
        if self.state is State.EJECTED and now >= self.until:
            self.state = State.PROBING

    def succeeded(self) -> None:
        """An answer came, of whatever status the caller does not count as a failure of the replica."""
        if self.state is State.HEALTHY:
            self._failures = 0
            return
        self.state = State.HEALTHY
        self._failures = self._streak = 0
        self._is_silent = False

    def abandoned(self, now: float) -> None:
        """A call ended without telling anything (its client went away); a probe is due again."""
        if self.state is State.PROBING:
            self.state, self.until = State.EJECTED, now

    def failed(self, now: float) -> bool:
        """One failure; True where it ejects."""
        self._failures += 1
        if self.state is State.HEALTHY and self._failures < self._rule.threshold:
            return False
        return self._eject(now)

    def fell_silent(self, now: float) -> bool:
        """A frame was not answered by its latest deadline; True where it ejects."""
        self._is_silent = True
        return self._eject(now)

    def _eject(self, now: float) -> bool:
        if self.state is State.EJECTED and now < self.until:
            return False
        self.state = State.EJECTED
        self.until = now + min(self._rule.limit_s, self._rule.base_s * 2**self._streak)
        self._streak += 1
        self._failures = 0
        self.ejections += 1
        return True
