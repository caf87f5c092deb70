from collections.abc import AsyncIterator

import pytest_asyncio

from phantom_deployer.store import MIGRATIONS, SCHEMA
from phantom_deployer.tests.harness import Deployer
from phantom_platform.postgres import Database
from phantom_platform.testing.clock import FakeClock


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    """The deployer's tables on a real Postgres."""
    made = Database(
        postgres_dsn, SCHEMA, migrations=MIGRATIONS, clock=FakeClock(), source="phantom/deployer", max_size=12
    )
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def deployer(database: Database) -> Deployer:
    """A deployer with a workspace of its own, an environment, and one gateway."""
    made = Deployer(database, database.clock)  # type: ignore[arg-type]
    await made.environment()
    made.gateways.join("g1")
    return made
