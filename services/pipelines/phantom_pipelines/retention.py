"""What is kept of executions that have ended, and for how long."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from phantom_pipelines.containers.workroom import Workroom
from phantom_pipelines.service.progression import Progression
from phantom_platform.clock import Clock
from phantom_platform.errors import Unavailable
from phantom_platform.telemetry import logs

log = logs.get(__name__)

EVERY_S = 600.0
BATCH = 100
"""Executions of one transaction: each has some thousand lines."""


@dataclass(frozen=True)
class Kept:
    """After the end of an execution."""

    executions: timedelta
    contexts: timedelta


class Retention:
    """`run` is its life."""

    def __init__(self, progression: Progression, workroom: Workroom, clock: Clock, kept: Kept) -> None:
        self._progression = progression
        self._workroom = workroom
        self._clock = clock
        self._kept = kept

    async def run(self) -> None:
        """Until cancelled. What fails now is done the next time."""
        while True:
            try:
                await self.prune()
            except (Unavailable, OSError) as error:
                log.warning("pruning waits", action="retention_wait", reason=str(error))
            await asyncio.sleep(EVERY_S)

    async def prune(self) -> None:
        """Once, as much as there is."""
        executions = 0
        while count := await self._progression.forget_executions(self._kept.executions, BATCH):
            executions += count
        before = self._clock.now() - self._kept.contexts
        # Asked first: a context that is written meanwhile is newer than `before`.
        needed = await self._progression.contexts_since(before)
        contexts = await asyncio.to_thread(self._workroom.prune, before, needed)
        if executions or contexts:
            log.info("pruned", action="retention_pruned", executions=executions, contexts=contexts)
