"""One worker an execution, among all processes: locks of one session, which are gone with it.

A stage runs for hours, so its lease is not a transaction. The session is a connection of its own; losing it loses every
lease, which `keep` tells. What was done meanwhile is refused by the number of the stage's attempt.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from phantom_platform.errors import Unavailable
from phantom_platform.postgres import Database
from phantom_platform.postgres.failures import translated


class Leases:
    """For any number of tasks: statements on the connection come one after the other."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._open = AsyncExitStack()
        self._session: Any = None
        self._sessions = 0
        self._lock = asyncio.Lock()

    async def keep(self) -> int:
        """Make sure that a session lives. Its number: where that changes, every lease of before is lost."""
        async with self._lock:
            if self._session is None:
                self._session = await self._open.enter_async_context(self._database.session())
                self._sessions += 1
            await self._ask("SELECT 1")
            return self._sessions

    async def take(self, name: str) -> bool:
        """Whether `name` is ours now; False where another process has it."""
        async with self._lock:
            return bool(await self._ask("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", _key(name)))

    async def release(self, name: str) -> None:
        """Nothing where the session is lost: the lease went with it."""
        async with self._lock:
            if self._session is not None:
                await self._ask("SELECT pg_advisory_unlock(hashtextextended($1, 0))", _key(name))

    async def close(self) -> None:
        async with self._lock:
            await self._drop()

    async def _ask(self, sql: str, *args: object) -> Any:
        if self._session is None:
            raise Unavailable("the session that holds leases was lost", code="postgres_unavailable")
        try:
            with translated():
                return await self._session.fetchval(sql, *args)
        except BaseException:
            # Also where the wait was cancelled: then nobody knows whether the lock was taken.
            await self._drop()
            raise

    async def _drop(self) -> None:
        self._session = None
        await self._open.aclose()


def _key(name: str) -> str:
    return f"phantom/pipelines/{name}"
