import asyncio

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from phantom_contracts.topics import Topic
from phantom_platform import cloudevents
from phantom_platform.clock import SystemClock
from phantom_platform.cloudevents import Envelope
from phantom_platform.errors import Invalid, Refused, Unavailable
from phantom_platform.ids import new_id
from phantom_platform.kafka import Producer, RetryPolicy, ensure_topics
from phantom_platform.kafka.retry import Retries
from phantom_platform.tests.words import Entry, Said

pytestmark = pytest.mark.integration


async def _config(bootstrap: str, topic: str) -> dict[str, str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        return {entry[0]: entry[1] for entry in answer.resources[0][4]}
    finally:
        await admin.close()


async def test_topics_get_their_partitions_retention_and_compaction(kafka_bootstrap):
    name = new_id()
    log = Topic(f"{name}.log", "test", "log", (Said,), log_append_time=True)
    table = Topic(f"{name}.table", "test", "compacted", (Entry,))
    await ensure_topics(kafka_bootstrap, [log, table, log.dead_letters("reader")])
    await ensure_topics(kafka_bootstrap, [log, table])
    config = await _config(kafka_bootstrap, log.name)
    assert config["retention.ms"] == str(7 * 86_400_000)
    assert config["message.timestamp.type"] == "LogAppendTime"
    config = await _config(kafka_bootstrap, table.name)
    assert config["cleanup.policy"] == "compact"
    assert config["delete.retention.ms"] == str(7 * 86_400_000)
    producer = Producer(kafka_bootstrap, client_id="test")
    await producer.start()
    counts = [
        len(await producer.partitions(each)) for each in (log.name, table.name, f"{log.name}.reader.dlq")
    ]
    await producer.stop()
    assert counts == [6, 1, 6]


async def test_a_topic_with_other_partitions_is_refused_by_name(kafka_bootstrap):
    name = new_id()
    await ensure_topics(kafka_bootstrap, [Topic(name, "test", "log", (Said,))])
    with pytest.raises(Refused, match=f"{name} has 6 partitions and must have 1") as caught:
        await ensure_topics(kafka_bootstrap, [Topic(name, "test", "compacted", (Entry,))])
    assert caught.value.code == "topic_partitions"


async def test_two_services_may_create_the_same_topics_at_once(kafka_bootstrap):
    topics = [Topic(new_id(), "test", "log", (Said,)) for _ in range(5)]
    await asyncio.gather(*(ensure_topics(kafka_bootstrap, topics) for _ in range(4)))


async def test_kafka_away_is_unavailable():
    with pytest.raises(Unavailable):
        await ensure_topics("127.0.0.1:1", [])


async def test_a_producer_starts_while_kafka_is_away_and_says_so(monkeypatch):
    monkeypatch.setattr("phantom_platform.kafka.producer.CONNECT_PATIENCE_S", 0.1)
    producer = Producer("127.0.0.1:1", client_id="test")
    await producer.start()
    try:
        with pytest.raises(Unavailable) as caught:
            await producer.send("t", b"k", b"v", [])
        assert caught.value.code == "kafka_unavailable"
    finally:
        await asyncio.wait_for(producer.stop(), 10)


async def test_sends_keep_their_order_and_flush_waits_for_all(world):
    futures = [world.producer.send_nowait(world.table.name, b"k", str(n).encode(), []) for n in range(300)]
    await asyncio.wait_for(world.producer.flush(), 15)
    offsets = [future.result().offset for future in futures]
    assert offsets == sorted(offsets)
    assert len(set(offsets)) == 300


async def test_a_record_that_is_too_large_is_refused_and_the_next_one_goes(world):
    with pytest.raises(Invalid) as caught:
        await world.producer.send(world.log.name, b"k", b"x" * 5_000_000, [])
    assert caught.value.code == "record_too_large"
    with pytest.raises(Invalid):
        await world.producer.send(world.log.name, b"k", b"x" * 3_000_000, [])
    metadata = await asyncio.wait_for(world.producer.send(world.log.name, b"k", b"fits", []), 15)
    consumer = AIOKafkaConsumer(world.log.name, bootstrap_servers=world.kafka, auto_offset_reset="earliest")
    await consumer.start()
    got = await asyncio.wait_for(consumer.getone(), 15)
    await consumer.stop()
    assert (got.partition, got.value) == (metadata.partition, b"fits")


def test_an_envelope_survives_its_headers():
    envelope = Envelope(
        type="phantom.test.WordSaid.v1",
        id=new_id(),
        source="phantom/test",
        time=SystemClock().now(),
        aggregate_version=7,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    headers = cloudevents.encode(envelope)
    assert ("ce_specversion", b"1.0") in headers
    assert cloudevents.decode(headers) == envelope


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("ce_id", b""),
        ("ce_time", b"yesterday"),
        ("ce_specversion", b"0.3"),
        ("ce_source", b"\xff"),
        ("ce_type", b"x" * 600),
        ("ce_aggregateversion", b"1e9"),
    ],
)
def test_a_damaged_header_is_named(header, value):
    good = cloudevents.encode(Envelope("t", "1", "s", SystemClock().now(), aggregate_version=1))
    with pytest.raises(Invalid, match=header) as caught:
        cloudevents.decode([(name, value if name == header else old) for name, old in good])
    assert caught.value.code == "undecodable"


P = ("t", 0)


def test_unknown_failures_get_five_attempts_within_half_a_minute():
    retries, now = Retries(RetryPolicy()), 0.0
    for _ in range(4):
        assert not retries.is_dead(P, 5, ValueError(), now)
        now = retries.waiting()[P]
    assert retries.is_dead(P, 5, ValueError(), now)
    assert now < 30


def test_temporary_failures_wait_longer_each_time_up_to_a_bound_and_never_die():
    retries, now, delays = Retries(RetryPolicy()), 0.0, []
    for _ in range(40):
        assert not retries.is_dead(P, 5, Unavailable(retry_after_s=0.5), now)
        delays.append(retries.waiting()[P] - now)
        now = retries.waiting()[P]
    assert delays[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(delays) == 30.0


def test_a_permanent_failure_dies_at_once_and_troubles_end_with_the_record():
    retries = Retries(RetryPolicy())
    assert retries.is_dead(P, 5, Refused(), 0.0)
    assert not retries.is_dead(P, 6, ValueError(), 0.0)
    retries.passed(P, 6)
    assert retries.waiting()
    retries.passed(P, 7)
    assert not retries.waiting()
