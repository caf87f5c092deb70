"""Rows to values, and values to columns: one pair a noun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from phantom_pipelines.domain.execution import Approval, Execution, Phase, StagePhase, StageState
from phantom_pipelines.domain.pipeline import Pipeline, Stage
from phantom_pipelines.domain.suites import Suite
from phantom_pipelines.domain.values import LogLine, ModelVersion

Row = Mapping[str, Any]

# jsonb travels as text both ways, whatever codec a connection has.
PIPELINE = "pipeline_id, name, description, stages::text AS stages, version, created_at, created_by, place"
EXECUTION = """
    workspace, execution_id, pipeline_id, pipeline_name, model::text AS model, trigger, phase, reason_code, reason,
    created_at, created_by, ended_at, place"""
STAGE = """
    execution_id, name, type, config::text AS config, phase, reason_code, reason, started_at, ended_at,
    result::text AS result, attempts, progress, approval::text AS approval"""
SUITE = "name, content::text AS content, created_at, created_by, place"

_APPROVAL = TypeAdapter(Approval)


def to_pipeline(row: Row) -> Pipeline:
    return Pipeline(
        pipeline_id=row["pipeline_id"],
        name=row["name"],
        description=row["description"],
        stages=tuple(Stage(**each) for each in json.loads(row["stages"])),
        created_at=row["created_at"],
        created_by=row["created_by"],
        version=row["version"],
    )


def from_stages(pipeline: Pipeline) -> str:
    return dumps([asdict(each) for each in pipeline.stages])


def to_execution(row: Row, stages: list[Row]) -> Execution:
    return Execution(
        workspace=row["workspace"],
        execution_id=row["execution_id"],
        pipeline_id=row["pipeline_id"],
        pipeline_name=row["pipeline_name"],
        model=ModelVersion(**json.loads(row["model"])),
        trigger=row["trigger"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        stages=tuple(to_stage(each) for each in stages),
        phase=Phase(row["phase"]),
        reason_code=row["reason_code"],
        reason=row["reason"],
        ended_at=row["ended_at"],
    )


def to_stage(row: Row) -> StageState:
    return StageState(
        name=row["name"],
        type=row["type"],
        config=json.loads(row["config"]),
        phase=StagePhase(row["phase"]),
        reason_code=row["reason_code"],
        reason=row["reason"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        result=None if row["result"] is None else json.loads(row["result"]),
        attempts=row["attempts"],
        progress=row["progress"],
        approval=None if row["approval"] is None else _APPROVAL.validate_json(row["approval"]),
    )


def from_stage(stage: StageState) -> tuple[Any, ...]:
    """phase, reason_code, reason, started_at, ended_at, result, attempts, progress, approval."""
    return (
        stage.phase.value,
        stage.reason_code,
        stage.reason,
        stage.started_at,
        stage.ended_at,
        None if stage.result is None else dumps(stage.result),
        stage.attempts,
        stage.progress,
        None if stage.approval is None else _APPROVAL.dump_json(stage.approval).decode(),
    )


def to_suite(row: Row) -> Suite:
    return Suite(**json.loads(row["content"]), created_at=row["created_at"], created_by=row["created_by"])


def from_suite(suite: Suite) -> str:
    content = asdict(suite)
    del content["created_at"], content["created_by"]
    return dumps(content)


def to_line(row: Row) -> LogLine:
    return LogLine(row["at"], row["level"], row["text"])


def dumps(value: object) -> str:
    """JSON, without what only Python calls JSON."""
    return json.dumps(value, allow_nan=False)
