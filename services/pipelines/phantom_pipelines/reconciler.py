"""The executor: takes what is due, runs its stages one after the other, and takes back what is cancelled.

It may be killed anywhere: what was committed is found again, a stage that was running is begun again with its finished
checks, and an attempt that somebody else has taken over cannot write any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from phantom_pipelines.bell import Bell
from phantom_pipelines.domain.values import Due
from phantom_pipelines.metrics import Metrics
from phantom_pipelines.patience import Outage, Patience
from phantom_pipelines.runners.runner import Runner, StageResult
from phantom_pipelines.service.progression import Ending, Job, Progression
from phantom_pipelines.stage_run import StageRun
from phantom_platform.clock import Clock
from phantom_platform.errors import Conflict, Invalid, PhantomError, Unavailable
from phantom_platform.telemetry import logs

log = logs.get(__name__)

Key = tuple[str, str]

TICK_S = 1.0
FORGET_EVERY_S = 600.0
ANSWERS_KEPT = timedelta(days=14)
PATIENT = Patience()


class Leases(Protocol):
    """One worker an execution, among all processes."""

    async def keep(self) -> int: ...
    async def take(self, name: str) -> bool: ...
    async def release(self, name: str) -> None: ...


class Executor:
    """`run` is its life; ring the bell when something is due at once."""

    def __init__(
        self,
        progression: Progression,
        runners: Mapping[str, Runner],
        leases: Leases,
        clock: Clock,
        metrics: Metrics,
        bell: Bell,
        *,
        concurrency: int = 16,
        patience: Patience = PATIENT,
    ) -> None:
        self._concurrency = concurrency
        self._patience = patience
        self._progression = progression
        self._runners = runners
        self._leases = leases
        self._clock = clock
        self._metrics = metrics
        self._bell = bell
        self._driving: dict[Key, Drive] = {}
        self._session = 0
        self._next_forgetting = 0.0

    async def run(self) -> None:
        """Until cancelled. While Postgres is away it waits, and what it was driving is begun again afterwards."""
        try:
            while True:
                try:
                    await self._turn()
                    await self._bell.heard(TICK_S)
                except Unavailable as error:
                    log.warning("executor waits", action="executor_wait", reason=str(error))
                    await asyncio.sleep(error.retry_after_s)
        finally:
            await self._stop_driving()

    async def _turn(self) -> None:
        session = await self._leases.keep()
        if session != self._session:
            # The leases went with the old session: somebody else may be driving by now.
            await self._stop_driving()
            self._session = session
        for due in await self._progression.due(self._clock.now()):
            self._attend(due)
        if self._clock.monotonic() >= self._next_forgetting:
            await self._progression.forget_answers(ANSWERS_KEPT)
            self._next_forgetting = self._clock.monotonic() + FORGET_EVERY_S

    def _attend(self, due: Due) -> None:
        key = (due.workspace, due.execution_id)
        drive = self._driving.get(key)
        if drive is None:
            if len(self._driving) >= self._concurrency and not due.is_cancelling:
                return  # the oldest first; this one's turn comes when another one ends or waits
            outage = Outage(self._patience)
            drive = Drive(key, self._progression, self._runners, self._clock, self._metrics, outage)
            self._driving[key] = drive
            self._metrics.driving.set(len(self._driving))
            drive.task = asyncio.create_task(self._drive(key, drive), name=f"execution:{key[1]}")
        elif due.is_cancelling:
            drive.interrupt()

    async def _drive(self, key: Key, drive: Drive) -> None:
        """Under the execution's lease, until there is nothing to do for now."""
        name = "/".join(key)
        try:
            if await self._leases.take(name):
                try:
                    await drive.run()
                finally:
                    await self._leases.release(name)
        except (Unavailable, Conflict) as error:
            log.warning("execution waits", action="execution_wait", execution=name, reason=str(error))
        except Exception as error:
            log.error(
                "execution stuck", action="execution_stuck", execution=name, reason=str(error), exc_info=error
            )
        finally:
            if self._driving.get(key) is drive:
                del self._driving[key]
            self._metrics.driving.set(len(self._driving))

    async def _stop_driving(self) -> None:
        tasks = [each.task for each in self._driving.values() if each.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Drive:
    """One execution, stage after stage."""

    def __init__(
        self,
        key: Key,
        progression: Progression,
        runners: Mapping[str, Runner],
        clock: Clock,
        metrics: Metrics,
        outage: Outage,
    ) -> None:
        self._key = key
        self._outage = outage
        self._progression = progression
        self._runners = runners
        self._clock = clock
        self._metrics = metrics
        self._stage: asyncio.Task[StageResult] | None = None
        self._is_interrupted = False
        self._is_cancelled = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def interrupt(self) -> None:
        """End the stage that runs, once: what it does while it ends is not interrupted again."""
        self._is_cancelled.set()
        if self._stage is not None and not self._is_interrupted:
            self._is_interrupted = True
            self._stage.cancel()

    async def run(self) -> None:
        while (job := await self._progression.step(*self._key)) is not None:
            log.info(
                "stage begins",
                action=f"stage_{job.kind}",
                execution="/".join(self._key),
                stage=job.attempt.stage,
                attempt=job.attempt.number,
            )
            began = time.perf_counter()
            kind = _type(job)
            outcome = await (self._run(job) if job.kind == "run" else self._undo(job))
            self._metrics.stages.labels(kind, outcome).inc()
            self._metrics.stage_seconds.labels(kind).observe(time.perf_counter() - began)
            if outcome == "postponed":
                await self._pause(job)
            else:
                self._outage.over()

    async def _pause(self, job: Job) -> None:
        """Longer each time. An execution that is cancelled meanwhile does not wait for what it will not run."""
        pause_s = self._outage.pause_s()
        if job.kind == "undo":
            await asyncio.sleep(pause_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._is_cancelled.wait()

    async def _run(self, job: Job) -> str:
        """How it ended, for the metrics; what there is to know is in the store by then."""
        try:
            run = StageRun(job, self._progression, self._clock)
        except Invalid as error:  # it was begun by an older release
            await self._progression.finish(job.attempt, Ending(False, "invalid_stage", error.message, {}))
            return "failed"
        runner = self._runners.get(_type(job))
        if runner is None:
            words = f"this installation runs no stages of type {_type(job)}"
            return await self._finish(job, run, StageResult(False, "stage_type_unsupported", words))
        try:
            result = await self._uninterrupted(runner, run)
        except Unavailable as error:
            given_up = self._outage.add(self._clock.monotonic(), len(run.finished_checks))
            if given_up:
                result = StageResult(False, error.code, f"{error.message}; {given_up}")
                return await self._finish(job, run, result)
            await run.log(f"goes on later: {error.message}", "warning", once=f"postponed {error.code}")
            return "postponed"
        except Conflict as error:
            if error.code == "stale_attempt":
                raise
            return await self._finish(job, run, _failure(error))
        except PhantomError as error:
            return await self._finish(job, run, _failure(error))
        except Exception as error:
            log.error(
                "stage broke",
                action="stage_broke",
                stage=job.attempt.stage,
                reason=str(error),
                exc_info=error,
            )
            words = f"the stage broke: {type(error).__name__}: {error}"
            return await self._finish(job, run, StageResult(False, "internal", words))
        if result is None:
            return "interrupted"
        return await self._finish(job, run, result)

    async def _uninterrupted(self, runner: Runner, run: StageRun) -> StageResult | None:
        """The runner's result; None where the execution was cancelled meanwhile."""
        self._is_interrupted = False
        stage = self._stage = asyncio.create_task(runner.run(run), name=f"stage:{run.facts.stage}")
        try:
            await asyncio.wait([stage])
        except asyncio.CancelledError:
            # This task itself is being cancelled: the runner ends what it has started first.
            stage.cancel()
            await asyncio.wait([stage])
            raise
        finally:
            self._stage = None
        if self._is_interrupted and (stage.cancelled() or stage.exception() is not None):
            return None  # however it took it: what it had begun is undone next
        if stage.cancelled():
            # By nobody here. Raised on, it would end this task, and the stage would be run again each second.
            log.error("stage cancelled itself", action="stage_cancelled_itself", stage=run.facts.stage)
            raise Unavailable(
                "the stage's own task was cancelled, by nobody who may", code="stage_cancelled_itself"
            )
        return stage.result()

    async def _finish(self, job: Job, run: StageRun, result: StageResult) -> str:
        if result.reason:
            await run.log(result.reason, "info" if result.ok else "error")
        whole = {**run.visible_checks, **result.result}
        ending = Ending(result.ok, result.reason_code, result.reason, whole)
        await self._progression.finish(job.attempt, ending)
        return "succeeded" if result.ok else "failed"

    async def _undo(self, job: Job) -> str:
        run = StageRun(job, self._progression, self._clock)
        runner = self._runners.get(_type(job))
        try:
            done = await runner.undo(run) if runner is not None else ""
        except Unavailable as error:
            # For as long as it takes: what it began would go on by itself.
            await run.log(
                f"is taken back later: {error.message}", "warning", once=f"undo postponed {error.code}"
            )
            return "postponed"
        except Exception as error:
            log.error(
                "stage not undone",
                action="undo_failed",
                stage=job.attempt.stage,
                reason=str(error),
                exc_info=error,
            )
            done = f"could not be taken back: {error}"
        words = done or "cancelled"
        await run.log(words)
        await self._progression.undone(job.attempt, words)
        return "undone"


def _type(job: Job) -> str:
    stage = job.execution.stage(job.attempt.stage)
    return stage.type if stage is not None else ""


def _failure(error: PhantomError) -> StageResult:
    return StageResult(False, error.code, error.message)
