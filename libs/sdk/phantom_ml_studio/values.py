"""What calls return: plain values, each made from its message in one place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from phantom.deployer.v1 import deployment_pb2 as deployer
from phantom.monitor.v1 import monitor_service_pb2 as monitor
from phantom.registry.v1 import model_pb2 as registry


def _time(stamp: Timestamp) -> datetime | None:
    return stamp.ToDatetime(tzinfo=UTC) if stamp.seconds else None


def _dict(struct: Struct) -> dict[str, Any]:
    return MessageToDict(struct)


def _stage(number: registry.Stage) -> str:
    return registry.Stage.Name(number).removeprefix("STAGE_").lower()


@dataclass(frozen=True)
class Model:
    """A registered model."""

    model_id: str
    description: str
    tags: tuple[str, ...]
    latest_version: str
    stage_versions: dict[str, str]
    created_at: datetime | None
    created_by: str

    @classmethod
    def of(cls, m: registry.Model) -> Model:
        """From the message."""
        return cls(
            m.model_id,
            m.description,
            tuple(m.tags),
            m.latest_version,
            dict(m.stage_versions),
            _time(m.created_at),
            m.created_by,
        )


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model: immutable bytes, and the stage they stand in."""

    model_id: str
    version: str
    digest: str
    size_bytes: int
    framework: str
    stage: str
    metadata: dict[str, Any]
    claimed_metrics: dict[str, Any]
    schema: dict[str, Any] | None
    changes: tuple[str, ...]
    performance_comparison: dict[str, Any]
    created_at: datetime | None
    created_by: str

    @classmethod
    def of(cls, v: registry.ModelVersion) -> ModelVersion:
        """From the message."""
        return cls(
            v.model_id,
            v.version,
            v.digest,
            v.size_bytes,
            v.framework,
            _stage(v.stage),
            _dict(v.metadata),
            _dict(v.claimed_metrics),
            json.loads(v.schema_json) if v.schema_json else None,
            tuple(v.changes),
            _dict(v.performance_comparison),
            _time(v.created_at),
            v.created_by,
        )


@dataclass(frozen=True)
class ModelRegistration:
    """What `register_model` made."""

    model_id: str
    model: Model
    version: ModelVersion

    @property
    def id(self) -> str:
        """The model's id, usable wherever a model_id is."""
        return self.model_id

    @classmethod
    def of(cls, model: registry.Model, version: registry.ModelVersion) -> ModelRegistration:
        """From the messages."""
        return cls(model.model_id, Model.of(model), ModelVersion.of(version))


@dataclass(frozen=True)
class Promotion:
    """A change of stage that was asked for; `state` is pending, executed, rejected or expired."""

    promotion_id: str
    model_id: str
    version: str
    from_stage: str
    to_stage: str
    state: str
    approval_required: bool
    reviewer: str
    requested_by: str
    requested_at: datetime | None
    expires_at: datetime | None
    decided_by: str
    decided_at: datetime | None
    comment: str
    digest: str

    @property
    def id(self) -> str:
        """The promotion's id."""
        return self.promotion_id

    @classmethod
    def of(cls, p: registry.Promotion) -> Promotion:
        """From the message."""
        return cls(
            p.promotion_id,
            p.model_id,
            p.version,
            _stage(p.from_stage),
            _stage(p.to_stage),
            p.state,
            p.approval_required,
            p.reviewer,
            p.requested_by,
            _time(p.requested_at),
            _time(p.expires_at),
            p.decided_by,
            _time(p.decided_at),
            p.comment,
            p.digest,
        )


