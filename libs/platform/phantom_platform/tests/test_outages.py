"""Kafka is killed and comes back, with a broker of this module's own."""

import asyncio
import importlib
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, TopicPartition

from phantom_contracts.topics import Topic
from phantom_platform.clock import SystemClock
from phantom_platform.ids import uuid7
from phantom_platform.kafka import Consumers, Producer, Projection, Router, ensure_topics
from phantom_platform.kafka.closing import close
from phantom_platform.outbox import OutboxRelay
from phantom_platform.postgres import Database
from phantom_platform.testing.events import publish, record
from phantom_platform.testing.waiting import until
from phantom_platform.tests.words import Entry, Said

pytestmark = [pytest.mark.integration, pytest.mark.faults]

LOG = Topic("test.outage.log", "test", "log", (Said,))
TABLE = Topic("test.outage.table", "test", "compacted", (Entry,))


@pytest_asyncio.fixture(loop_scope="session")
async def broker():
    server_class = importlib.import_module("phantom_local.embedded.kafka").KafkaServer
    with tempfile.TemporaryDirectory(prefix="phantom-outage-") as folder:
        server = server_class(Path(folder))
        await asyncio.to_thread(server.start)
        await ensure_topics(server.bootstrap, [LOG, TABLE])
        yield server
        await asyncio.to_thread(server.stop)


async def test_events_of_an_outage_arrive_in_order_and_are_applied_once(broker, postgres_dsn, running):
    schema = f"t{uuid7().hex[-12:]}"
    migrations = Path(__file__).parent / "migrations"
    database = await running(
        Database(postgres_dsn, schema, migrations=migrations, clock=SystemClock(), source="phantom/test")
    )
    producer = await running(Producer(broker.bootstrap, client_id="outage"))
    await running(OutboxRelay(database, producer))

    async def keep(tx, received):
        await tx.execute("INSERT INTO effect VALUES ($1, $2)", received.id, received.event.word)

    router = Router("test")
    router.on(LOG, Said, keep)
    await running(Consumers(router, database, broker.bootstrap, SystemClock()))
    seen: dict[str, str] = {}
    table = await running(
        Projection(
            TABLE,
            broker.bootstrap,
            parse=lambda key, value, headers: Entry.model_validate_json(value).text,
            on_changed=lambda key, value, version: seen.__setitem__(key, value),
            on_deleted=lambda key, version: seen.pop(key, None) and None,
        )
    )
    await asyncio.wait_for(table.current.wait(), 20)

    async def say(numbers) -> None:
        for number in numbers:
            async with database.transaction() as tx:
                tx.outbox.add(LOG, "default/a", Said(word=f"{number:03}"))

    async def count() -> int:
        return await database.fetchval("SELECT count(*) FROM effect")

    await say(range(50))
    await until(lambda: count())
    await asyncio.to_thread(broker.kill)
    await say(range(50, 100))
    assert await database.fetchval("SELECT count(*) FROM outbox") >= 50
    await asyncio.to_thread(broker.start)
    await say(range(100, 120))

    async def is_done() -> bool:
        return await count() >= 120

    await until(is_done, within_s=60)
    words = [row["what"] for row in await database.fetch("SELECT what FROM effect ORDER BY at")]
    assert words == [f"{number:03}" for number in range(120)]
    await publish(producer, record(TABLE, "k", Entry(version=1, text="after"), version=1))
    await until(lambda: seen == {"k": "after"}, within_s=30)


async def test_a_consumer_is_closed_while_kafka_is_away_and_leaves_nothing_running(broker):
    consumer = AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, enable_auto_commit=False)
    before = asyncio.all_tasks()
    await consumer.start()
    consumer.assign([TopicPartition(TABLE.name, 0)])
    await consumer.getmany(timeout_ms=100)
    await asyncio.to_thread(broker.kill)
    # Its fetch has failed and is to be repeated: `stop` of aiokafka itself would raise a CancelledError now.
    await until(lambda: not consumer._client._conns)
    await close(consumer)
    await until(lambda: not asyncio.all_tasks() - before - {asyncio.current_task()})
