"""Answered rows and outcomes: the join."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from phantom_contracts.schema import ModelSchema
from phantom_monitor.domain.counts import WindowKey, window_start
from phantom_monitor.domain.labels import Predicted
from phantom_monitor.values import Reported, StoredOutcome
from phantom_platform.postgres import Database, Transaction


class PostgresPredictions:
    """Answered rows and outcomes: the join."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, tx: Transaction, rows: Sequence[tuple[Any, ...]]) -> None:
        """Store answered rows (the columns of `predictions` up to `counted`)."""
        await tx.connection.copy_records_to_table("predictions", records=rows)

    async def with_outcomes(
        self,
        tx: Transaction,
        workspace: str,
        endpoint: str,
        request_ids: Sequence[str],
        prediction_ids: Sequence[str],
    ) -> tuple[list[str], list[str]]:
        """Which of these request and prediction ids have an outcome."""
        rows = await tx.fetch(
            """SELECT kind, id FROM outcomes
               WHERE workspace = $1 AND endpoint = $2 AND kind = 'request' AND id = ANY($3)
               UNION
               SELECT kind, id FROM outcomes
               WHERE workspace = $1 AND endpoint = $2 AND kind = 'prediction' AND id = ANY($4)""",
            workspace,
            endpoint,
            request_ids,
            prediction_ids,
        )
        requests = [row["id"] for row in rows if row["kind"] == "request"]
        return requests, [row["id"] for row in rows if row["kind"] == "prediction"]

    async def report(self, tx: Transaction, reported: Iterable[Reported]) -> None:
        """Keep an outcome where it is the newest of its id."""
        await tx.executemany(
            """INSERT INTO outcomes AS o VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'waiting')
               ON CONFLICT (id, row_number, kind, workspace, endpoint) DO UPDATE
               SET event_us = EXCLUDED.event_us, partition = EXCLUDED.partition,
                   kafka_offset = EXCLUDED.kafka_offset, label = EXCLUDED.label, fields = EXCLUDED.fields,
                   state = 'waiting'
               WHERE (o.event_us, o.partition, o.kafka_offset)
                   < (EXCLUDED.event_us, EXCLUDED.partition, EXCLUDED.kafka_offset)""",
            [
                (
                    r.workspace,
                    r.endpoint,
                    r.kind,
                    r.id,
                    r.row,
                    r.event_us,
                    r.partition,
                    r.offset,
                    json.dumps(r.label),
                    json.dumps(r.fields),
                    tx.now,
                )
                for r in sorted(reported, key=lambda r: (r.workspace, r.endpoint, r.kind, r.id, r.row))
            ],
        )

    async def lock_matching(
        self,
        tx: Transaction,
        workspace: str,
        endpoint: str,
        request_ids: Sequence[str],
        prediction_ids: Sequence[str],
    ) -> list[tuple[Predicted, StoredOutcome | None, int]]:
        """Predictions of these ids: (row, its newest outcome, matures at unix µs).

        A request's outcome is its first answer's only: the least (answer time, prediction id) within 7 days.
        """
        rows = await tx.fetch(
            """WITH wanted AS (
                   SELECT prediction_id, row_number FROM predictions
                   WHERE workspace = $1 AND endpoint = $2 AND request_id = ANY($3) AND request_id <> ''
                   UNION
                   SELECT prediction_id, row_number FROM predictions
                   WHERE workspace = $1 AND endpoint = $2 AND prediction_id = ANY($4::uuid[]))
               SELECT p.*,
                   NOT EXISTS (
                       SELECT 1 FROM predictions q
                       WHERE q.workspace = p.workspace AND q.endpoint = p.endpoint AND p.request_id <> ''
                         AND q.request_id = p.request_id AND q.request_id <> '' AND q.row_number = p.row_number
                         AND (q.answered_us, q.prediction_id) < (p.answered_us, p.prediction_id)
                         AND q.answered_us > p.answered_us - 604800000000) AS is_first,
                   b.label AS by_id, b.fields AS by_id_fields, b.event_us AS by_id_us,
                   r.label AS by_request, r.fields AS by_request_fields, r.event_us AS by_request_us
               FROM wanted
               JOIN predictions p ON p.workspace = $1 AND p.endpoint = $2
                   AND p.prediction_id = wanted.prediction_id AND p.row_number = wanted.row_number
               LEFT JOIN outcomes b ON b.workspace = $1 AND b.endpoint = $2
                   AND b.kind = 'prediction' AND b.id = p.prediction_id::text AND b.row_number = p.row_number
               LEFT JOIN outcomes r ON r.workspace = $1 AND r.endpoint = $2
                   AND r.kind = 'request' AND r.id = p.request_id AND r.row_number = p.row_number
               ORDER BY p.prediction_id, p.row_number FOR UPDATE OF p""",
            workspace,
            endpoint,
            request_ids,
            prediction_ids,
        )
        return [(predicted(row), _newest(row), row["matures_us"]) for row in rows]

    async def set_counted(
        self, tx: Transaction, rows: Sequence[tuple[str, str, str, int, str | None]]
    ) -> None:
        """Note the label counted for (workspace, endpoint, prediction id, row)."""
        await tx.executemany(
            """UPDATE predictions SET counted = $5
               WHERE workspace = $1 AND endpoint = $2 AND prediction_id = $3::uuid AND row_number = $4""",
            rows,
        )

    async def join_outcomes(
        self, tx: Transaction, workspace: str, endpoint: str, kind: str, keys: Sequence[tuple[str, int]]
    ) -> None:
        """Note the outcomes of these (id, row) as joined."""
        await tx.execute(
            """UPDATE outcomes o SET state = 'joined' FROM unnest($4::text[], $5::int[]) AS k (id, row_number)
               WHERE o.id = k.id AND o.row_number = k.row_number AND o.kind = $3
                 AND o.workspace = $1 AND o.endpoint = $2 AND o.state <> 'joined'""",
            workspace,
            endpoint,
            kind,
            [id for id, _ in keys],
            [row for _, row in keys],
        )

    async def due(self, tx: Transaction, now_us: int, limit: int) -> list[asyncpg.Record]:
        """Waiting outcomes whose prediction is here and has matured: (workspace, endpoint, kind, id)."""
        return await tx.fetch(
            """SELECT DISTINCT o.workspace, o.endpoint, o.kind, o.id FROM outcomes o
               JOIN predictions p ON p.workspace = o.workspace AND p.endpoint = o.endpoint
                   AND p.row_number = o.row_number AND p.matures_us <= $1
                   AND ((o.kind = 'request' AND p.request_id = o.id AND p.request_id <> '')
                     OR (o.kind = 'prediction' AND p.prediction_id::text = o.id))
               WHERE o.state = 'waiting' LIMIT $2""",
            now_us,
            limit,
        )

    async def rename_endpoint(self, tx: Transaction, workspace: str, alias: str, endpoint: str) -> None:
        """Outcomes that came under an alias before its route was known."""
        await tx.execute(
            """UPDATE outcomes o SET endpoint = $3 WHERE workspace = $1 AND endpoint = $2 AND state = 'waiting'
               AND NOT EXISTS (SELECT 1 FROM outcomes x WHERE x.workspace = $1 AND x.endpoint = $3
                   AND x.kind = o.kind AND x.id = o.id AND x.row_number = o.row_number)""",
            workspace,
            alias,
            endpoint,
        )

    async def give_up(self, tx: Transaction, before: datetime) -> None:
        """Outcomes that waited too long are unmatched."""
        await tx.execute(
            "UPDATE outcomes SET state = 'unmatched' WHERE state = 'waiting' AND arrived_at < $1", before
        )

    async def prune(self, tx: Transaction, answered_before_us: int, now_us: int) -> None:
        """Forget predictions of that age that matured two days ago, and the outcomes of that age."""
        await tx.execute(
            "DELETE FROM predictions WHERE answered_us < $1 AND matures_us < $2 - 172800000000",
            answered_before_us,
            now_us,
        )
        await tx.execute(
            "DELETE FROM outcomes WHERE event_us < $1 - 172800000000 AND state <> 'waiting'",
            answered_before_us,
        )

    async def counts(self, workspace: str, endpoint: str) -> dict[str, int]:
        """Outcomes by state, batches that came again, and calls that repeat a request id."""
        row = await self._database.fetchrow(
            """SELECT
                 (SELECT count(*) FROM outcomes
                  WHERE (workspace, endpoint, state) = ($1, $2, 'joined')) AS outcomes_joined,
                 (SELECT count(*) FROM outcomes
                  WHERE (workspace, endpoint, state) = ($1, $2, 'waiting')) AS outcomes_waiting,
                 (SELECT count(*) FROM outcomes
                  WHERE (workspace, endpoint, state) = ($1, $2, 'unmatched')) AS outcomes_unmatched,
                 (SELECT coalesce(sum(repeated_batches), 0)::bigint FROM endpoint_counts
                  WHERE (workspace, endpoint) = ($1, $2)) AS repeated_batches,
                 (SELECT count(*) - count(DISTINCT request_id) FROM predictions
                  WHERE (workspace, endpoint, row_number) = ($1, $2, 0) AND request_id <> '') AS duplicates""",
            workspace,
            endpoint,
        )
        return dict(row) if row is not None else {}

    async def outcome_states(self) -> list[tuple[str, str, str, int]]:
        """(workspace, endpoint, state, outcomes)."""
        rows = await self._database.fetch(
            "SELECT workspace, endpoint, state, count(*) FROM outcomes GROUP BY 1, 2, 3"
        )
        return [tuple(row) for row in rows]

    async def save_schema(self, tx: Transaction, workspace: str, revision: str, schema: ModelSchema) -> None:
        """Keep a revision's schema."""
        await tx.execute(
            "INSERT INTO revision_schemas VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            workspace,
            revision,
            schema.model_dump_json(),
        )

    async def schemas(self) -> dict[tuple[str, str], ModelSchema]:
        """Every kept schema by (workspace, revision)."""
        rows = await self._database.fetch("TABLE revision_schemas")
        return {
            (row["workspace"], row["revision"]): ModelSchema.model_validate_json(row["model_schema"])
            for row in rows
        }