@dataclass(frozen=True)
class Dataset:
    """Data by its content."""

    name: str
    version: str
    digest: str
    uri: str
    rows: int
    metadata: dict[str, Any]
    created_at: datetime | None
    created_by: str

    @classmethod
    def of(cls, d: registry.Dataset) -> Dataset:
        """From the message."""
        return cls(
            d.name, d.version, d.digest, d.uri, d.rows, _dict(d.metadata), _time(d.created_at), d.created_by
        )


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from; each source says whether its hash was verified."""

    lineage_id: str
    model_id: str
    version: str
    source_data: tuple[dict[str, Any], ...]
    feature_pipelines: tuple[dict[str, Any], ...]
    training_code: dict[str, Any]
    dependencies: dict[str, str]
    created_at: datetime | None
    created_by: str

    @classmethod
    def of(cls, lineage: registry.Lineage) -> Lineage:
        """From the message."""
        parts = MessageToDict(lineage, preserving_proto_field_name=True)
        return cls(
            lineage.lineage_id,
            lineage.model_id,
            lineage.version,
            tuple(parts.get("source_data", ())),
            tuple(parts.get("feature_pipelines", ())),
            parts.get("training_code", {}),
            dict(lineage.dependencies),
            _time(lineage.created_at),
            lineage.created_by,
        )


@dataclass(frozen=True)
class LineageNode:
    """A node of the lineage graph, and how many edges away it is."""

    kind: str
    name: str
    version: str
    distance: int


@dataclass(frozen=True)
class Replica:
    """One model server."""

    replica_id: str
    address: str
    phase: str
    reason: str
    pid: int
    restarts: int


@dataclass(frozen=True)
class Revision:
    """One version as a deployment serves it."""

    revision: str
    model_version: str
    digest: str
    phase: str
    reason: str
    replicas: tuple[Replica, ...] = ()
    # Fewer than the deployment's while it is rolled in or out.
    wanted_replicas: int = 0

    @classmethod
    def of(cls, r: deployer.Revision) -> Revision:
        """From the message."""
        replicas = tuple(
            Replica(x.replica_id, x.address, x.phase, x.reason, x.pid, x.restarts) for x in r.replicas
        )
        return cls(r.revision, r.model_version, r.digest, r.phase, r.reason, replicas, r.wanted_replicas)


@dataclass(frozen=True)
class Deployment:
    """A model served under one name, and the rollout on it, if any."""

    deployment_id: str
    environment: str
    model_id: str
    phase: str
    reason: str
    replicas: int
    hash_field: str
    stable: Revision | None
    candidate: Revision | None
    candidate_percent: float
    route_version: int
    acknowledged_route_version: int
    aliases: tuple[str, ...] = ()
    withdrawing: tuple[Revision, ...] = ()
    created_at: datetime | None = None
    created_by: str = ""
    # The revision before the present stable one, kept warm to be switched back to.
    standby: Revision | None = None
    # Of the units, whose calls are copied to the candidate.
    shadow_percent: float = 0.0

    @property
    def id(self) -> str:
        """The deployment's id: the endpoint's name."""
        return self.deployment_id

    @classmethod
    def of(cls, d: deployer.Deployment) -> Deployment:
        """From the message."""
        return cls(
            d.deployment_id,
            d.environment,
            d.model_id,
            d.phase,
            d.reason,
            d.replicas,
            d.hash_field,
            Revision.of(d.stable) if d.HasField("stable") else None,
            Revision.of(d.candidate) if d.HasField("candidate") else None,
            d.candidate_percent,
            d.route_version,
            d.acknowledged_route_version,
            tuple(d.aliases),
            tuple(Revision.of(r) for r in d.withdrawing),
            _time(d.created_at),
            d.created_by,
            Revision.of(d.standby) if d.HasField("standby") else None,
            d.shadow_percent,
        )


@dataclass(frozen=True)
class Environment:
    """Where deployments run."""

    name: str
    type: str
    created_at: datetime | None
    created_by: str

    @classmethod
    def of(cls, e: deployer.Environment) -> Environment:
        """From the message."""
        return cls(e.name, e.type, _time(e.created_at), e.created_by)


@dataclass(frozen=True)
class Gateway:
    """A gateway process, as its acknowledgements tell; per endpoint, the route versions it has applied and drained."""

    boot_id: str
    state: str
    last_seen: datetime | None
    applied: dict[str, int]
    drained: dict[str, int]

    @classmethod
    def of(cls, g: deployer.Gateway) -> Gateway:
        """From the message."""
        return cls(g.boot_id, g.state, _time(g.last_seen), dict(g.applied), dict(g.drained))


@dataclass(frozen=True)
class RevisionSummary:
    """What one revision answered, on one arm, by one kind of decision.

    Times in ms; ratios 0 to 1; None where there is too little to say.
    """

    revision: str
    arm: str
    decision: str
    requests: int
    rows: int
    failed_attempts: int
    fallbacks: int
    rejected_inputs: int
    error_rate: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_count: int
    labelled: int
    label_coverage: float | None
    accuracy: float | None
    accuracy_lower: float | None
    accuracy_upper: float | None
    log_loss: float | None
    classes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, s: monitor.RevisionSummary) -> RevisionSummary:
        """From the message."""
        plain: dict[str, Any] = dict.fromkeys(each.name for each in fields(cls))
        plain |= MessageToDict(s, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        plain |= {
            name: int(value) for name, value in plain.items() if isinstance(value, str) and name in _COUNTS
        }
        plain["classes"] = {label: int(count) for label, count in plain["classes"].items()}
        return cls(**plain)


_COUNTS = {
    "requests",
    "rows",
    "failed_attempts",
    "fallbacks",
    "rejected_inputs",
    "latency_count",
    "labelled",
}
