"""Wire to values and back: one function a type."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from phantom.pipelines.v1 import pipeline_pb2 as pb
from phantom.pipelines.v1 import pipeline_service_pb2 as rpc_pb
from phantom_pipelines.domain.execution import Approval, Execution, StageState
from phantom_pipelines.domain.pipeline import Pipeline, Stage
from phantom_pipelines.domain.suites import FailedCase, Suite, SuiteRun
from phantom_pipelines.domain.values import MAY_DEPLOY, Call, LogLine
from phantom_pipelines.service.executions import Logs, Order
from phantom_pipelines.service.testing import TestOrder
from phantom_platform.errors import Invalid, Violation
from phantom_platform.rpc import current_caller

MAX_DEPTH = 32
"""Levels of nesting in a stage's config."""
EPOCH = datetime.fromtimestamp(0, UTC)


# -- in ----------------------------------------------------------------------------


def to_call(request: Message) -> Call:
    """Who calls, and the fingerprint of what for: everything in the request but its id."""
    refuse_nul(request)
    caller = current_caller()
    rest = type(request)()
    rest.CopyFrom(request)
    rest.ClearField("request_id")
    content = rest.SerializeToString(deterministic=True)
    name = request.DESCRIPTOR.full_name
    fingerprint = hashlib.sha256(name.encode() + b"\0" + content).hexdigest()
    request_id = getattr(request, "request_id", "")
    return Call(caller.principal, caller.workspace, request_id, fingerprint, caller.may(MAY_DEPLOY))


def workspace(request: Message) -> str:
    """The caller's, for a read; its texts go into queries."""
    refuse_nul(request)
    return current_caller().workspace


def refuse_nul(message: Message, path: str = "") -> None:
    """Raise `Invalid` where a text holds U+0000, which Postgres cannot keep. Structs are looked at by `to_json`."""
    for descriptor, value in message.ListFields():
        place = f"{path}.{descriptor.name}" if path else descriptor.name
        if isinstance(value, Message) and not isinstance(value, Struct):
            refuse_nul(value, place)
        elif isinstance(value, str) and "\0" in value:
            raise Invalid(code="invalid_text", violations=[Violation(place, "holds the character U+0000")])


def to_stage(message: pb.Stage) -> Stage:
    return Stage(message.name, message.type, to_json(message.config, "stage.config"))


def to_order(message: rpc_pb.ExecutePipelineRequest) -> Order:
    return Order(message.pipeline_id, message.model_id, message.version, message.trigger)


def to_suite(message: pb.TestSuite) -> Suite:
    """`created_*` are the service's to set."""
    return Suite(
        name=message.name,
        dataset=message.dataset,
        created_at=EPOCH,
        created_by="",
        dataset_version=message.dataset_version,
        expected_column=message.expected_column,
        tolerance=message.tolerance,
        id_column=message.id_column,
        max_cases=message.max_cases,
        description=message.description,
    )


def to_test_order(message: rpc_pb.RunTestsRequest) -> TestOrder:
    return TestOrder(
        suite=message.suite,
        environment=message.environment,
        endpoint=message.endpoint,
        dataset=message.dataset,
        min_pass_rate=message.min_pass_rate,
        timeout_s=message.timeout_s,
    )


def to_json(struct: Struct, field: str) -> dict[str, Any]:
    """A Struct as JSON values; whole numbers are ints. `Invalid` where a number is not finite or a text has U+0000."""
    return {_text(k, field): _json(v, f"{field}.{k}", 1) for k, v in struct.fields.items()}


