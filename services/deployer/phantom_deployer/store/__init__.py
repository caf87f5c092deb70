"""The only SQL: rows to values, reads, writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from phantom_deployer.store.reads import Reads
from phantom_deployer.store.writes import Writes
from phantom_platform.postgres import Database

SCHEMA = "deployer"
MIGRATIONS = Path(__file__).parent.parent / "migrations"


class PostgresDeployments:
    """The deployer's tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.reads = Reads(database)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Writes]:
        """Commits at the end, with what was announced; rolls back on an exception."""
        async with self._database.transaction() as transaction:
            yield Writes(transaction)

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[bool]:
        """Whether this process alone may work on `name` for the time of the block."""
        async with self._database.transaction() as transaction:
            sql = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))"
            yield await transaction.fetchval(sql, f"phantom/deployer/{name}")


__all__ = ["MIGRATIONS", "SCHEMA", "PostgresDeployments", "Reads", "Writes"]
