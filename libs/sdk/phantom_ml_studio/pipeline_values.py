"""What calls about pipelines and test suites return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict

from phantom.pipelines.v1 import pipeline_pb2 as messages
from phantom.pipelines.v1 import pipeline_service_pb2 as rpc
from phantom_ml_studio.reading import fields_of

ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Stage:
    """One stage, as it was added: `type` is validation, containerization, deployment, testing or approval."""

    name: str
    type: str
    config: dict[str, Any]

    @classmethod
    def of(cls, s: messages.Stage) -> Stage:
        """From the message."""
        return cls(s.name, s.type, MessageToDict(s.config))


@dataclass(frozen=True)
class Pipeline:
    """A list of stages that a model version goes through."""

    pipeline_id: str
    name: str
    description: str
    stages: tuple[Stage, ...]
    version: int
    created_at: datetime | None
    created_by: str

    @property
    def id(self) -> str:
        """The pipeline's id."""
        return self.pipeline_id

    @classmethod
    def of(cls, p: messages.Pipeline) -> Pipeline:
        """From the message."""
        return cls(**fields_of(cls, p, stages=tuple(Stage.of(s) for s in p.stages)))


@dataclass(frozen=True)
class LogLine:
    """What a stage said; `level` is info, warning or error."""

    at: datetime | None
    level: str
    text: str

    @classmethod
    def of(cls, line: messages.LogLine) -> LogLine:
        """From the message."""
        return cls(**fields_of(cls, line))


@dataclass(frozen=True)
class Approval:
    """What a stage waits for; no approvers: anybody with `pipelines:approve`, but never the requester."""

    approvers: tuple[str, ...]
    expires_at: datetime | None
    state: str
    decided_by: str
    decided_at: datetime | None
    comment: str

    @classmethod
    def of(cls, a: messages.Approval) -> Approval:
        """From the message."""
        return cls(**fields_of(cls, a))


@dataclass(frozen=True)
class StageStatus:
    """How far a stage is, what it said, measured and made."""

    name: str
    type: str
    phase: str
    reason_code: str
    reason: str
    started_at: datetime | None
    ended_at: datetime | None
    duration_s: float
    logs: tuple[LogLine, ...]
    result: dict[str, Any]
    approval: Approval | None
    attempts: int

    @classmethod
    def of(cls, s: messages.StageStatus) -> StageStatus:
        """From the message."""
        approval = Approval.of(s.approval) if s.HasField("approval") else None
        return cls(**fields_of(cls, s, logs=tuple(LogLine.of(x) for x in s.logs), approval=approval))


@dataclass(frozen=True)
class Execution:
    """A model version's way through a pipeline. `progress` is 0 to 100, to a tenth."""

    execution_id: str
    pipeline_id: str
    pipeline_name: str
    model_id: str
    model_version: str
    trigger: str
    phase: str
    reason_code: str
    reason: str
    current_stage: str
    progress: float
    stages: tuple[StageStatus, ...]
    created_at: datetime | None
    ended_at: datetime | None
    created_by: str

    @property
    def id(self) -> str:
        """The execution's id."""
        return self.execution_id

    @property
    def has_ended(self) -> bool:
        """Nothing will happen to it any more."""
        return self.phase in ENDED

    @classmethod
    def of(cls, e: messages.Execution) -> Execution:
        """From the message."""
        stages = tuple(StageStatus.of(s) for s in e.stages)
        return cls(**fields_of(cls, e, stages=stages, progress=round(e.progress, 1)))


@dataclass(frozen=True)
class TestSuite:
    """Cases of requests and expectations: the rows of a registered dataset."""

    __test__ = False  # nothing for pytest to collect

    name: str
    dataset: str
    dataset_version: str
    expected_column: str
    tolerance: float
    id_column: str
    max_cases: int
    description: str
    created_at: datetime | None
    created_by: str

    @classmethod
    def of(cls, s: messages.TestSuite) -> TestSuite:
        """From the message."""
        return cls(**fields_of(cls, s))


@dataclass(frozen=True)
class FailedCase:
    """A case that was answered otherwise than expected, or not at all."""

    case_id: str
    expected: str
    got: str
    error: str


@dataclass(frozen=True)
class TestRun:
    """A suite against one endpoint; `pass_rate_lower` is the lower end of its interval."""

    __test__ = False

    suite: str
    endpoint: str
    model_version: str
    cases: int
    passed: int
    failed: int
    pass_rate: float
    pass_rate_lower: float
    latency_p95_ms: float
    failures: tuple[FailedCase, ...]
    duration_s: float
    dataset_digest: str

    @classmethod
    def of(cls, r: messages.TestRun) -> TestRun:
        """From the message."""
        failures = tuple(FailedCase(f.case_id, f.expected, f.got, f.error) for f in r.failures)
        return cls(**fields_of(cls, r, failures=failures))


@dataclass(frozen=True)
class TestResult:
    """A suite against the endpoints of an environment: passed where every endpoint did."""

    __test__ = False

    passed: bool
    runs: tuple[TestRun, ...]

    @classmethod
    def of(cls, response: rpc.RunTestsResponse) -> TestResult:
        """From the message."""
        return cls(response.passed, tuple(TestRun.of(r) for r in response.runs))
