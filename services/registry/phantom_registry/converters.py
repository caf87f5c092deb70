"""Wire to values and back: one function a type. What the protos cannot say about a field is checked here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

from phantom.registry.v1 import model_pb2 as pb
from phantom.registry.v1 import registry_service_pb2 as rpc_pb
from phantom_contracts.schema import ModelSchema
from phantom_platform.errors import Invalid, Violation
from phantom_platform.ids import check_name
from phantom_platform.rpc import current_caller
from phantom_registry.domain.approvals import Promotion, PromotionAsk
from phantom_registry.domain.lineage import Code, Lineage, LineageContent, Node, Pipeline, Source
from phantom_registry.domain.stages import Stage
from phantom_registry.domain.values import Actor, Call, Dataset, Model, Version, VersionSpec

MAX_DEPTH = 32
"""Levels of nesting in metadata."""

_STAGES: Mapping[pb.Stage, Stage | None] = {
    pb.STAGE_UNSPECIFIED: None,
    pb.STAGE_DEVELOPMENT: Stage.DEVELOPMENT,
    pb.STAGE_STAGING: Stage.STAGING,
    pb.STAGE_PRODUCTION: Stage.PRODUCTION,
    pb.STAGE_ARCHIVED: Stage.ARCHIVED,
}
_STAGE_NUMBERS = {stage: number for number, stage in _STAGES.items() if stage is not None}


# -- calls -------------------------------------------------------------------------


def to_call(request: Message) -> Call:
    """Who calls, and the fingerprint of what for: everything in the request but its id."""
    refuse_nul(request)
    caller = current_caller()
    actor = Actor(
        caller.principal, caller.workspace, caller.may("models:approve"), caller.may("models:promote")
    )
    request_id = getattr(request, "request_id", "")
    rest = type(request)()
    rest.CopyFrom(request)
    if request_id:
        rest.ClearField("request_id")
    content = rest.SerializeToString(deterministic=True)
    name = request.DESCRIPTOR.full_name
    return Call(actor, request_id, hashlib.sha256(name.encode() + b"\0" + content).hexdigest())


def refuse_nul(message: Message, path: str = "") -> None:
    """Raise `Invalid` where a text holds U+0000, which Postgres cannot keep."""
    for descriptor, value in message.ListFields():
        place = f"{path}.{descriptor.name}" if path else descriptor.name
        if _is_map(descriptor):
            for key, each in value.items():
                _refuse_nul_in(key, f"{place} key")
                _refuse_nul_in(each, f'{place}["{key}"]')
        elif descriptor.is_repeated:
            for number, each in enumerate(value):
                _refuse_nul_in(each, f"{place}[{number}]")
        else:
            _refuse_nul_in(value, place)


def _refuse_nul_in(value: object, place: str) -> None:
    if isinstance(value, Message):
        refuse_nul(value, place)
    elif isinstance(value, str) and "\0" in value:
        raise Invalid(code="invalid_text", violations=[Violation(place, "holds the character U+0000")])


def _is_map(descriptor: FieldDescriptor) -> bool:
    kind = descriptor.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


# -- in ----------------------------------------------------------------------------


def to_stage(number: pb.Stage) -> Stage | None:
    """None: unspecified."""
    return _STAGES[number]


def to_spec(message: rpc_pb.VersionSpec) -> VersionSpec:
    return VersionSpec(
        version=message.version,
        digest=message.digest,
        file_name=message.file_name,
        description=message.description,
        metadata=to_json(message.metadata, "version.metadata"),
        claimed_metrics=to_json(message.claimed_metrics, "version.claimed_metrics"),
        model_schema=checked_schema(message.schema_json, "version.schema_json"),
        changes=tuple(message.changes),
        performance_comparison=to_json(message.performance_comparison, "version.performance_comparison"),
        stage=to_stage(message.stage),
    )


def checked_schema(text: str, field: str) -> str:
    """The schema as given, if it is one (or none); else `Invalid` `invalid_schema` naming the part."""
    if not text:
        return ""
    try:
        ModelSchema.model_validate_json(text)
    except ValidationError as error:
        violations = [
            Violation(_path(field, each["loc"]), each["msg"].removeprefix("Value error, "))
            for each in error.errors(include_url=False, include_context=False)
        ]
        raise Invalid(code="invalid_schema", violations=violations) from error
    return text


def to_ask(message: rpc_pb.PromoteModelRequest) -> PromotionAsk:
    target = to_stage(message.to_stage)
    if target is None:
        raise Invalid(code="invalid_request", violations=[Violation("to_stage", "name the stage to move to")])
    return PromotionAsk(
        model_id=message.model_id,
        version=message.version,
        from_stage=to_stage(message.from_stage),
        to_stage=target,
        approval_required=message.approval_required,
        reviewer=message.reviewer,
        expires_in_s=message.expires_in_s,
    )


def to_dataset(message: rpc_pb.RegisterDatasetRequest) -> Dataset:
    """`created_*` are the service's to set."""
    return Dataset(
        name=message.name,
        version=message.version,
        digest=message.digest,
        uri=message.uri,
        rows=message.rows,
        metadata=to_json(message.metadata, "metadata"),
        created_at=datetime.fromtimestamp(0, UTC),
        created_by="",
    )


