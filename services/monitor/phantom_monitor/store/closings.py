"""Up to when an endpoint's windows are announced."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from phantom_platform.postgres import Transaction


class Said(NamedTuple):
    """Every window that ends by `until_s` (unix s) is announced; said so at `at`."""

    until_s: int
    at: datetime


class PostgresClosings:
    """Up to when an endpoint's windows are announced."""

    async def said(self, tx: Transaction) -> dict[tuple[str, str], Said]:
        """What was said last, by (workspace, endpoint)."""
        rows = await tx.fetch("TABLE closings")
        return {(row["workspace"], row["endpoint"]): Said(row["until_s"], row["said_at"]) for row in rows}

    async def say(self, tx: Transaction, workspace: str, endpoint: str, said: Said) -> bool:
        """Keep what is being said; False where more was said already."""
        status = await tx.execute(
            """INSERT INTO closings AS c VALUES ($1, $2, $3, $4)
               ON CONFLICT (workspace, endpoint) DO UPDATE
               SET until_s = EXCLUDED.until_s, said_at = EXCLUDED.said_at WHERE c.until_s <= EXCLUDED.until_s""",
            workspace,
            endpoint,
            said.until_s,
            said.at,
        )
        return status.endswith(" 1")
