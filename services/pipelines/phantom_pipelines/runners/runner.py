"""How a stage is run: what a runner is given, and what it answers.

A runner may be interrupted anywhere, by kill -9 too, and is then run again with the same context: whatever it did
before is in the memory of `check`, and what it asks of other services carries `request_id`, so that it is done once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from phantom_pipelines.domain.configs import StageConfig
from phantom_pipelines.domain.suites import Suite, SuiteRun
from phantom_pipelines.domain.values import Endpoint, Json, ModelVersion


@dataclass(frozen=True)
class StageResult:
    """How a stage ended. `result` holds JSON values only: what was measured and made, by check."""

    ok: bool
    # Stable; for a stage that failed.
    reason_code: str = ""
    # In words and figures.
    reason: str = ""
    result: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Earlier:
    """A stage before this one, as it ended."""

    name: str
    type: str
    phase: str
    result: Json


@dataclass(frozen=True)
class StageFacts:
    """What holds for the whole run of a stage."""

    workspace: str
    execution_id: str
    pipeline_name: str
    stage: str
    # Who asked for the execution; calls to other services name them as `on_behalf_of`.
    requested_by: str
    model: ModelVersion
    config: StageConfig
    # In the order of the pipeline.
    earlier: tuple[Earlier, ...]
    # 1, and more after an interruption.
    attempt: int
    # When the first attempt began.
    started_at: datetime

    @property
    def request_id(self) -> str:
        """For an effect on another service; with a suffix of its own where a stage has several."""
        return f"{self.execution_id}/{self.stage}"


class StageContext(Protocol):
    """The run of one stage."""

    @property
    def facts(self) -> StageFacts: ...

    @property
    def finished_checks(self) -> Mapping[str, Json]:
        """What `check` remembers, by name."""

    async def check(self, name: str, run: Callable[[], Awaitable[Json]]) -> Json:
        """What `run()` answers, or what it answered in an earlier attempt: a finished check is never run again.

        The answer (JSON values only) is kept before this returns, and becomes part of the stage's result under `name`
        unless the runner's own result has that key. An exception keeps nothing.
        """

    async def log(self, text: str, level: str = "info", *, once: str = "") -> None:
        """One line, written now. Lines of the same non-empty `once` are written once, over all attempts."""

    async def progress(self, share: float) -> None:
        """How much of the stage is done, 0..1."""

    def now(self) -> datetime: ...


class Runner(Protocol):
    """Runs stages of one type. One instance runs many stages at once: it keeps nothing of any of them."""

    async def run(self, stage: StageContext) -> StageResult:
        """To the end. A task that is cancelled (asyncio) ends what it started here and re-raises.

        `Unavailable` is temporary: the stage is run again after a pause, a limited number of times. Any other
        `PhantomError` fails the stage with its code and message.
        """

    async def undo(self, stage: StageContext) -> str:
        """After `run` was interrupted because the execution is cancelled: take back what others would still go on
        with (a rollout). Says what was done, in words; empty where there was nothing to take back. Safe to repeat."""


@dataclass(frozen=True)
class SuiteOrder:
    """Run `suite` against one endpoint. Empty dataset: the suite's. `timeout_s` bounds the whole run."""

    workspace: str
    suite: Suite
    endpoint: Endpoint
    dataset: str = ""
    dataset_version: str = ""
    timeout_s: float = 300.0


class CaseRunner(Protocol):
    """What the RPC RunTests and the testing stage have in common: one suite against one endpoint, judged by nobody."""

    async def run_suite(self, order: SuiteOrder) -> SuiteRun:
        """`DeadlineExceeded` `tests_timed_out`; `NotFound` `dataset_not_found`; `Refused` naming a column."""
