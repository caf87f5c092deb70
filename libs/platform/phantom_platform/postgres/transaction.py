"""One unit of work: state, events and audit record commit together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg

from phantom_contracts.topics import AUDIT
from phantom_platform.audit import AuditContext, audit_context
from phantom_platform.outbox import Outbox
from phantom_platform.outgoing import rows
from phantom_platform.postgres.failures import translated


class Transaction:
    """Handed out by `Database.transaction()`. `now` is the moment it began, by the database's clock object."""

    def __init__(self, connection: asyncpg.Connection, source: str, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.outbox = Outbox(source, now)
        self._is_mutation = False

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Every row."""
        with translated():
            found: list[asyncpg.Record] = await self.connection.fetch(sql, *args)
            return found

    async def fetchrow(self, sql: str, *args: object) -> asyncpg.Record | None:
        """The first row, if any."""
        with translated():
            return await self.connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        """The first column of the first row, None without one."""
        with translated():
            return await self.connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        """Run a statement; returns Postgres's status, such as `UPDATE 1`."""
        with translated():
            status: str = await self.connection.execute(sql, *args)
            return status

    async def executemany(self, sql: str, args: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of `args`."""
        with translated():
            await self.connection.executemany(sql, args)

    def mark_mutation(self) -> None:
        """Say that this changes something although it announces no event: the call is audited all the same."""
        self._is_mutation = True

    async def flush(self, channel: str | None) -> AuditContext | None:
        """The last statements before COMMIT. Returns the call that was audited here, if one was."""
        audited = self._audit()
        if self.outbox.pending:
            locks, *columns = rows(self.outbox.pending)
            await self.execute("SELECT outbox_append($1, $2, $3, $4, $5, $6)", locks, *columns, channel)
        return audited

    def _audit(self) -> AuditContext | None:
        context = audit_context.get()
        if context is None or context.recorded or not (self._is_mutation or self.outbox.pending):
            return None
        self.outbox.add(AUDIT, context.principal, context.event(self.now))
        return context
