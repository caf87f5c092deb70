"""How long a stage is run again because something that it needs is away."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


@dataclass(frozen=True)
class Patience:
    """At most so many attempts in a row that come to nothing, over at most so many seconds."""

    attempts: int = 100
    within_s: float = 1800.0


class Outage:
    """Attempts in a row that came to nothing. One that has finished a check of its own ends the row."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.over()

    def over(self) -> None:
        self._attempts = 0
        self._since = 0.0
        self._checks = 0
        self._pause_s = FIRST_PAUSE_S

    def add(self, now: float, checks: int) -> str:
        """One more, at this second, with so many checks finished by now. Why it was the last one, else empty."""
        if checks > self._checks:
            self.over()
            self._checks = checks
        if not self._attempts:
            self._since = now
        self._attempts += 1
        lasted = now - self._since
        if self._attempts < self._patience.attempts and lasted < self._patience.within_s:
            return ""
        return f"given up after {self._attempts} attempts in {lasted:.0f} s"

    def pause_s(self) -> float:
        """Until the next attempt; longer each time."""
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, LONGEST_PAUSE_S)
        return pause_s
