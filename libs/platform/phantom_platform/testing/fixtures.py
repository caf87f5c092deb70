"""Pytest fixtures for every package; the root `conftest.py` loads them.

`kafka_bootstrap`: one real broker a test session; topics outlive a test, so use fresh names, keys and groups.
`postgres_dsn`: a fresh database a test module, on one real server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from phantom_platform.testing import servers


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """host:port of a real Kafka."""
    with servers.kafka() as bootstrap:
        yield bootstrap


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """DSN of a real Postgres server; tests want `postgres_dsn`."""
    with servers.postgres() as dsn:
        yield dsn


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def postgres_dsn(postgres_server: str) -> AsyncIterator[str]:
    """DSN of a database that is empty when the test module begins."""
    dsn = await servers.fresh_database(postgres_server)
    yield dsn
    await servers.drop_database(postgres_server, dsn)
