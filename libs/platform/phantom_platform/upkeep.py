"""What a process does for all of its services: it counts dead letters, and applies `post` migrations when told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from phantom_platform.errors import PhantomError, Unavailable
from phantom_platform.lifecycle import Task
from phantom_platform.telemetry import logs

log = logs.get(__name__)

COUNT_EVERY_S = 5.0
READY_POLL_S = 0.5


class _DeadLetters(Protocol):
    service: str

    async def count_dead(self) -> int: ...


class _Database(Protocol):
    schema: str

    async def run_post_migrations(self) -> None: ...


class DeadLetterWatch:
    """A part: knows how many records are dead, as of a few seconds ago, so that whoever asks never waits."""

    name = "dead-letter-watch"

    def __init__(self, services: Sequence[_DeadLetters]) -> None:
        self._services = services
        self._counts: dict[str, int] = {}
        self._task = Task(self.name, self._run)

    async def start(self) -> None:
        await self._task.start()

    async def stop(self) -> None:
        await self._task.stop()

    def attention(self) -> list[str]:
        """One sentence a service that has dead letters; the last known count while Postgres is away."""
        return [
            f"{service} could not apply {count} record(s): `dlq list {service}` shows them"
            for service, count in self._counts.items()
            if count
        ]

    async def _run(self) -> None:
        while True:
            for each in self._services:
                try:
                    self._counts[each.service] = await each.count_dead()
                except PhantomError as error:
                    log.debug("dead letters not counted", action="count_failed", reason=str(error))
            await asyncio.sleep(COUNT_EVERY_S)


class PostMigrations:
    """A part: once the process is ready, applies what is safe only after every older process is gone.

    A migration that fails is reported and left: the code that runs here is made for the schema before it, too.
    """

    name = "post-migrations"

    def __init__(self, databases: Sequence[_Database], unready: Callable[[], Mapping[str, str]]) -> None:
        self._databases = databases
        self._unready = unready
        self._failed: list[str] = []
        self._task = Task(self.name, self._run)
        # Set when all has been applied, or has failed.
        self.done = asyncio.Event()

    async def start(self) -> None:
        await self._task.start()

    async def stop(self) -> None:
        await self._task.stop()

    def attention(self) -> list[str]:
        return list(self._failed)

    async def _run(self) -> None:
        while self._unready():  # noqa: ASYNC110 - readiness is asked for, it tells nobody
            await asyncio.sleep(READY_POLL_S)
        for database in self._databases:
            await self._apply(database)
        self.done.set()
        await asyncio.Event().wait()  # a task that returned would count as dead

    async def _apply(self, database: _Database) -> None:
        while True:
            try:
                return await database.run_post_migrations()
            except Unavailable as error:
                log.warning("post migrations wait", action="post_migrations_wait", reason=str(error))
                await asyncio.sleep(error.retry_after_s)
            except Exception as error:
                # Whatever an SQL file does wrong, the service goes on as it did before.
                log.error("post migration failed", action="post_migration_failed", schema=database.schema,
                          exc_info=error)  # fmt: skip
                self._failed.append(f"a post migration of {database.schema} failed: {error}")
                return None
