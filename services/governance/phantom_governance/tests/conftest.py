"""One running governance a test module."""

from collections.abc import AsyncIterator

import pytest_asyncio

from phantom_contracts import topics
from phantom_governance.tests.stack import Running, assemble
from phantom_platform.kafka import ensure_topics
from phantom_platform.rpc.server import GrpcServer


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running(kafka_bootstrap: str, postgres_dsn: str, tmp_path_factory) -> AsyncIterator[Running]:
    await ensure_topics(kafka_bootstrap, [topics.KEYS, topics.ACCESS, topics.AUDIT])
    app, context = assemble(kafka_bootstrap, postgres_dsn, tmp_path_factory.mktemp("data"))
    server = app.add(
        GrpcServer(
            app.servicers,
            host="127.0.0.1",
            port=0,
            verifier=context.verifier,
            registry=context.registry,
            unready=app.unready,
        )
    )
    await app.start()
    yield Running(app, context, server.address)
    await app.stop()
