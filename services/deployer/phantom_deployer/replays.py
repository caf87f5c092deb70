"""Runs the replays that rollouts wait for, each in a task of its own: the pilot and other rollouts go on meanwhile.

A deployer that ends leaves nothing behind: the next one finds the rollout still waiting, and begins its replay anew.
"""

from __future__ import annotations

import asyncio

from phantom_deployer.domain.rollouts.model import Rollout
from phantom_deployer.service.replaying import Replaying, failed
from phantom_platform.clock import Clock
from phantom_platform.errors import Unavailable
from phantom_platform.telemetry import logs

log = logs.get(__name__)

TICK_S = 1.0
# Replays at once; each reads Kafka and keeps a replica and this process busy.
CONCURRENCY = 2
# A replay that fails in a way nobody knows is given up, and fails its rollout, after so many.
ATTEMPTS = 3
UNKNOWN_RETRY_S = 5.0


class Replays:
    """`run` is its life."""

    def __init__(self, replaying: Replaying, clock: Clock, *, tick_s: float = TICK_S) -> None:
        self._replaying = replaying
        self._clock = clock
        self._tick_s = tick_s
        self._running: dict[str, asyncio.Task[None]] = {}
        # Rollout → when its replay may be begun again, and how often it failed in an unknown way.
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self.turn()
                except Unavailable as error:
                    log.warning("replays wait", action="replays_wait", reason=str(error))
                await asyncio.sleep(self._tick_s)
        finally:
            await self._end(list(self._running))

    async def turn(self) -> None:
        """Begin what waits, end what does not wait any more."""
        waiting = {each.id: each for each in await self._replaying.waiting()}
        await self._end([each for each in self._running if each not in waiting])
        for known in (self._not_before, self._failures):
            for rollout_id in known.keys() - waiting.keys():
                del known[rollout_id]
        for rollout in waiting.values():
            if len(self._running) < CONCURRENCY and self._is_due(rollout.id):
                task = asyncio.create_task(self._replay(rollout), name=f"replay:{rollout.id}")
                self._running[rollout.id] = task

    def _is_due(self, rollout_id: str) -> bool:
        is_early = self._clock.monotonic() < self._not_before.get(rollout_id, 0.0)
        return rollout_id not in self._running and not is_early

    async def _replay(self, rollout: Rollout) -> None:
        began = self._clock.monotonic()
        try:
            report = await self._replaying.run(rollout)
        except Unavailable as error:
            self._again(rollout, error.retry_after_s, str(error))
        except Exception as error:
            await self._failed(rollout, error)
        else:
            log.info(
                "replay ended",
                action="replay_ended",
                rollout=rollout.id,
                verdict=report.verdict,
                seconds=round(self._clock.monotonic() - began, 1),
            )
        finally:
            self._running.pop(rollout.id, None)

    def _again(self, rollout: Rollout, after_s: float, reason: str) -> None:
        self._not_before[rollout.id] = self._clock.monotonic() + max(after_s, self._tick_s)
        log.warning("replay begins anew", action="replay_retry", rollout=rollout.id, reason=reason)

    async def _failed(self, rollout: Rollout, error: Exception) -> None:
        count = self._failures[rollout.id] = self._failures.get(rollout.id, 0) + 1
        log.error(
            "replay failed", action="replay_failed", rollout=rollout.id, reason=str(error), exc_info=error
        )
        self._again(rollout, UNKNOWN_RETRY_S, str(error))
        if count >= ATTEMPTS:
            words = f"the replay failed {count} times: {type(error).__name__}: {error}"
            try:
                await self._replaying.keep(rollout, failed(words[:500]))
            except Unavailable as away:
                self._again(rollout, away.retry_after_s, str(away))

    async def _end(self, rollout_ids: list[str]) -> None:
        tasks = [task for each in rollout_ids if (task := self._running.pop(each, None)) is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
