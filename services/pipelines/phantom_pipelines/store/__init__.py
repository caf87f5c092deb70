"""The only SQL: rows to values, reads, writes, leases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from phantom_pipelines.store.leases import Leases
from phantom_pipelines.store.reads import Reads
from phantom_pipelines.store.writes import Writes
from phantom_platform.postgres import Database

SCHEMA = "pipelines"
MIGRATIONS = Path(__file__).parent.parent / "migrations"


class PostgresPipelines:
    """The service's tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.reads = Reads(database)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Writes]:
        """Commits at the end, with what was announced; rolls back on an exception."""
        async with self._database.transaction() as transaction:
            yield Writes(transaction)


__all__ = ["MIGRATIONS", "SCHEMA", "Leases", "PostgresPipelines", "Reads", "Writes"]
