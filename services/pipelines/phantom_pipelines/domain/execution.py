"""An execution: one version on its way through the stages. Each function takes one and answers the next one.

Nothing here knows what a stage does; `advance` says what may happen now, `action` what somebody has to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from phantom_pipelines.domain import configs
from phantom_pipelines.domain.pipeline import Pipeline
from phantom_pipelines.domain.values import Json, ModelVersion
from phantom_platform.errors import Conflict, Invalid, Refused

ITSELF = "pipelines"


class Phase(StrEnum):
    """Of an execution."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting_for_approval"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


class StagePhase(StrEnum):
    """Of a stage. `skipped`: it was never begun, because the execution ended before."""

    PENDING = "pending"
    WAITING = "waiting_for_approval"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def is_end(self) -> bool:
        return self not in (StagePhase.PENDING, StagePhase.WAITING, StagePhase.RUNNING)


class Decision(StrEnum):
    """The state of an approval."""

    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"


@dataclass(frozen=True)
class Approval:
    """Empty approvers: anybody with `pipelines:approve`, but never who asked for the execution."""

    approvers: tuple[str, ...]
    expires_at: datetime
    state: Decision = Decision.WAITING
    decided_by: str = ""
    decided_at: datetime | None = None
    comment: str = ""


@dataclass(frozen=True)
class StageState:
    """One stage of one execution. `attempts`: how often it was begun; `progress`: 0..1 while it runs."""

    name: str
    type: str
    config: Json
    phase: StagePhase = StagePhase.PENDING
    reason_code: str = ""
    reason: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    result: Json | None = None
    attempts: int = 0
    progress: float = 0.0
    approval: Approval | None = None

    @property
    def duration_s(self) -> float:
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class Execution:
    """One run of a pipeline. `version` (of the model) never changes, whatever is registered meanwhile."""

    workspace: str
    execution_id: str
    pipeline_id: str
    pipeline_name: str
    model: ModelVersion
    trigger: str
    created_at: datetime
    created_by: str
    stages: tuple[StageState, ...]
    phase: Phase = Phase.PENDING
    reason_code: str = ""
    reason: str = ""
    ended_at: datetime | None = None

    @property
    def current(self) -> StageState | None:
        """The first stage that has not ended."""
        return next((each for each in self.stages if not each.phase.is_end), None)

    @property
    def current_stage(self) -> str:
        """The stage that runs or waits, that comes next, or that ended the execution."""
        return next((s.name for s in self.stages if s.phase != StagePhase.SUCCEEDED), self.stages[-1].name)

    @property
    def progress(self) -> float:
        """0..100."""
        done = sum(1.0 if s.phase == StagePhase.SUCCEEDED else s.progress for s in self.stages)
        return 100.0 * done / len(self.stages)

    @property
    def waits_until(self) -> datetime | None:
        """When the approval that it waits for expires."""
        current = self.current
        is_waiting = current is not None and current.phase == StagePhase.WAITING
        return current.approval.expires_at if is_waiting and current and current.approval else None

    def stage(self, name: str) -> StageState | None:
        return next((each for each in self.stages if each.name == name), None)

    def with_stage(self, stage: StageState) -> Execution:
        return replace(self, stages=tuple(stage if each.name == stage.name else each for each in self.stages))


@dataclass(frozen=True)
class Action:
    """What has to be done now: `run` or `undo` the stage of this name."""

    kind: str
    stage: str


def begin(
    pipeline: Pipeline, model: ModelVersion, *, workspace: str, execution_id: str, by: str, trigger: str,
    now: datetime,
) -> Execution:  # fmt: skip
    """A new execution. `Refused` `only_approver_is_requester` where nobody could ever approve a stage."""
    for stage in pipeline.stages:
        approval = configs.read(stage.type, stage.config).approval
        if approval is not None and approval.approvers == (by,):
            raise Refused(
                f"stage {stage.name} can be approved by {by} only, who asks for this execution; nobody approves their "
                "own, so name another approver or let somebody else execute it",
                code="only_approver_is_requester",
                stage=stage.name,
            )
    return Execution(
        workspace=workspace,
        execution_id=execution_id,
        pipeline_id=pipeline.pipeline_id,
        pipeline_name=pipeline.name,
        model=model,
        trigger=trigger,
        created_at=now,
        created_by=by,
        stages=tuple(StageState(each.name, each.type, each.config) for each in pipeline.stages),
    )


