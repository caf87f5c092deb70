"""The other sides of the gateway's topics: a deployer that publishes routes, and a reader of what gateways wrote."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer

from phantom_contracts import topics
from phantom_platform import cloudevents, ids
from phantom_platform.kafka import Producer, ensure_topics


@asynccontextmanager
async def deployer(bootstrap):
    """Publishes route records as the deployer would."""
    await ensure_topics(bootstrap, topics.CATALOGUE)
    producer = Producer(bootstrap, client_id="deployer")
    await producer.start()

    async def publish(record, value=None):
        key = f"{record.workspace}/{record.endpoint}"
        envelope = cloudevents.Envelope(
            type=record.type, id=ids.new_id(), source="phantom/deployer", time=datetime.now(UTC)
        )
        headers = cloudevents.encode(envelope, compacted_version=record.version)
        body = record.model_dump_json().encode() if value is None else value
        await producer.send(topics.ROUTES.name, key.encode(), body, headers)

    try:
        yield publish
    finally:
        await producer.stop()


async def records(bootstrap, topic, enough):
    """Everything in a topic, once `enough` says so."""
    consumer = AIOKafkaConsumer(topic.name, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    found = []
    try:
        async with asyncio.timeout(20):
            while not enough(found):
                for batch in (await consumer.getmany(timeout_ms=100)).values():
                    found += batch
    finally:
        await consumer.stop()
    return found
