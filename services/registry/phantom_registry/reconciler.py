"""What time does by itself: approvals expire, request ids are forgotten."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from phantom_platform.errors import Unavailable
from phantom_platform.telemetry import logs
from phantom_registry.service import Promotions

log = logs.get(__name__)


class Housekeeper:
    """Looks around every `interval_s`; while Postgres is away it waits for the next time."""

    def __init__(self, promotions: Promotions, *, interval_s: float, answers_kept: timedelta) -> None:
        self._promotions = promotions
        self._interval_s = interval_s
        self._answers_kept = answers_kept

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except Unavailable as error:
                log.warning("housekeeping waits", action="housekeeping_waits", reason=str(error))
            await asyncio.sleep(self._interval_s)

    async def look(self) -> None:
        """Once. Safe to repeat."""
        if expired := await self._promotions.expire_overdue():
            log.info("approvals expired", action="approvals_expired", count=expired)
        await self._promotions.forget_answers(self._answers_kept)
