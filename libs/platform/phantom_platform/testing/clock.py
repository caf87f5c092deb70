"""A clock that stands still until it is told to move."""

from datetime import UTC, datetime, timedelta

_START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """Shows `start` until `advance` is called."""

    def __init__(self, start: datetime = _START) -> None:
        if start.tzinfo is None:
            raise ValueError("start must be aware: give it a time zone")
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Moves both clocks forward; refuses to go back."""
        if seconds < 0:
            raise ValueError(f"a clock does not go back (seconds={seconds})")
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds
