"""A schema, topics and a producer of one's own for each test, on the session's real servers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest_asyncio

from phantom_contracts.topics import Topic
from phantom_platform.clock import SystemClock
from phantom_platform.ids import uuid7
from phantom_platform.kafka import Producer, ensure_topics
from phantom_platform.postgres import Database
from phantom_platform.tests.words import Entry, Said, Sung

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass
class World:
    """One test's surroundings. `log` and `table` are topics of its own."""

    kafka: str
    postgres: str
    database: Database
    producer: Producer
    log: Topic
    table: Topic
    clock: SystemClock = field(default_factory=SystemClock)

    def another_database(self, source: str = "phantom/test") -> Database:
        """The same schema, as a second process sees it."""
        return Database(
            self.postgres, self.database.schema, migrations=MIGRATIONS, clock=self.clock, source=source
        )

    async def effects(self) -> list[str]:
        """What handlers have done, in order."""
        return [row["what"] for row in await self.database.fetch("SELECT what FROM effect ORDER BY at")]


@pytest_asyncio.fixture(loop_scope="session")
async def world(kafka_bootstrap: str, postgres_dsn: str) -> AsyncIterator[World]:
    name = f"t{uuid7().hex[-12:]}"
    log = Topic(f"test.{name}.log", "test", "log", (Said, Sung))
    table = Topic(f"test.{name}.table", "test", "compacted", (Entry,))
    await ensure_topics(kafka_bootstrap, [log, table])
    database = Database(postgres_dsn, name, migrations=MIGRATIONS, clock=SystemClock(), source="phantom/test")
    producer = Producer(kafka_bootstrap, client_id=name)
    await database.start()
    await producer.start()
    yield World(kafka_bootstrap, postgres_dsn, database, producer, log, table)
    await producer.stop()
    await database.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def running() -> AsyncIterator[Callable[[object], Awaitable[object]]]:
    """Starts parts and stops them, newest first, when the test ends."""
    parts = []

    async def start(part):
        await part.start()
        parts.append(part)
        return part

    yield start
    for part in reversed(parts):
        await part.stop()
