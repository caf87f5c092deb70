"""What the monitor does by the clock: announce windows, count matured labels, forget."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from phantom_monitor.domain.completeness import Reading
from phantom_monitor.service import PUBLISH_LIMIT, Monitor, Published
from phantom_platform.clock import Clock
from phantom_platform.errors import Unavailable
from phantom_platform.telemetry import logs

log = logs.get(__name__)

RETRY_S = 1.0
# Windows that are just being written are looked at again soon.
ATTEMPTS, ATTEMPT_S = 5, 0.1


class ReadingClock:
    """Since when predictions are read without interruption."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        now_s = clock.now().timestamp()
        self.reading = Reading(since_s=now_s, last_s=now_s)

    def heard(self) -> None:
        """A batch was applied."""
        self.reading.heard(self._clock.now().timestamp())


class Housekeeper:
    """Repeats each duty at its interval; a database that is away is waited for."""

    def __init__(self, monitor: Monitor, reading: ReadingClock, clock: Clock) -> None:
        self._monitor = monitor
        self._reading = reading
        self._clock = clock

    async def publish(self, interval_s: float) -> None:
        """Announce windows."""
        await self._repeat(interval_s, self._publish)

    async def mature(self, interval_s: float) -> None:
        """Count labels that have matured."""
        await self._repeat(interval_s, self._mature)

    async def forget(self, interval_s: float) -> None:
        """Drop what is old."""
        await self._repeat(interval_s, lambda: self._monitor.forget_old(self._clock.now()))

    async def _publish(self) -> None:
        for _ in range(ATTEMPTS):
            published = await self._publish_all()
            if not published.missed:
                return
            # A writer holds some: nothing is said of an endpoint's windows until they are announced.
            await asyncio.sleep(ATTEMPT_S)

    async def _publish_all(self) -> Published:
        while True:
            published = await self._monitor.publish_windows(self._reading.reading, self._clock.now())
            if published.windows < PUBLISH_LIMIT:
                return published

    async def _mature(self) -> None:
        while await self._monitor.count_matured(self._clock.now()):
            pass

    async def _repeat(self, interval_s: float, duty: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await duty()
            except Unavailable as error:
                log.warning("duty waits", action="monitor_duty_waits", reason=str(error))
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(interval_s)
