"""Rows that shadow revisions answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from phantom_monitor.domain.labels import Predicted
from phantom_monitor.domain.shadows import Pair
from phantom_monitor.store.predictions import predicted
from phantom_platform.postgres import Database, Transaction

_ANSWER = ("revision", "label", "class_labels", "probabilities", "score", "value", "counted", "answered_us")


class PostgresShadows:
    """Rows that shadow revisions answered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, tx: Transaction, rows: Sequence[tuple[Any, ...]]) -> None:
        """Store rows (the columns of `shadow_rows`)."""
        await tx.connection.copy_records_to_table("shadow_rows", records=rows)

    async def lock_pairs(self, tx: Transaction, prediction_ids: Sequence[UUID]) -> list[Pair]:
        """Rows of these calls that were not compared yet, with their answers.

        The answers are locked too: a label that is being counted for one is counted for its shadow as well.
        """
        rows = await tx.fetch(
            f"""SELECT s.*, '' AS request_id, {", ".join(f"p.{c} AS answer_{c}" for c in _ANSWER)}
                FROM shadow_rows s
                JOIN predictions p USING (prediction_id, row_number, workspace, endpoint)
                WHERE s.prediction_id = ANY($1) AND NOT s.is_compared
                ORDER BY s.prediction_id, s.row_number, s.revision FOR UPDATE""",  # noqa: S608
            prediction_ids,
        )
        return [
            Pair(
                predicted(row),
                row["answered_us"],
                predicted(dict(row) | {c: row[f"answer_{c}"] for c in _ANSWER}),
                row["answer_answered_us"],
            )
            for row in rows
        ]

    async def lock_labelled(
        self, tx: Transaction, keys: Sequence[tuple[str, str, str, int]]
    ) -> list[Predicted]:
        """Compared rows of these (workspace, endpoint, prediction id, row)."""
        rows = await tx.fetch(
            """SELECT s.*, '' AS request_id FROM shadow_rows s
               JOIN unnest($1::text[], $2::text[], $3::uuid[], $4::int[])
                   AS k (workspace, endpoint, prediction_id, row_number)
                   USING (workspace, endpoint, prediction_id, row_number)
               WHERE s.is_compared
               ORDER BY s.prediction_id, s.row_number, s.revision FOR UPDATE OF s""",
            *([key[i] for key in keys] for i in range(4)),
        )
        return [predicted(row) for row in rows]

    async def compared(self, tx: Transaction, rows: Sequence[Predicted]) -> None:
        """Note rows as compared."""
        await tx.executemany(
            """UPDATE shadow_rows SET is_compared = true
               WHERE (prediction_id, row_number, revision, workspace, endpoint) = ($1::uuid, $2, $3, $4, $5)""",
            [_key(row) for row in rows],
        )

    async def set_counted(self, tx: Transaction, rows: Sequence[tuple[Predicted, str | None]]) -> None:
        """Note the labels that are counted for rows."""
        await tx.executemany(
            """UPDATE shadow_rows SET counted = $6
               WHERE (prediction_id, row_number, revision, workspace, endpoint) = ($1::uuid, $2, $3, $4, $5)""",
            [(*_key(row), label) for row, label in rows],
        )

    async def prune(self, tx: Transaction, answered_before_us: int) -> None:
        """Forget rows of that age whose answers are forgotten, or never came."""
        await tx.execute(
            """DELETE FROM shadow_rows s WHERE s.answered_us < $1 AND NOT EXISTS (
                   SELECT 1 FROM predictions p
                   WHERE p.prediction_id = s.prediction_id AND p.row_number = s.row_number
                     AND p.workspace = s.workspace AND p.endpoint = s.endpoint)""",
            answered_before_us,
        )


def _key(row: Predicted) -> tuple[str, int, str, str, str]:
    return row.prediction_id, row.row, row.window.revision, row.window.workspace, row.window.endpoint