def advance(execution: Execution, now: datetime) -> Execution:
    """The execution after everything that needs nobody: begins stages, asks for approvals, lets them expire, ends."""
    while True:
        after = _step(execution, now)
        if after == execution:
            return execution
        execution = after


def action(execution: Execution) -> Action | None:
    """What somebody has to do for it to go on; None: wait, or nothing any more."""
    current = execution.current
    if execution.phase.is_end or current is None or current.phase != StagePhase.RUNNING:
        return None
    return Action("undo" if execution.phase == Phase.CANCELLING else "run", current.name)


def take(execution: Execution, name: str) -> Execution:
    """One more attempt at a running stage; whoever holds an earlier one cannot finish it any more."""
    stage = _named(execution, name)
    return execution.with_stage(replace(stage, attempts=stage.attempts + 1))


def check_attempt(execution: Execution, name: str, attempt: int) -> StageState:
    """The running stage, if `attempt` is the newest one at it; else `Conflict` `stale_attempt`."""
    stage = _named(execution, name)
    if stage.phase != StagePhase.RUNNING or stage.attempts != attempt:
        raise Conflict(
            f"attempt {attempt} at stage {name} is over: it is {stage.phase}, attempt {stage.attempts}",
            code="stale_attempt",
            stage=name,
        )
    return stage


def finish(
    execution: Execution, name: str, attempt: int, *, ok: bool, reason_code: str, reason: str, result: Json,
    now: datetime,
) -> Execution:  # fmt: skip
    """The stage has ended by itself, also while the execution is being cancelled."""
    stage = check_attempt(execution, name, attempt)
    phase = StagePhase.SUCCEEDED if ok else StagePhase.FAILED
    ended = replace(
        stage,
        phase=phase,
        reason_code=reason_code,
        reason=reason,
        result=result,
        ended_at=now,
        progress=1.0 if ok else stage.progress,
    )
    return advance(execution.with_stage(ended), now)


def undone(execution: Execution, name: str, attempt: int, reason: str, now: datetime) -> Execution:
    """What the interrupted stage had begun is taken back."""
    stage = check_attempt(execution, name, attempt)
    ended = replace(stage, phase=StagePhase.CANCELLED, reason_code="cancelled", reason=reason, ended_at=now)
    return advance(execution.with_stage(ended), now)


def cancel(execution: Execution, actor: str, reason: str, now: datetime) -> Execution:
    """Cancelling, or cancelled at once where nothing runs. Again: as it is. `Refused` `execution_ended`."""
    if execution.phase.is_end:
        raise Refused(
            f"execution {execution.execution_id} is {execution.phase} already",
            code="execution_ended",
            phase=execution.phase.value,
        )
    if execution.phase == Phase.CANCELLING:
        return execution
    words = f"cancelled by {actor}" + (f": {reason}" if reason else "")
    asked = replace(execution, phase=Phase.CANCELLING, reason_code="cancelled", reason=words)
    return advance(asked, now)


def with_progress(execution: Execution, name: str, attempt: int, share: float) -> Execution:
    stage = check_attempt(execution, name, attempt)
    return execution.with_stage(replace(stage, progress=min(max(share, stage.progress), 0.99)))


def _step(execution: Execution, now: datetime) -> Execution:
    if execution.phase.is_end:
        return execution
    failed = next((s for s in execution.stages if s.phase == StagePhase.FAILED), None)
    current = execution.current
    if execution.phase == Phase.CANCELLING:
        return execution if current and current.phase == StagePhase.RUNNING else _cancelled(execution, now)
    if failed is not None:
        reason = f"stage {failed.name} failed: {failed.reason}"
        return _ended(execution, Phase.FAILED, failed.reason_code, reason, now)
    if current is None:
        return _ended(execution, Phase.SUCCEEDED, "", f"all {len(execution.stages)} stages succeeded", now)
    match current.phase:
        case StagePhase.PENDING:
            return _reach(execution, current, now)
        case StagePhase.WAITING:
            return _wait(execution, current, now)
    return execution