def to_content(message: rpc_pb.CreateLineageRequest) -> LineageContent:
    content = LineageContent(
        source_data=tuple(_source(each, f"source_data[{i}]") for i, each in enumerate(message.source_data)),
        feature_pipelines=tuple(
            _pipeline(each, f"feature_pipelines[{i}]") for i, each in enumerate(message.feature_pipelines)
        ),
        training_code=_code(message.training_code) if message.HasField("training_code") else None,
        dependencies=dict(sorted(message.dependencies.items())),
    )
    if content == LineageContent():
        violation = Violation(
            "source_data", "say where the version comes from: data, pipelines, code or dependencies"
        )
        raise Invalid(code="empty_lineage", violations=[violation])
    return content


def _source(message: pb.SourceData, place: str) -> Source:
    check_name(message.dataset, f"{place}.dataset")
    if message.verification:
        violation = Violation(f"{place}.verification", "is found by the registry; leave it out")
        raise Invalid(code="output_only", violations=[violation])
    return Source(
        dataset=message.dataset,
        version=_text(message.version, f"{place}.version", 128),
        hash=_text(message.hash, f"{place}.hash", 500, is_optional=True),
        role=_text(message.role or "training", f"{place}.role", 128),
    )


def _pipeline(message: pb.FeaturePipeline, place: str) -> Pipeline:
    check_name(message.pipeline, f"{place}.pipeline")
    version = _text(message.version, f"{place}.version", 128)
    return Pipeline(message.pipeline, version, tuple(message.transformations))


def _code(message: pb.TrainingCode) -> Code:
    return Code(
        repository=_text(message.repository, "training_code.repository", 500),
        commit=_text(message.commit, "training_code.commit", 128),
        branch=_text(message.branch, "training_code.branch", 500, is_optional=True),
    )


def _text(value: str, field: str, longest: int, *, is_optional: bool = False) -> str:
    if not value.strip() and not is_optional:
        raise Invalid(code="missing_field", violations=[Violation(field, "is needed")])
    if len(value) > longest:
        description = f"has {len(value)} characters; at most {longest}"
        raise Invalid(code="text_too_long", violations=[Violation(field, description)])
    return value


def to_json(struct: Struct, field: str) -> dict[str, Any]:
    """A Struct as JSON values; `Invalid` where a number is not finite or it is nested too deeply."""
    return {key: _json(value, f"{field}.{key}", 1) for key, value in struct.fields.items()}


