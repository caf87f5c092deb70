"""Topics are created by us, never by accident: right partitions, retention, compaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from phantom_contracts.topics import Topic
from phantom_platform.errors import Refused, Unavailable
from phantom_platform.kafka.failures import CONNECTION_ERRORS, as_phantom


async def ensure_topics(bootstrap: str, topics: Iterable[Topic], *, replication: int = 1) -> None:
    """Create what is missing. `Refused` where a topic exists with another number of partitions.

    `Unavailable` while Kafka cannot be reached.
    """
    wanted = {topic.name: topic for topic in topics}
    admin = AIOKafkaAdminClient(
        bootstrap_servers=bootstrap, client_id="phantom-topics", request_timeout_ms=15_000
    )
    try:
        await admin.start()
        existing = await _partition_counts(admin, wanted)
        _refuse_other_counts(wanted, existing)
        await _create(admin, [topic for topic in wanted.values() if topic.name not in existing], replication)
        await _await_leaders(admin, wanted)
    except CONNECTION_ERRORS as error:
        raise as_phantom(error, "creating topics") from error
    finally:
        with suppress(*CONNECTION_ERRORS):
            await admin.close()


async def _create(admin: AIOKafkaAdminClient, topics: list[Topic], replication: int) -> None:
    if not topics:
        return
    answer = await admin.create_topics(
        [NewTopic(each.name, each.partitions, replication, topic_configs=each.config) for each in topics]
    )
    for name, code, *message in answer.topic_errors:
        error = for_code(code)
        # Another service may have been quicker.
        if code and error is not TopicAlreadyExistsError:
            text = f"Kafka did not create topic {name}: {error.__name__} {message[0] if message else ''}"
            raise Refused(text.strip(), code="topic_not_created", topic=name)


async def _partition_counts(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    described = await admin.describe_topics(list(names))
    return {
        each["topic"]: len(each["partitions"])
        for each in described
        if each["error_code"] == 0 and each["partitions"]
    }


def _refuse_other_counts(wanted: dict[str, Topic], existing: dict[str, int]) -> None:
    for name, count in existing.items():
        if count != wanted[name].partitions:
            raise Refused(
                f"topic {name} has {count} partitions and must have {wanted[name].partitions}: keys would move. "
                "Delete it, or give it another name and migrate",
                code="topic_partitions",
                topic=name,
            )


async def _await_leaders(
    admin: AIOKafkaAdminClient, wanted: dict[str, Topic], patience_s: float = 15.0
) -> None:
    """A topic is created before its leaders are known; then sends and reads would stumble."""
    try:
        async with asyncio.timeout(patience_s):
            while len(await _led(admin, wanted)) < len(wanted):  # noqa: ASYNC110 - Kafka tells nobody
                await asyncio.sleep(0.05)
    except TimeoutError:
        missing = ", ".join(sorted(set(wanted) - await _led(admin, wanted)))
        raise Unavailable(f"topics have no leaders yet: {missing}", code="kafka_unavailable") from None


async def _led(admin: AIOKafkaAdminClient, wanted: dict[str, Topic]) -> set[str]:
    described = await admin.describe_topics(list(wanted))
    return {
        each["topic"]
        for each in described
        if len(each["partitions"]) == wanted[each["topic"]].partitions
        and all(partition["leader"] >= 0 for partition in each["partitions"])
    }