def predicted(row: Mapping[str, Any]) -> Predicted:
    """A stored row, of an answer or of a shadow."""
    return Predicted(
        window=WindowKey(
            row["workspace"],
            row["endpoint"],
            row["revision"],
            row["arm"],
            row["decision"],
            row["route_version"],
            "",
            window_start(row["received_us"]),
        ),
        prediction_id=str(row["prediction_id"]),
        request_id=row["request_id"],
        row=row["row_number"],
        group=row["unit_group"],
        label=row["label"],
        probabilities=tuple(row["probabilities"]) if row["probabilities"] is not None else None,
        class_labels=tuple(row["class_labels"]),
        score=row["score"],
        value=row["value"],
        counted=row["counted"],
    )


def _newest(row: asyncpg.Record) -> StoredOutcome | None:
    """The newest outcome that is this row's: by prediction id, or by request id where it is the request's first."""
    found = []
    if row["by_id_us"] is not None:
        found.append(_outcome("prediction", row, "by_id"))
    if row["by_request_us"] is not None and row["is_first"]:
        found.append(_outcome("request", row, "by_request"))
    return max(found, key=lambda o: o.event_us, default=None)


def _outcome(kind: str, row: asyncpg.Record, name: str) -> StoredOutcome:
    return StoredOutcome(kind, row[f"{name}_us"], json.loads(row[name]), json.loads(row[f"{name}_fields"]))