def _reach(execution: Execution, stage: StageState, now: datetime) -> Execution:
    """The stage's turn has come."""
    try:
        rule = configs.read(stage.type, stage.config).approval
    except Invalid as error:  # it was accepted by an older release
        return execution.with_stage(_over(stage, StagePhase.FAILED, "invalid_stage", error.message, now))
    if rule is None:
        return _started(execution, stage, now)
    expires_at = now + timedelta(seconds=rule.timeout_s)
    who = ", ".join(rule.approvers) or "anybody with pipelines:approve"
    reason = f"stage {stage.name} waits for approval by {who} until {expires_at:%Y-%m-%d %H:%M:%S} UTC"
    waiting = replace(
        stage,
        phase=StagePhase.WAITING,
        reason_code="approval_required",
        reason=reason,
        started_at=now if stage.type == "approval" else None,
        approval=Approval(rule.approvers, expires_at),
    )
    asked = replace(execution, phase=Phase.WAITING, reason_code="approval_required", reason=reason)
    return asked.with_stage(waiting)


def _wait(execution: Execution, stage: StageState, now: datetime) -> Execution:
    approval = stage.approval
    assert approval is not None  # what waits has been asked for
    match approval.state:
        case Decision.WAITING if now >= approval.expires_at:
            expired = replace(approval, state=Decision.EXPIRED, decided_by=ITSELF, decided_at=now)
            words = f"nobody decided by {approval.expires_at:%Y-%m-%d %H:%M:%S} UTC"
            over = _over(stage, StagePhase.FAILED, "approval_expired", words, now)
            return execution.with_stage(replace(over, approval=expired))
        case Decision.REJECTED:
            words = f"rejected by {approval.decided_by}" + (
                f": {approval.comment}" if approval.comment else ""
            )
            return execution.with_stage(_over(stage, StagePhase.FAILED, "approval_rejected", words, now))
        case Decision.APPROVED if stage.type == "approval":
            words = f"approved by {approval.decided_by}"
            over = _over(stage, StagePhase.SUCCEEDED, "", words, now)
            going_on = replace(execution, phase=Phase.RUNNING, reason_code="", reason="")
            return going_on.with_stage(replace(over, result={"approved_by": approval.decided_by}))
        case Decision.APPROVED:
            return _started(execution, stage, now)
    return execution


def _started(execution: Execution, stage: StageState, now: datetime) -> Execution:
    running = replace(stage, phase=StagePhase.RUNNING, reason_code="", reason="", started_at=now)
    going_on = replace(execution, phase=Phase.RUNNING, reason_code="", reason=f"stage {stage.name} runs")
    return going_on.with_stage(running)


def _over(stage: StageState, phase: StagePhase, reason_code: str, reason: str, now: datetime) -> StageState:
    return replace(stage, phase=phase, reason_code=reason_code, reason=reason, ended_at=now)


def _cancelled(execution: Execution, now: datetime) -> Execution:
    """Nothing runs any more: what waited is cancelled, what never came is skipped."""
    stages = tuple(
        _over(each, StagePhase.CANCELLED, "cancelled", execution.reason, now)
        if each.phase == StagePhase.WAITING
        else each
        for each in execution.stages
    )
    asked = replace(execution, stages=stages)
    return _ended(asked, Phase.CANCELLED, execution.reason_code, execution.reason, now)


def _ended(execution: Execution, phase: Phase, reason_code: str, reason: str, now: datetime) -> Execution:
    return replace(
        execution,
        phase=phase,
        reason_code=reason_code,
        reason=reason,
        ended_at=now,
        stages=tuple(_skipped(execution.stages)),
    )


def _skipped(stages: Iterable[StageState]) -> Iterable[StageState]:
    for each in stages:
        yield replace(each, phase=StagePhase.SKIPPED) if each.phase == StagePhase.PENDING else each


def _named(execution: Execution, name: str) -> StageState:
    stage = execution.stage(name)
    if stage is None:
        raise Conflict(f"execution {execution.execution_id} has no stage {name}", code="stage_not_found")
    return stage
