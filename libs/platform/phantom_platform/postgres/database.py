"""One service's schema in one Postgres: its pool, its migrations, its transactions."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from phantom_platform.clock import Clock
from phantom_platform.errors import Invalid, Unavailable
from phantom_platform.postgres.failures import DRIVER_ERRORS, translated, unavailable
from phantom_platform.postgres.migrations import migrate
from phantom_platform.postgres.transaction import Transaction
from phantom_platform.telemetry import logs

log = logs.get(__name__)

_SCHEMA = re.compile(r"[a-z][a-z0-9_]{0,62}")
COMMAND_TIMEOUT_S = 30.0
ACQUIRE_TIMEOUT_S = 10.0


class Database:
    """A part: `start` waits for Postgres, runs the migrations that are safe beforehand, opens the pool.

    `source` is what events say they come from, `phantom/<service>`; `session_settings` are Postgres settings of
    every connection.
    """

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        migrations: Path,
        clock: Clock,
        source: str,
        min_size: int = 1,
        max_size: int = 8,
        session_settings: Mapping[str, str] | None = None,
    ) -> None:
        if not _SCHEMA.fullmatch(schema):
            raise Invalid(f"schema {schema!r}: use a-z, 0-9 and _", code="invalid_schema")
        if not source.startswith("phantom/"):
            raise Invalid(f"source {source!r}: use phantom/<service>", code="invalid_source")
        self.name = f"postgres:{schema}"
        self.schema = schema
        self.source = source
        self.clock = clock
        # Set by this process's relay while it leads: then events wake it directly, without NOTIFY, whose
        # lock would make commits of the whole database wait for each other.
        self.relay_wake: asyncio.Event | None = None
        self._dsn = dsn
        self._migrations = migrations
        self._sizes = (min_size, max_size)
        self._session_settings = dict(session_settings or {})
        self._pool: asyncpg.Pool | None = None

    @property
    def channel(self) -> str:
        """The NOTIFY channel that wakes a relay in another process."""
        return f"{self.schema}_outbox"

    async def start(self) -> None:
        """Returns when migrated and connected, however long Postgres is away."""
        delay = 0.1
        while True:
            try:
                with translated():
                    await migrate(self._dsn, self.schema, self._migrations)
                    self._pool = await self._open()
                return
            except Unavailable as error:
                log.warning(
                    "waiting for Postgres", action="postgres_wait", schema=self.schema, reason=str(error)
                )
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)

    async def stop(self) -> None:
        """Waits for running transactions, at most 10 s, then closes the pool."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), ACQUIRE_TIMEOUT_S)
        except TimeoutError:
            pool.terminate()

    async def run_post_migrations(self) -> None:
        """Apply what is safe only after every process with older code is gone."""
        with translated():
            await migrate(self._dsn, self.schema, self._migrations, branch="post")

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of one's own, outside the pool, for LISTEN and session locks; closed with the block."""
        with translated():
            connection = await asyncpg.connect(
                self._dsn, command_timeout=COMMAND_TIMEOUT_S, **self._session()
            )
        try:
            yield connection
        except DRIVER_ERRORS as error:
            if (temporary := unavailable(error)) is not None:
                raise temporary from error
            raise
        finally:
            connection.terminate()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits when the block ends, rolls back when it raises. Lost connections become `Unavailable`."""
        async with self._connection() as connection:
            transaction = connection.transaction()
            with translated():
                await transaction.start()
            work = Transaction(connection, self.source, self.clock.now())
            try:
                yield work
                wake = self.relay_wake
                audited = await work.flush(None if wake is not None else self.channel)
            except BaseException as error:
                with suppress(*DRIVER_ERRORS, OSError, TimeoutError):
                    await transaction.rollback()
                if (temporary := unavailable(error)) is not None:
                    raise temporary from error
                raise
            with translated():
                await transaction.commit()
            if audited is not None:
                audited.recorded = True
            if wake is not None and work.outbox.pending:
                wake.set()

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Every row, read outside a transaction."""
        async with self._connection() as connection:
            with translated():
                found: list[asyncpg.Record] = await connection.fetch(sql, *args)
                return found

    async def fetchrow(self, sql: str, *args: object) -> asyncpg.Record | None:
        """The first row, if any."""
        async with self._connection() as connection:
            with translated():
                return await connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        """The first column of the first row, None without one."""
        async with self._connection() as connection:
            with translated():
                return await connection.fetchval(sql, *args)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        pool = self._pool
        if pool is None:
            raise Unavailable(f"{self.name} is not started", code="postgres_unavailable")
        with translated():
            # The pool's own time limit costs a task each time.
            async with asyncio.timeout(ACQUIRE_TIMEOUT_S):
                connection = await pool.acquire()
        try:
            yield connection
        finally:
            with suppress(*DRIVER_ERRORS, OSError, TimeoutError):
                await pool.release(connection)

    async def _open(self) -> asyncpg.Pool:
        smallest, largest = self._sizes
        return await asyncpg.create_pool(
            self._dsn,
            min_size=smallest,
            max_size=largest,
            command_timeout=COMMAND_TIMEOUT_S,
            # asyncpg itself rolls back what is open. Its RESET ALL would cost a round trip a transaction; so
            # sessions are never changed: SET LOCAL and pg_advisory_xact_lock only.
            reset=_nothing,
            **self._session(),
        )

    def _session(self) -> dict[str, Any]:
        settings = {"search_path": f'"{self.schema}"', "application_name": self.source}
        settings |= self._session_settings
        return {"server_settings": settings}


async def _nothing(connection: asyncpg.Connection) -> None:
    """See `_open`."""
