"""Kafka's client says the same thing four times a second while a broker is away: said once in a while is enough.

What an outage means for a service is in our own lines, in its readiness and under `attention`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

EVERY_S = 30.0
LIBRARY = "aiokafka"
# Asked again at once by the client: at a first start the coordinator's topic is only being made.
USUAL = ("Group Coordinator Request failed",)


class Repeats(logging.Filter):
    """Lets a line of the library through once in 30 s, by its format and not by what is filled in."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        # Bounded by the number of places in the library that log.
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.name.partition(".")[0] != LIBRARY:
            return True
        text = str(record.msg)
        if text.startswith(USUAL):
            return False
        key, now = (record.name, text[:80]), self._monotonic()
        if now - self._last.get(key, -EVERY_S) < EVERY_S:
            return False
        self._last[key] = now
        return True
