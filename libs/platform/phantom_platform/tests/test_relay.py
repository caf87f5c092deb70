import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client import CollectorRegistry

from phantom_platform.errors import Unavailable
from phantom_platform.outbox import OutboxRelay
from phantom_platform.testing.waiting import until
from phantom_platform.tests.words import Said

pytestmark = pytest.mark.integration


async def _say(database, world, key: str, *words: str) -> None:
    async with database.transaction() as tx:
        for word in words:
            tx.outbox.add(world.log, key, Said(word=word))


async def _published(world, topic) -> list[tuple[str, str]]:
    """(key, word) of everything in the topic, partition by partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=world.kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        found = []
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [(r.key.decode(), Said.model_validate_json(r.value).word) for r in records]
        return found
    finally:
        await consumer.stop()


async def _is_empty(world) -> bool:
    return await world.database.fetchval("SELECT count(*) FROM outbox") == 0


class ForgetfulProducer:
    """Sends like the real one and then, while told so, behaves as a process that dies before it hears."""

    def __init__(self, inner):
        self._inner = inner
        self.is_dying = True
        self.sent = asyncio.Event()

    async def partitions(self, topic):
        return await self._inner.partitions(topic)

    def choose(self, key, partitions):
        return self._inner.choose(key, partitions)

    async def send_batch(self, topic, partition, records):
        count = await self._inner.send_batch(topic, partition, records)
        self.sent.set()
        if self.is_dying:
            await asyncio.Event().wait()
        return count


class FailingProducer(ForgetfulProducer):
    """Loses every other batch, before or after it has arrived."""

    calls = 0

    async def send_batch(self, topic, partition, records):
        self.calls += 1
        if self.calls % 3 == 1:
            raise Unavailable("before it was sent")
        count = await self._inner.send_batch(topic, partition, records)
        if self.calls % 3 == 2:
            raise Unavailable("after it was sent")
        return count


async def test_every_event_arrives_in_order_per_key_and_leaves_the_outbox(world, running):
    registry = CollectorRegistry()
    await running(OutboxRelay(world.database, world.producer, registry=registry))
    for number in range(40):
        await _say(world.database, world, f"default/{number % 4}", f"{number}a", f"{number}b")
    await until(lambda: _is_empty(world))
    found = await _published(world, world.log)
    assert len(found) == 80
    for key in range(4):
        words = [word for at, word in found if at == f"default/{key}"]
        assert words == [f"{number}{part}" for number in range(key, 40, 4) for part in "ab"]
    labels = {"service": "test", "topic": world.log.name}
    assert registry.get_sample_value("phantom_outbox_published_total", labels) == 80


async def test_transactions_on_two_keys_that_commit_out_of_id_order_lose_neither(world, running):
    """The lower id commits after the higher one has been published and deleted."""
    await running(OutboxRelay(world.database, world.producer))
    late = world.database.transaction()
    tx = await late.__aenter__()
    tx.outbox.add(world.log, "default/late", Said(word="late"))
    await tx.flush(None)
    tx.outbox.pending.clear()
    await _say(world.database, world, "default/early", "early")
    await until(lambda: _published(world, world.log))
    assert await _is_empty(world)
    await late.__aexit__(None, None, None)
    await until(lambda: _is_empty(world))
    assert sorted(await _published(world, world.log)) == [
        ("default/early", "early"),
        ("default/late", "late"),
    ]


async def test_a_relay_that_dies_between_publishing_and_deleting_repeats(world, running):
    forgetful = ForgetfulProducer(world.producer)
    dying = OutboxRelay(world.database, forgetful)
    await dying.start()
    await _say(world.database, world, "default/a", "once")
    await asyncio.wait_for(forgetful.sent.wait(), 15)
    await dying._task.stop()
    assert not await _is_empty(world)
    await running(OutboxRelay(world.database, world.producer))
    await until(lambda: _is_empty(world))
    assert await _published(world, world.log) == [("default/a", "once")] * 2


async def test_one_relay_leads_and_the_next_takes_over(world, running):
    first = await running(OutboxRelay(world.database, world.producer))
    await until(lambda: first.is_leading)
    other = await running(world.another_database())
    second = await running(OutboxRelay(other, world.producer))
    await _say(other, world, "default/a", "from the process that does not lead")
    await until(lambda: _is_empty(world))
    assert not second.is_leading
    await first.stop()
    await until(lambda: second.is_leading)
    await _say(world.database, world, "default/a", "later")
    await until(lambda: _is_empty(world))
    assert [word for _, word in await _published(world, world.log)] == [
        "from the process that does not lead",
        "later",
    ]


async def test_order_per_key_holds_while_sends_fail(world, running, monkeypatch):
    monkeypatch.setattr("phantom_platform.relay.TEMPORARY_PAUSE_S", 0.01)
    await running(OutboxRelay(world.database, FailingProducer(world.producer)))
    for number in range(30):
        await _say(world.database, world, "default/a", f"{number:02}")
    await until(lambda: _is_empty(world))
    words = [word for _, word in await _published(world, world.log)]
    assert list(dict.fromkeys(words)) == [f"{number:02}" for number in range(30)]


async def test_a_topic_that_is_missing_holds_up_no_other(world, running):
    missing = type(world.log)(f"{world.log.name}.missing", "test", "log", (Said,))
    await running(OutboxRelay(world.database, world.producer))
    async with world.database.transaction() as tx:
        tx.outbox.add(missing, "default/a", Said(word="waits"))
        tx.outbox.add(world.log, "default/a", Said(word="goes"))
    assert await until(lambda: _published(world, world.log)) == [("default/a", "goes")]
    await until(lambda: world.database.fetchval("SELECT count(*) = 1 FROM outbox"))


async def test_a_relay_goes_on_after_its_connection_is_lost(world, running):
    relay = await running(OutboxRelay(world.database, world.producer))
    await until(lambda: relay.is_leading)
    await world.database.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await until(lambda: not relay.is_leading)
    await _say(world.database, world, "default/a", "after")
    await until(lambda: _is_empty(world))


class MuteProducer(ForgetfulProducer):
    """Kafka has been away since before the events came."""

    async def send_batch(self, topic, partition, records):
        raise Unavailable("not reachable")


async def test_events_that_wait_for_long_and_a_relay_that_follows_for_long_are_told(
    world, running, monkeypatch
):
    monkeypatch.setattr("phantom_platform.relay.LATE_S", 0.2)
    monkeypatch.setattr("phantom_platform.relay.DEPTH_EVERY_S", 0.1)
    relay = await running(OutboxRelay(world.database, MuteProducer(world.producer)))
    await until(lambda: relay.is_leading)
    assert relay.attention() == []
    await _say(world.database, world, "default/a", "hello")
    (said,) = await until(relay.attention)
    assert said.startswith("1 event(s) of test wait for Kafka, the oldest for ")
    follower = await running(OutboxRelay(world.another_database(), world.producer))
    (said,) = await until(follower.attention)
    assert said.endswith("another process sends them")


class SlowProducer(ForgetfulProducer):
    """Takes a moment to learn where a topic is, as a process does that has just been started."""

    async def partitions(self, topic):
        await asyncio.sleep(0.2)
        return await self._inner.partitions(topic)


async def test_a_relay_that_stops_sends_what_was_committed_before(world):
    producer = SlowProducer(world.producer)
    producer.is_dying = False
    relay = OutboxRelay(world.database, producer)
    await relay.start()
    await until(lambda: relay.is_leading)
    await _say(world.database, world, "default/a", "last")
    await relay.stop()
    assert await _is_empty(world)
    assert await _published(world, world.log) == [("default/a", "last")]