def _json(value: Value, place: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        description = f"is nested more than {MAX_DEPTH} levels deep"
        raise Invalid(code="too_deep", violations=[Violation(place[:200], description)])
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {k: _json(v, f"{place}.{k}", depth + 1) for k, v in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_json(v, f"{place}[{i}]", depth + 1) for i, v in enumerate(value.list_value.values)]
    if kind == "number_value" and not math.isfinite(value.number_value):
        violation = Violation(place, f"is {value.number_value}; numbers are finite")
        raise Invalid(code="not_finite", violations=[violation])
    return None if kind in (None, "null_value") else getattr(value, kind)


def _path(field: str, location: Iterable[int | str]) -> str:
    return field + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


# -- out ---------------------------------------------------------------------------


def from_stage(stage: Stage) -> pb.Stage:
    return _STAGE_NUMBERS[stage]


def from_model(model: Model) -> pb.Model:
    return pb.Model(
        model_id=model.model_id,
        description=model.description,
        tags=model.tags,
        created_at=_time(model.created_at),
        created_by=model.created_by,
        latest_version=model.latest_version,
        stage_versions=model.stage_versions,
    )


def from_version(version: Version) -> pb.ModelVersion:
    return pb.ModelVersion(
        model_id=version.model_id,
        version=version.version,
        digest=version.digest,
        size_bytes=version.size_bytes,
        file_name=version.file_name,
        framework=version.framework,
        stage=from_stage(version.stage),
        description=version.description,
        metadata=_struct(version.metadata),
        claimed_metrics=_struct(version.claimed_metrics),
        schema_json=version.model_schema,
        changes=version.changes,
        performance_comparison=_struct(version.performance_comparison),
        created_at=_time(version.created_at),
        created_by=version.created_by,
    )


def from_promotion(promotion: Promotion) -> pb.Promotion:
    return pb.Promotion(
        promotion_id=promotion.promotion_id,
        model_id=promotion.model_id,
        version=promotion.version,
        from_stage=from_stage(promotion.from_stage),
        to_stage=from_stage(promotion.to_stage),
        state=promotion.state.value,
        approval_required=promotion.approval_required,
        reviewer=promotion.reviewer,
        requested_by=promotion.requested_by,
        requested_at=_time(promotion.requested_at),
        expires_at=_time(promotion.expires_at),
        decided_by=promotion.decided_by,
        decided_at=_time(promotion.decided_at),
        comment=promotion.comment,
        digest=promotion.digest,
    )


def from_dataset(dataset: Dataset) -> pb.Dataset:
    return pb.Dataset(
        name=dataset.name,
        version=dataset.version,
        digest=dataset.digest,
        uri=dataset.uri,
        rows=dataset.rows,
        metadata=_struct(dataset.metadata),
        created_at=_time(dataset.created_at),
        created_by=dataset.created_by,
    )


def from_lineage(lineage: Lineage) -> pb.Lineage:
    content, code = lineage.content, lineage.content.training_code
    return pb.Lineage(
        lineage_id=lineage.lineage_id,
        model_id=lineage.model_id,
        version=lineage.version,
        source_data=[
            pb.SourceData(
                dataset=each.dataset,
                version=each.version,
                hash=each.hash,
                verification=each.verification,
                role=each.role,
            )
            for each in content.source_data
        ],
        feature_pipelines=[
            pb.FeaturePipeline(
                pipeline=each.pipeline, version=each.version, transformations=each.transformations
            )
            for each in content.feature_pipelines
        ],
        training_code=pb.TrainingCode(repository=code.repository, commit=code.commit, branch=code.branch)
        if code
        else None,
        dependencies=content.dependencies,
        created_at=_time(lineage.created_at),
        created_by=lineage.created_by,
    )


def from_node(node: Node, distance: int) -> pb.LineageNode:
    return pb.LineageNode(kind=node.kind.value, name=node.name, version=node.version, distance=distance)


def _struct(values: Mapping[str, Any]) -> Struct | None:
    """None where there is nothing to say."""
    if not values:
        return None
    struct = Struct()
    struct.update(values)
    return struct


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
