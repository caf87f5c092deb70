"""Looks at every live rollout once a second, and at once where a caller or a gateway may have changed something.

Any look may end anywhere, by an error or by kill -9: the next one begins from what is stored.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol

from phantom_deployer.bell import Bell
from phantom_deployer.domain.rollouts.model import Rollout
from phantom_deployer.domain.values import RolloutKey
from phantom_deployer.metrics import Metrics
from phantom_deployer.service.piloting import Looked, Piloting
from phantom_platform.clock import Clock
from phantom_platform.errors import Refused, Unavailable
from phantom_platform.telemetry import logs

log = logs.get(__name__)

TICK_S = 1.0
# Looks of one rollout in a row: beginning, acknowledged, judged follow each other.
MAX_LOOKS = 6
COUNT_EVERY_S = 5.0
EXPERIMENTS_UNKNOWN = "experiments_unknown"
FORGET_EVERY_S = 60.0
# Windows of endpoints without a live rollout are kept so long: they tell the error rate before one.
WINDOWS_KEPT = timedelta(hours=2)


class Leases(Protocol):
    """One worker a name, among all deployers."""

    def lease(self, name: str) -> AbstractAsyncContextManager[bool]: ...


class Wake(Protocol):
    """Tells the reconciler that a deployment has changed."""

    def __call__(self, workspace: str, deployment_id: str) -> None: ...


class Pilot:
    """`run` is its life. `bell` is rung by callers and by acknowledgements."""

    def __init__(
        self, piloting: Piloting, leases: Leases, clock: Clock, metrics: Metrics, bell: Bell, wake: Wake
    ) -> None:
        self._piloting = piloting
        self._leases = leases
        self._clock = clock
        self._metrics = metrics
        self._bell = bell
        self._wake = wake
        # Rollouts that wait for gateways: looked at whenever the bell rings.
        self._waiting: set[RolloutKey] = set()
        self._due: set[RolloutKey] = set()
        self._next_tick = 0.0
        self._next_count = 0.0
        self._next_forget = 0.0
        self._said: dict[str, str] = {}
        self._shown: set[str] = set()

    def wake(self, workspace: str, deployment_id: str) -> None:
        """A caller has changed a rollout, or begun one."""
        self._next_tick = 0.0
        self._bell.ring()

    async def run(self) -> None:
        while True:
            try:
                await self._turn()
            except Unavailable as error:
                log.warning("pilot waits", action="pilot_wait", reason=str(error))
                await asyncio.sleep(error.retry_after_s)

    async def _turn(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._due = set(await self._piloting.live())
            self._waiting &= self._due
        for key in sorted(self._due, key=lambda each: each.rollout_id):
            await self.look_safely(key)
        await self._chores(now)
        await self._bell.heard(max(0.01, self._next_tick - self._clock.monotonic()))
        self._due = set(self._waiting)

    async def look_safely(self, key: RolloutKey) -> None:
        """What goes wrong with one keeps no other waiting."""
        try:
            await self.look(key)
        except (Refused, Unavailable) as error:
            await self._say_safely(key, error)
        except Exception as error:
            log.error(
                "look failed", action="look_failed", rollout=key.rollout_id, reason=str(error), exc_info=error
            )

    async def _say_safely(self, key: RolloutKey, error: Refused | Unavailable) -> None:
        """In the log, and to who asks for the rollout; not where the database itself is away."""
        self._say(key, str(error))
        if isinstance(error, Unavailable) and error.code != EXPERIMENTS_UNKNOWN:
            return
        try:
            await self._piloting.cannot_go_on(key, f"{error.code}: {error.message}")
        except Unavailable as away:
            log.warning(
                "rollout cannot be told", action="rollout_wait", rollout=key.rollout_id, reason=str(away)
            )

    async def look(self, key: RolloutKey) -> None:
        """As many looks as there is something to do, under a lease."""
        async with self._leases.lease(f"rollout/{key.rollout_id}") as is_ours:
            if not is_ours:
                return
            for _ in range(MAX_LOOKS):
                looked = await self._piloting.advance(key)
                self._note(key, looked)
                if looked is None or not looked.is_changed:
                    return
                self._wake(key.workspace, key.deployment_id)

    def _note(self, key: RolloutKey, looked: Looked | None) -> None:
        if looked is None or not looked.rollout.is_live:
            self._waiting.discard(key)
            self._said.pop(key.rollout_id, None)
        if looked is None:
            return
        if looked.rollback_s is not None:
            self._metrics.rollback_seconds.observe(looked.rollback_s)
        if looked.rollout.is_live:
            (self._waiting.add if _waits_for_gateways(looked.rollout) else self._waiting.discard)(key)

    def _say(self, key: RolloutKey, reason: str) -> None:
        """Once each, not every second."""
        if self._said.get(key.rollout_id) != reason:
            self._said[key.rollout_id] = reason
            log.warning("rollout waits", action="rollout_wait", rollout=key.rollout_id, reason=reason)

    async def _chores(self, now: float) -> None:
        if now >= self._next_count:
            self._next_count = now + COUNT_EVERY_S
            states = await self._piloting.states()
            for state in self._shown - set(states):
                self._metrics.rollouts.labels(state).set(0)
            for state, count in states.items():
                self._metrics.rollouts.labels(state).set(count)
            self._shown |= set(states)
        if now >= self._next_forget:
            self._next_forget = now + FORGET_EVERY_S
            await self._piloting.forget_windows(self._clock.now() - WINDOWS_KEPT)
            await self.fold()

    async def fold(self) -> None:
        """Final windows of long rollouts, one an hour from then on. What goes wrong with one keeps no other waiting."""
        for key in await self._piloting.live():
            try:
                async with self._leases.lease(f"rollout/{key.rollout_id}") as is_ours:
                    if is_ours:
                        await self._piloting.fold(self._clock, key)
            except Unavailable:
                raise
            except Exception as error:
                log.error(
                    "fold failed",
                    action="fold_failed",
                    rollout=key.rollout_id,
                    reason=str(error),
                    exc_info=error,
                )


def _waits_for_gateways(rollout: Rollout) -> bool:
    span = rollout.span
    return rollout.state == "rolling_back" or (span is not None and span.started_at is None)
