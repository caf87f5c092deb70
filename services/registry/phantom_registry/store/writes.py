"""Every INSERT, UPDATE and DELETE, inside one transaction."""

# ruff: noqa: S608 - the only names put into SQL are our own constants

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from phantom_contracts.events.base import Event
from phantom_contracts.topics import Topic
from phantom_platform.postgres.answers import AnswerWrites
from phantom_registry.domain.approvals import Promotion
from phantom_registry.domain.lineage import Edge, Lineage
from phantom_registry.domain.stages import Stage
from phantom_registry.domain.values import Artifact, Dataset, Model, Version
from phantom_registry.store import rows
from phantom_registry.store.reads import Reads

T = TypeVar("T")


class Writes(Reads, AnswerWrites):
    """One transaction of the registry: its tables, and the outbox."""

    # -- announcements ---------------------------------------------------------

    def announce(self, topic: Topic, key: str, event: Event, number: int) -> None:
        """Published iff this transaction commits, as the key's event `number`."""
        self._tx.outbox.add(topic, key, event, version=number)

    async def next_event(self, workspace: str, model_id: str) -> int:
        """The number of the model's next event."""
        sql = "UPDATE models SET events = events + 1 WHERE workspace = $1 AND model_id = $2 RETURNING events"
        number: int = await self._tx.fetchval(sql, workspace, model_id)
        return number

    # -- models and versions ---------------------------------------------------

    async def add_model(self, workspace: str, model: Model) -> bool:
        """False where it exists."""
        sql = """
            INSERT INTO models (workspace, model_id, description, tags, created_at, created_by)
            VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING 1"""
        values = (model.model_id, model.description, list(model.tags), model.created_at, model.created_by)
        return bool(await self._tx.fetchval(sql, workspace, *values))

    async def lock_model(self, workspace: str, model_id: str) -> Model | None:
        """The model, ours until the end of the transaction: changes of one model come one after the other."""
        # A statement of its own: the read must see what the transaction that was waited for has committed.
        lock = "SELECT 1 FROM models WHERE workspace = $1 AND model_id = $2 FOR UPDATE"
        if await self._tx.fetchval(lock, workspace, model_id) is None:
            return None
        return await self.model(workspace, model_id)

    async def set_tags(self, workspace: str, model_id: str, tags: Sequence[str]) -> None:
        sql = "UPDATE models SET tags = $3 WHERE workspace = $1 AND model_id = $2"
        await self._tx.execute(sql, workspace, model_id, list(tags))

    async def add_artifact(self, workspace: str, artifact: Artifact, by: str) -> bool:
        """False where the workspace has it."""
        sql = """
            INSERT INTO artifacts (workspace, digest, size_bytes, created_at, created_by)
            VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING 1"""
        values = (artifact.digest, artifact.size_bytes, self.now, by)
        return bool(await self._tx.fetchval(sql, workspace, *values))

    async def add_version(self, workspace: str, version: Version) -> None:
        sql = """
            INSERT INTO versions (workspace, model_id, version, digest, file_name, framework, stage, stage_place,
                description, metadata, claimed_metrics, model_schema, changes, performance_comparison,
                created_at, created_by)
            VALUES ($1, $2, $3, $4, $5, $6, $7, nextval('stage_places'), $8, $9::text::jsonb, $10::text::jsonb,
                    $11, $12, $13::text::jsonb, $14, $15)"""
        await self._tx.execute(
            sql,
            workspace,
            version.model_id,
            version.version,
            version.digest,
            version.file_name,
            version.framework,
            version.stage.value,
            version.description,
            json.dumps(version.metadata),
            json.dumps(version.claimed_metrics),
            version.model_schema,
            list(version.changes),
            json.dumps(version.performance_comparison),
            version.created_at,
            version.created_by,
        )

    async def set_stage(self, workspace: str, model_id: str, version: str, stage: Stage) -> None:
        sql = """
            UPDATE versions SET stage = $4, stage_place = nextval('stage_places')
            WHERE workspace = $1 AND model_id = $2 AND version = $3"""
        await self._tx.execute(sql, workspace, model_id, version, stage.value)

    # -- promotions ------------------------------------------------------------

    async def add_promotion(self, workspace: str, promotion: Promotion) -> bool:
        """False where another one of the version is pending."""
        values = asdict(promotion)
        names = ", ".join(values)
        places = ", ".join(f"${i + 2}" for i in range(len(values)))
        sql = f"""
            INSERT INTO promotions (workspace, {names}) VALUES ($1, {places})
            ON CONFLICT DO NOTHING RETURNING 1"""
        return bool(await self._tx.fetchval(sql, workspace, *values.values()))

    async def pending_of(self, workspace: str, model_id: str, version: str) -> Promotion | None:
        sql = f"""
            SELECT {rows.PROMOTION} FROM promotions
            WHERE workspace = $1 AND model_id = $2 AND version = $3 AND state = 'pending'"""
        row = await self._tx.fetchrow(sql, workspace, model_id, version)
        return None if row is None else rows.to_promotion(row)

    async def overdue(self, limit: int) -> list[tuple[str, Promotion]]:
        """Pending promotions of any workspace whose time is over, with their workspaces."""
        sql = f"""
            SELECT workspace, {rows.PROMOTION} FROM promotions
            WHERE state = 'pending' AND expires_at <= $1 ORDER BY expires_at LIMIT $2"""
        found = await self._tx.fetch(sql, self.now, limit)
        return [(row["workspace"], rows.to_promotion(row)) for row in found]

    async def save_decision(self, workspace: str, promotion: Promotion) -> None:
        sql = """
            UPDATE promotions SET state = $3, decided_by = $4, decided_at = $5, comment = $6
            WHERE workspace = $1 AND promotion_id = $2"""
        decision = (promotion.state.value, promotion.decided_by, promotion.decided_at, promotion.comment)
        await self._tx.execute(sql, workspace, promotion.promotion_id, *decision)

    # -- datasets and lineage --------------------------------------------------

    async def add_dataset(self, workspace: str, dataset: Dataset) -> bool:
        """False where that version exists."""
        sql = """
            INSERT INTO datasets (workspace, name, version, digest, uri, rows, metadata, created_at, created_by)
            VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9) ON CONFLICT DO NOTHING RETURNING 1"""
        values: tuple[Any, ...] = (dataset.name, dataset.version, dataset.digest, dataset.uri, dataset.rows)
        values += (json.dumps(dataset.metadata), dataset.created_at, dataset.created_by)
        return bool(await self._tx.fetchval(sql, workspace, *values))

    async def count_dataset(self, workspace: str, name: str) -> int:
        """How many versions a dataset has."""
        sql = "SELECT count(*) FROM datasets WHERE workspace = $1 AND name = $2"
        number: int = await self._tx.fetchval(sql, workspace, name)
        return number

    async def lock_graph(self, workspace: str) -> None:
        """Edges come one transaction after the other: two that are fine alone may close a cycle together."""
        await self._tx.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('lineage ' || $1, 0))", workspace
        )

    async def add_lineage(self, workspace: str, lineage: Lineage) -> None:
        sql = """
            INSERT INTO lineages (workspace, lineage_id, model_id, version, content, created_at, created_by)
            VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7)"""
        content = json.dumps(asdict(lineage.content))
        ids = (lineage.lineage_id, lineage.model_id, lineage.version)
        await self._tx.execute(sql, workspace, *ids, content, lineage.created_at, lineage.created_by)

    async def add_edges(self, workspace: str, edges: Sequence[Edge]) -> None:
        sql = """
            INSERT INTO lineage_edges
            SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
            ON CONFLICT DO NOTHING"""
        columns = [
            [str(getattr(node, part)) for node in end]
            for end in ([edge.made for edge in edges], [edge.source for edge in edges])
            for part in ("kind", "name", "version")
        ]
        await self._tx.execute(sql, workspace, *columns)