def _json(value: Value, place: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise _misfit(place, f"is nested more than {MAX_DEPTH} levels deep")
    match value.WhichOneof("kind"):
        case "struct_value":
            return {
                _text(k, place): _json(v, f"{place}.{k}", depth + 1)
                for k, v in value.struct_value.fields.items()
            }
        case "list_value":
            return [_json(v, f"{place}[{i}]", depth + 1) for i, v in enumerate(value.list_value.values)]
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise _misfit(place, f"is {number}; numbers are finite")
            return int(number) if number == int(number) and abs(number) < 2**53 else number
        case "string_value":
            return _text(value.string_value, place)
        case "bool_value":
            return value.bool_value
    return None


def _text(value: str, place: str) -> str:
    if "\0" in value:
        raise _misfit(place, "holds the character U+0000")
    return value


def _misfit(place: str, description: str) -> Invalid:
    return Invalid(code="invalid_stage", violations=[Violation(place[:200], description)])


# -- out ---------------------------------------------------------------------------


def from_pipeline(pipeline: Pipeline) -> pb.Pipeline:
    return pb.Pipeline(
        pipeline_id=pipeline.pipeline_id,
        name=pipeline.name,
        description=pipeline.description,
        stages=[pb.Stage(name=s.name, type=s.type, config=_struct(s.config)) for s in pipeline.stages],
        created_at=_time(pipeline.created_at),
        created_by=pipeline.created_by,
        version=pipeline.version,
    )


def from_execution(execution: Execution, logs: Logs | None = None) -> pb.Execution:
    lines = logs or {}
    return pb.Execution(
        execution_id=execution.execution_id,
        pipeline_id=execution.pipeline_id,
        pipeline_name=execution.pipeline_name,
        model_id=execution.model.model_id,
        model_version=execution.model.version,
        trigger=execution.trigger,
        phase=execution.phase.value,
        reason_code=execution.reason_code,
        reason=execution.reason,
        current_stage=execution.current_stage,
        progress=execution.progress,
        stages=[_from_stage(each, lines.get(each.name, [])) for each in execution.stages],
        created_at=_time(execution.created_at),
        ended_at=_time(execution.ended_at),
        created_by=execution.created_by,
    )


def _from_stage(stage: StageState, lines: Sequence[LogLine]) -> pb.StageStatus:
    return pb.StageStatus(
        name=stage.name,
        type=stage.type,
        phase=stage.phase.value,
        reason_code=stage.reason_code,
        reason=stage.reason,
        started_at=_time(stage.started_at),
        ended_at=_time(stage.ended_at),
        duration_s=stage.duration_s,
        logs=[pb.LogLine(at=_time(each.at), level=each.level, text=each.text) for each in lines],
        result=None if stage.result is None else _struct(stage.result),
        approval=_from_approval(stage.approval),
        attempts=stage.attempts,
    )


def _from_approval(approval: Approval | None) -> pb.Approval | None:
    if approval is None:
        return None
    return pb.Approval(
        approvers=approval.approvers,
        expires_at=_time(approval.expires_at),
        state=approval.state.value,
        decided_by=approval.decided_by,
        decided_at=_time(approval.decided_at),
        comment=approval.comment,
    )


def from_suite(suite: Suite) -> pb.TestSuite:
    return pb.TestSuite(
        name=suite.name,
        dataset=suite.dataset,
        dataset_version=suite.dataset_version,
        expected_column=suite.expected_column,
        tolerance=suite.tolerance,
        id_column=suite.id_column,
        max_cases=suite.max_cases,
        description=suite.description,
        created_at=_time(suite.created_at),
        created_by=suite.created_by,
    )


def from_run(run: SuiteRun) -> pb.TestRun:
    return pb.TestRun(
        suite=run.suite,
        endpoint=run.endpoint,
        model_version=run.model_version,
        cases=run.cases,
        passed=run.passed,
        failed=run.failed,
        pass_rate=run.pass_rate,
        pass_rate_lower=run.pass_rate_lower,
        latency_p95_ms=run.latency_p95_ms,
        failures=[_from_case(each) for each in run.failures],
        duration_s=run.duration_s,
        dataset_digest=run.dataset_digest,
    )


def _from_case(case: FailedCase) -> pb.FailedCase:
    return pb.FailedCase(case_id=case.case_id, expected=case.expected, got=case.got, error=case.error)


def _struct(values: Mapping[str, Any]) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
