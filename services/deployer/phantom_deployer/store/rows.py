"""Rows to values and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from phantom_contracts.schema import EndpointSchema, ModelSchema
from phantom_deployer.domain.deployment import (
    Deployment,
    Environment,
    ModelVersion,
    Replica,
    Revision,
    Shadow,
)
from phantom_statistics.assignment import Allocation

Row = Mapping[str, Any]

_REPLICA_FIELDS = (
    "revision", "drain_key", "phase", "address", "pid", "launch_id", "launched_at", "ready_at", "restarts",
    "failures", "next_start_at", "is_leaving", "drain_sent_at", "reason",
)  # fmt: skip


def to_environment(row: Row) -> Environment:
    return Environment(row["workspace"], row["name"], row["type"], row["created_at"], row["created_by"])


def to_deployment(row: Row, revisions: tuple[Revision, ...], processes: tuple[Replica, ...]) -> Deployment:
    schema = row["schema"]
    return Deployment(
        workspace=row["workspace"],
        id=row["deployment_id"],
        environment=row["environment"],
        model_id=row["model_id"],
        replicas=row["replicas"],
        hash_field=row["hash_field"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        salt=row["salt"],
        stable=row["stable"],
        candidate=row["candidate"],
        allocations=tuple(Allocation(*each) for each in json.loads(row["allocations"])),
        pending_bp=row["pending_bp"],
        shadow=Shadow(**json.loads(row["shadow"])) if row["shadow"] else None,
        next_number=row["next_number"],
        aliases=tuple(row["aliases"]),
        schema=EndpointSchema.model_validate_json(schema) if schema else None,
        is_deleting=row["is_deleting"],
        is_deleted=row["is_deleted"],
        route_version=row["route_version"],
        version=row["version"],
        revisions=revisions,
        processes=processes,
    )


def from_deployment(deployment: Deployment) -> tuple[object, ...]:
    """In the order of the statement in `Writes.save`."""
    allocations = [[each.start, each.end, each.arm] for each in deployment.allocations]
    return (
        deployment.workspace,
        deployment.id,
        deployment.environment,
        deployment.model_id,
        deployment.replicas,
        deployment.hash_field,
        deployment.salt,
        deployment.stable,
        deployment.candidate,
        json.dumps(allocations),
        deployment.pending_bp,
        deployment.next_number,
        list(deployment.aliases),
        deployment.schema.model_dump_json() if deployment.schema else None,
        deployment.is_deleting,
        deployment.is_deleted,
        deployment.route_version,
        deployment.version,
        deployment.created_at,
        deployment.created_by,
        json.dumps(asdict(deployment.shadow)) if deployment.shadow else None,
    )


def to_revision(row: Row) -> Revision:
    model = json.loads(row["model"])
    schema = ModelSchema.model_validate(model.pop("model_schema"))
    return Revision(
        id=row["revision"],
        number=row["number"],
        model=ModelVersion(**model, model_schema=schema),
        phase=row["phase"],
        reason=row["reason"],
        error_code=row["error_code"],
        was_ready=row["was_ready"],
        target=row["target"],
    )


def model_json(model: ModelVersion) -> str:
    return json.dumps(
        {
            "model_id": model.model_id,
            "version": model.version,
            "digest": model.digest,
            "file_name": model.file_name,
            "framework": model.framework,
            "size_bytes": model.size_bytes,
            "model_schema": model.model_schema.model_dump(mode="json"),
        }
    )


def to_replica(row: Row, routed: Sequence[Row] = ()) -> Replica:
    """`routed`: the rows of table `routed` about this replica."""
    known = {name: row[name] for name in _REPLICA_FIELDS}
    left = [each for each in routed if each["left_at"] is not None]
    return Replica(
        id=row["replica_id"],
        is_routed=len(left) < len(routed),
        departures=tuple((f"{each['workspace']}/{each['endpoint']}", each["left_at"]) for each in left),
        **known,
    )


def from_replica(replica: Replica) -> tuple[object, ...]:
    """Id first, then in the order of the statement in `Writes.save`."""
    return (replica.id, *(getattr(replica, name) for name in _REPLICA_FIELDS))
