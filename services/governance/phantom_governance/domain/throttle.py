"""How many wrong passwords a name may see: a sliding window of one minute, kept in memory."""

from __future__ import annotations

from collections import OrderedDict, deque

WINDOW_S = 60.0
MAX_NAMES = 10_000
"""Names remembered; the ones longest without a failure are forgotten first, so that made-up names cost nothing."""


class Throttle:
    """Time is passed in, in seconds of a clock that never goes back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def blocked_for_s(self, name: str, now: float) -> float:
        """Seconds until the next attempt is allowed; 0 when it is now."""
        times = self._failures.get(name)
        if times is None:
            return 0.0
        while times and times[0] <= now - WINDOW_S:
            times.popleft()
        if not times:
            del self._failures[name]
            return 0.0
        return times[0] + WINDOW_S - now if len(times) >= self._limit else 0.0

    def failed(self, name: str, now: float) -> None:
        """Count an attempt as wrong; also called before one is checked, and taken back by `succeeded`."""
        self._failures.setdefault(name, deque(maxlen=self._limit)).append(now)
        self._failures.move_to_end(name)
        while len(self._failures) > MAX_NAMES:
            self._failures.popitem(last=False)

    def succeeded(self, name: str) -> None:
        """Forget the failures of a name whose owner has come."""
        self._failures.pop(name, None)
