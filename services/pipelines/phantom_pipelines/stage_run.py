"""One attempt at one stage, as its runner sees it: the memory of its checks, its log, its progress."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from phantom_pipelines.domain import configs
from phantom_pipelines.domain.execution import StageState
from phantom_pipelines.domain.values import Json
from phantom_pipelines.runners.runner import Earlier, StageFacts
from phantom_pipelines.service.progression import Job, Progression
from phantom_platform.clock import Clock

LEVELS = ("info", "warning", "error")
LONGEST_LINE = 4000


class StageRun:
    """A `StageContext` over the store."""

    def __init__(self, job: Job, progression: Progression, clock: Clock) -> None:
        self._attempt = job.attempt
        self._progression = progression
        self._clock = clock
        self._checks = dict(job.checks)
        self._shown_share = 0.0
        self._written_once: set[str] = set()
        self.facts = _facts(job)

    @property
    def finished_checks(self) -> Mapping[str, Json]:
        return self._checks

    @property
    def visible_checks(self) -> Json:
        """For the stage's result: a check whose name begins with `_` is the runner's own."""
        return {name: answer for name, answer in self._checks.items() if not name.startswith("_")}

    async def check(self, name: str, run: Callable[[], Awaitable[Json]]) -> Json:
        if name not in self._checks:
            answer = await run()
            await self._progression.keep_check(self._attempt, name, answer)
            self._checks[name] = answer
        return self._checks[name]

    async def log(self, text: str, level: str = "info", *, once: str = "") -> None:
        if level not in LEVELS:
            raise ValueError(f"level {level!r}: use one of {LEVELS}")
        if once and once in self._written_once:
            return
        await self._progression.add_line(self._attempt, text[:LONGEST_LINE].replace("\0", ""), level, once)
        if once:
            self._written_once.add(once)

    async def progress(self, share: float) -> None:
        if share > self._shown_share:
            self._shown_share = share
            await self._progression.set_progress(self._attempt, share)

    def now(self) -> datetime:
        return self._clock.now()


def _facts(job: Job) -> StageFacts:
    execution = job.execution
    stage = execution.stage(job.attempt.stage)
    assert stage is not None  # it runs
    assert stage.started_at is not None
    return StageFacts(
        workspace=execution.workspace,
        execution_id=execution.execution_id,
        pipeline_name=execution.pipeline_name,
        stage=stage.name,
        requested_by=execution.created_by,
        model=execution.model,
        config=configs.read(stage.type, stage.config).config,
        earlier=tuple(_earlier(each) for each in _before(execution.stages, stage)),
        attempt=stage.attempts,
        started_at=stage.started_at,
    )


def _before(stages: tuple[StageState, ...], stage: StageState) -> tuple[StageState, ...]:
    return stages[: stages.index(stage)]


def _earlier(stage: StageState) -> Earlier:
    return Earlier(stage.name, stage.type, stage.phase.value, stage.result or {})
