"""What the pipelines service writes: the history of executions, key `<workspace>/<execution id>`."""

from __future__ import annotations

from typing import ClassVar

from phantom_contracts.events.base import Event


class ExecutionEvent(Event):
    """Something that happened to an execution of a pipeline."""

    execution_id: str
    pipeline_id: str
    model_id: str
    model_version: str
    # Who caused it; `pipelines` where the service went on by itself.
    actor: str
    # Why, in words and figures.
    reason: str = ""
    reason_code: str = ""


class ExecutionPhaseChanged(ExecutionEvent):
    type: ClassVar[str] = "phantom.pipelines.ExecutionPhaseChanged.v1"
    from_phase: str
    to_phase: str


class StagePhaseChanged(ExecutionEvent):
    type: ClassVar[str] = "phantom.pipelines.StagePhaseChanged.v1"
    stage: str
    stage_type: str
    from_phase: str
    to_phase: str
    # Seconds from begin to end, of a stage that ended.
    duration_s: float = 0.0


class ApprovalDecided(ExecutionEvent):
    type: ClassVar[str] = "phantom.pipelines.ApprovalDecided.v1"
    stage: str
    # `approved`, `rejected`, `expired`.
    decision: str
