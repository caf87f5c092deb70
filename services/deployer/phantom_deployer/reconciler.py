"""Observe, advance, carry out; one pass of one deployment at a time, woken by changes and once a second.

Any pass may end anywhere, by an error or by kill -9: the next one looks again.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol

from phantom_deployer.bell import Bell
from phantom_deployer.domain.deployment import Deployment, Replica
from phantom_deployer.domain.reconcile import Observation
from phantom_deployer.metrics import Metrics
from phantom_deployer.service.convergence import Convergence, Task
from phantom_platform.clock import Clock
from phantom_platform.errors import PhantomError, Unavailable
from phantom_platform.telemetry import logs

log = logs.get(__name__)

Key = tuple[str, str]

TICK_S = 1.0
# Deployments worked on at once; each holds two connections of the pool.
CONCURRENCY = 3
# Steps of one pass: adding, starting and being ready follow each other.
MAX_STEPS = 8
SWEEP_EVERY_S = 30.0
REQUESTS_KEPT = timedelta(days=7)


class Backend(Protocol):
    """Where replicas run."""

    async def observe(self, deployment: Deployment) -> dict[str, Observation]: ...
    async def launch(self, deployment: Deployment, replica: Replica) -> None: ...
    async def drain(self, replica: Replica, record_json: str) -> None: ...
    def signal(self, replica_id: str, number: signal.Signals) -> None: ...
    async def forget(self, replica_id: str) -> None: ...
    def present(self) -> list[str]: ...
    async def dismiss(self, replica_id: str) -> None: ...


class Leases(Protocol):
    """One worker a name, among all deployers."""

    def lease(self, name: str) -> AbstractAsyncContextManager[bool]: ...


class Reconciler:
    """`run` is its life; `wake` makes a deployment's pass due at once."""

    def __init__(
        self,
        convergence: Convergence,
        backend: Backend,
        leases: Leases,
        clock: Clock,
        metrics: Metrics,
        bell: Bell,
    ) -> None:
        self._convergence = convergence
        self._backend = backend
        self._leases = leases
        self._clock = clock
        self._metrics = metrics
        # Rung by whatever may let a withdrawal go on; and by `wake`.
        self._bell = bell
        self._due: set[Key] = set()
        # Deployments with a replica that waits for gateways.
        self._waiting: set[Key] = set()
        # Deployments of the start that have had no pass yet; None until they are known.
        self._unseen: set[Key] | None = None
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._shown: dict[Key, set[str]] = {}
        self._next_tick = 0.0
        self._next_sweep = 0.0

    @property
    def has_looked(self) -> bool:
        """Whether what is stored of every replica was seen since the start: before, it is of an earlier life."""
        return self._unseen is not None and not self._unseen

    def wake(self, workspace: str, deployment_id: str) -> None:
        self._due.add((workspace, deployment_id))
        self._bell.ring()

    def wake_key(self, key: str) -> None:
        """By Kafka's key, `<workspace>/<id>`."""
        workspace, _, deployment_id = key.partition("/")
        self.wake(workspace, deployment_id)

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self._turn()
                except Unavailable as error:
                    log.warning("reconciler waits", action="reconciler_wait", reason=str(error))
                    await asyncio.sleep(error.retry_after_s)
        finally:
            await self._end_passes()

    async def _turn(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            keys = await self._convergence.keys()
            self._due.update(keys)
            if self._unseen is None:
                self._unseen = set(keys)
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_EVERY_S
            await self._sweep_safely()
        self._start_due()
        await self._bell.heard(max(0.01, self._next_tick - self._clock.monotonic()))
        self._due |= self._waiting

    def _start_due(self) -> None:
        """One pass a deployment; what is due meanwhile is due again."""
        for key in [each for each in self._due if each not in self._running]:
            self._due.discard(key)
            task = asyncio.create_task(self._pass_safely(key), name=f"reconcile:{key[0]}/{key[1]}")
            self._running[key] = task
            task.add_done_callback(lambda _, key=key: self._ended(key))  # type: ignore[misc]

    def _ended(self, key: Key) -> None:
        self._running.pop(key, None)
        if key in self._due:
            self._bell.ring()

    async def _end_passes(self) -> None:
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_safely(self, key: Key) -> None:
        async with self._slots:
            began, temporary = time.perf_counter(), False
            try:
                await self.pass_once(*key)
            except Exception as error:
                temporary = isinstance(error, Unavailable)
                report = log.warning if temporary else log.error
                report(
                    "pass failed", action="pass_failed", deployment="/".join(key), reason=str(error),
                    exc_info=None if temporary else error,
                )  # fmt: skip
            self._metrics.pass_seconds.observe(time.perf_counter() - began)
        if self._unseen and not temporary:
            self._unseen.discard(key)

    async def pass_once(self, workspace: str, deployment_id: str) -> None:
        """As many steps as there is something to do, under the deployment's lease."""
        async with self._leases.lease(f"{workspace}/{deployment_id}") as is_ours:
            if not is_ours:
                return
            for _ in range(MAX_STEPS):
                if not await self._step(workspace, deployment_id):
                    return

    async def _step(self, workspace: str, deployment_id: str) -> bool:
        """Whether another step may have more to do."""
        key = (workspace, deployment_id)
        seen = await self._convergence.look_up(workspace, deployment_id)
        observations = await self._backend.observe(seen) if seen else {}
        done = await self._convergence.advance(workspace, deployment_id, observations)
        if done is None:
            self._waiting.discard(key)
            self._show(key, {})
            return False
        is_waiting = any(each.is_leaving for each in done.deployment.processes)
        (self._waiting.add if is_waiting else self._waiting.discard)(key)
        self._show(key, _phases(done.deployment))
        for task in done.tasks:
            await self._carry_out(done.deployment, task)
        return done.is_changed

    async def _carry_out(self, deployment: Deployment, task: Task) -> None:
        """One effect. What fails is seen by the next observation, and decided on anew."""
        effect = task.effect
        try:
            await self._do(deployment, task)
        except (PhantomError, OSError) as error:
            self._metrics.effects.labels(effect.kind, "failed").inc()
            log.warning(
                "effect failed",
                action="effect_failed",
                kind=effect.kind,
                replica=effect.replica.id,
                reason=str(error),
            )
        else:
            self._metrics.effects.labels(effect.kind, "done").inc()

    async def _do(self, deployment: Deployment, task: Task) -> None:
        replica = task.effect.replica
        match task.effect.kind:
            case "launch":
                await self._backend.launch(deployment, replica)
            case "drain":
                await self._backend.drain(replica, task.record_json)
            case "terminate":
                self._backend.signal(replica.id, signal.SIGTERM)
            case "kill":
                self._backend.signal(replica.id, signal.SIGKILL)
            case "forget":
                await self._backend.forget(replica.id)

    async def _sweep_safely(self) -> None:
        """What cannot be swept now keeps no deployment waiting."""
        try:
            await self.sweep()
        except Exception as error:
            log.error("sweep failed", action="sweep_failed", reason=str(error), exc_info=error)

    async def sweep(self) -> None:
        """Processes that no deployment knows, and answers that nobody asks for any more."""
        async with self._leases.lease("sweep") as is_ours:
            if not is_ours:
                return
            # Looked at first: a replica is committed before it leaves a trace, so what is not known then is a stranger.
            present = self._backend.present()
            known = await self._convergence.replica_ids()
            for replica_id in present:
                if replica_id not in known:
                    await self._backend.dismiss(replica_id)
            await self._convergence.forget_answers(REQUESTS_KEPT)

    def _show(self, key: Key, phases: Mapping[str, int]) -> None:
        for phase in self._shown.pop(key, set()) - set(phases):
            self._metrics.replicas.remove(*key, phase)
        for phase, count in phases.items():
            self._metrics.replicas.labels(*key, phase).set(count)
        if phases:
            self._shown[key] = set(phases)


def _phases(deployment: Deployment) -> dict[str, int]:
    counts: dict[str, int] = {}
    for replica in deployment.processes:
        phase = "leaving" if replica.is_leaving else replica.phase
        counts[phase] = counts.get(phase, 0) + 1
    return counts
