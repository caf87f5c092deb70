"""What stands in the topics, and what upstream systems put there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from phantom_contracts.events.base import Event
from phantom_contracts.topics import Topic
from phantom_platform.kafka import Producer
from phantom_platform.testing import events

Record = Any
"""aiokafka's ConsumerRecord."""


async def wait_for(
    bootstrap: str, topic: Topic, is_enough: Callable[[list[Record]], bool], within_s: float = 30.0
) -> list[Record]:
    """The topic's records from its beginning, as soon as they are enough; else fails with how many came."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    found: list[Record] = []
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic.name, p) for p in range(topic.partitions)])
        await consumer.seek_to_beginning()
        async with asyncio.timeout(within_s):
            while not is_enough(found):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += records
    except TimeoutError:
        raise AssertionError(f"{topic.name}: {len(found)} records, and not those that were awaited") from None
    finally:
        await consumer.stop()
    return found


def headers_of(record: Record) -> dict[str, str]:
    """Header name → text."""
    return {name: value.decode() for name, value in record.headers}


@asynccontextmanager
async def upstream(bootstrap: str) -> AsyncIterator[Upstream]:
    """Publishes until the block ends."""
    producer = Producer(bootstrap, client_id="tests")
    await producer.start()
    try:
        yield Upstream(producer)
    finally:
        await producer.stop()


class Upstream:
    """Another system that writes to our topics."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    async def publish(
        self, topic: Topic, key: str, event: Event | None, *, version: int | None = None
    ) -> None:
        """An event (or a tombstone) as its writer would write it."""
        await events.publish(self._producer, events.record(topic, key, event, version=version))

    async def publish_bytes(self, topic: Topic, key: bytes, value: bytes) -> None:
        """Whatever somebody may put there."""
        await self._producer.send(topic.name, key, value, [])
