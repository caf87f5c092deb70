"""Rows to values: one function a noun, and the columns that it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from phantom_registry.domain.approvals import Promotion, State
from phantom_registry.domain.lineage import Code, Kind, Lineage, LineageContent, Node, Pipeline, Source
from phantom_registry.domain.stages import Stage
from phantom_registry.domain.values import Dataset, Model, Version

Row = Mapping[str, Any]

# jsonb travels as text both ways, whatever codec a connection has.
MODEL = """
    m.model_id, m.description, m.tags, m.created_at, m.created_by, m.place,
    coalesce((SELECT v.version FROM versions v WHERE v.workspace = m.workspace AND v.model_id = m.model_id
              ORDER BY v.place DESC LIMIT 1), '') AS latest_version,
    (SELECT coalesce(json_object_agg(s.stage, s.version), '{}')::text
       FROM (SELECT DISTINCT ON (v.stage) v.stage, v.version FROM versions v
              WHERE v.workspace = m.workspace AND v.model_id = m.model_id
              ORDER BY v.stage, v.stage_place DESC) s) AS stage_versions"""
VERSION = """
    v.model_id, v.version, v.digest, a.size_bytes, v.file_name, v.framework, v.stage, v.description,
    v.metadata::text AS metadata, v.claimed_metrics::text AS claimed_metrics, v.model_schema, v.changes,
    v.performance_comparison::text AS performance_comparison, v.created_at, v.created_by, v.place"""
VERSIONS = "versions v JOIN artifacts a ON a.workspace = v.workspace AND a.digest = v.digest"
PROMOTION = """
    promotion_id, model_id, version, from_stage, to_stage, state, approval_required, reviewer, requested_by,
    requested_at, expires_at, decided_by, decided_at, comment, digest, place"""
DATASET = "name, version, digest, uri, rows, metadata::text AS metadata, created_at, created_by, place"
LINEAGE = "lineage_id, model_id, version, content::text AS content, created_at, created_by"


def to_model(row: Row) -> Model:
    return Model(
        model_id=row["model_id"],
        description=row["description"],
        tags=tuple(row["tags"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        latest_version=row["latest_version"],
        stage_versions=json.loads(row["stage_versions"]),
    )


def to_version(row: Row) -> Version:
    return Version(
        model_id=row["model_id"],
        version=row["version"],
        digest=row["digest"],
        size_bytes=row["size_bytes"],
        file_name=row["file_name"],
        framework=row["framework"],
        stage=Stage(row["stage"]),
        description=row["description"],
        metadata=json.loads(row["metadata"]),
        claimed_metrics=json.loads(row["claimed_metrics"]),
        model_schema=row["model_schema"],
        changes=tuple(row["changes"]),
        performance_comparison=json.loads(row["performance_comparison"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
    )


def to_promotion(row: Row) -> Promotion:
    return Promotion(
        promotion_id=row["promotion_id"],
        model_id=row["model_id"],
        version=row["version"],
        from_stage=Stage(row["from_stage"]),
        to_stage=Stage(row["to_stage"]),
        state=State(row["state"]),
        approval_required=row["approval_required"],
        reviewer=row["reviewer"],
        requested_by=row["requested_by"],
        requested_at=row["requested_at"],
        expires_at=row["expires_at"],
        decided_by=row["decided_by"],
        decided_at=row["decided_at"],
        comment=row["comment"],
        digest=row["digest"],
    )


def to_dataset(row: Row) -> Dataset:
    return Dataset(
        name=row["name"],
        version=row["version"],
        digest=row["digest"],
        uri=row["uri"],
        rows=row["rows"],
        metadata=json.loads(row["metadata"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
    )


def to_lineage(row: Row) -> Lineage:
    return Lineage(
        lineage_id=row["lineage_id"],
        model_id=row["model_id"],
        version=row["version"],
        content=to_content(json.loads(row["content"])),
        created_at=row["created_at"],
        created_by=row["created_by"],
    )


def to_content(stored: Mapping[str, Any]) -> LineageContent:
    """The inverse of `dataclasses.asdict`."""
    code = stored["training_code"]
    return LineageContent(
        source_data=tuple(Source(**each) for each in stored["source_data"]),
        feature_pipelines=tuple(
            Pipeline(each["pipeline"], each["version"], tuple(each["transformations"]))
            for each in stored["feature_pipelines"]
        ),
        training_code=Code(**code) if code is not None else None,
        dependencies=stored["dependencies"],
    )


def to_node(row: Row, end: str) -> Node:
    return Node(Kind(row[f"{end}_kind"]), row[f"{end}_name"], row[f"{end}_version"])
