"""Which batches are applied, and what each gateway process promised."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import asyncpg

from phantom_platform.postgres import Database, Transaction


class PostgresGateways:
    """Which batches are applied, and what each gateway process promised."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim_batch(self, tx: Transaction, boot_id: str, partition: int, sequence: int) -> bool:
        """Note a batch as applied; False where it was already."""
        status = await tx.execute(
            """INSERT INTO applied_batches AS a
               VALUES ($1, $2, int8multirange(int8range($3::bigint, $3::bigint + 1)), $4)
               ON CONFLICT (boot_id, partition) DO UPDATE
               SET sequences = a.sequences + EXCLUDED.sequences, updated_at = EXCLUDED.updated_at
               WHERE NOT a.sequences @> $3::bigint""",
            boot_id,
            partition,
            sequence,
            tx.now,
        )
        return status.endswith(" 1")

    async def count_repeat(self, tx: Transaction, workspace: str, endpoint: str) -> None:
        """Count a batch that came again."""
        await tx.execute(
            """INSERT INTO endpoint_counts AS c VALUES ($1, $2, 1)
               ON CONFLICT (workspace, endpoint) DO UPDATE SET repeated_batches = c.repeated_batches + 1""",
            workspace,
            endpoint,
        )

    async def advance(self, tx: Transaction, watermarks: Mapping[tuple[str, str, str], int]) -> None:
        """Move watermarks, (workspace, endpoint, boot id) → unix µs, forward."""
        await tx.executemany(
            """INSERT INTO watermarks AS w VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (workspace, endpoint, boot_id) DO UPDATE
               SET watermark_us = greatest(w.watermark_us, EXCLUDED.watermark_us), heard_at = EXCLUDED.heard_at""",
            [(*key, value, tx.now) for key, value in sorted(watermarks.items())],
        )

    async def joined(self, tx: Transaction, boot_id: str, at: datetime) -> None:
        """A gateway process has joined."""
        await tx.execute(
            """INSERT INTO gateways (boot_id, joined_at, seen_at) VALUES ($1, $2, $3)
               ON CONFLICT (boot_id) DO UPDATE SET joined_at = EXCLUDED.joined_at""",
            boot_id,
            at,
            tx.now,
        )

    async def left(self, tx: Transaction, boot_id: str, at: datetime) -> None:
        """A gateway process has left, after its last answer."""
        await tx.execute(
            """INSERT INTO gateways (boot_id, left_at, seen_at) VALUES ($1, $2, $3)
               ON CONFLICT (boot_id) DO UPDATE SET left_at = EXCLUDED.left_at""",
            boot_id,
            at,
            tx.now,
        )

    async def sources(self, tx: Transaction, since: datetime) -> list[asyncpg.Record]:
        """What is known of every gateway heard since a time, per endpoint it sent to (or none)."""
        return await tx.fetch(
            """SELECT coalesce(w.boot_id, g.boot_id) AS boot_id, w.workspace, w.endpoint, w.watermark_us,
                      greatest(w.heard_at, g.seen_at) AS heard_at,
                      g.joined_at IS NOT NULL AS has_joined, g.left_at IS NOT NULL AS has_left
               FROM watermarks w FULL JOIN gateways g USING (boot_id)
               WHERE coalesce(w.heard_at, g.seen_at) >= $1""",
            since,
        )

    async def watermarks(self, workspace: str, endpoint: str) -> dict[str, int]:
        """Boot id → watermark, unix µs."""
        rows = await self._database.fetch(
            "SELECT boot_id, watermark_us FROM watermarks WHERE workspace = $1 AND endpoint = $2",
            workspace,
            endpoint,
        )
        return {row["boot_id"]: row["watermark_us"] for row in rows}

    async def prune(self, tx: Transaction, before: datetime) -> None:
        """Forget what is older than any repeat can be."""
        await tx.execute("DELETE FROM applied_batches WHERE updated_at < $1", before)
        await tx.execute("DELETE FROM watermarks WHERE heard_at < $1", before)
        await tx.execute(
            "DELETE FROM gateways WHERE seen_at < $1 AND coalesce(left_at, seen_at) < $1", before
        )
