import asyncio
from contextlib import suppress

import pytest
from asyncpg import PostgresError
from opentelemetry import trace
from prometheus_client import CollectorRegistry

from phantom_platform import kafka
from phantom_platform.clock import SystemClock
from phantom_platform.deadletters import DeadLetters
from phantom_platform.errors import Invalid, NotFound, Refused, Unavailable
from phantom_platform.kafka import Consumers, RetryPolicy, Router
from phantom_platform.outbox import OutboxRelay
from phantom_platform.outgoing import Outgoing
from phantom_platform.telemetry import tracing
from phantom_platform.testing.clock import FakeClock
from phantom_platform.testing.events import publish, record
from phantom_platform.testing.waiting import until
from phantom_platform.tests.words import Said, Sung

pytestmark = pytest.mark.integration

QUICK = RetryPolicy(delays_s=(0.02, 0.02, 0.02, 0.02), first_s=0.02, longest_s=0.1)


async def keep(tx, received):
    await tx.execute("INSERT INTO effect VALUES ($1, $2)", received.id, received.event.word)


def routed(world, handler=keep, **options) -> Router:
    router = Router("test", group=f"phantom.{world.log.name}", **options)
    router.on(world.log, Said, handler)
    return router


def consumers(world, router, **options) -> Consumers:
    return Consumers(router, world.database, world.kafka, SystemClock(), retry=QUICK, **options)


async def say(world, word: str, key: str = "default/a", **options) -> None:
    await publish(world.producer, record(world.log, key, Said(word=word), **options))


async def dead(world, router):
    return await DeadLetters(router, world.database, SystemClock()).list()


async def effects(world, *expected: str) -> None:
    await until(lambda: _has(world, len(expected)))
    assert sorted(await world.effects()) == sorted(expected)


async def _has(world, count: int) -> bool:
    return len(await world.effects()) >= count


async def test_an_event_is_applied_once_however_often_it_comes(world, running):
    await running(consumers(world, routed(world)))
    for _ in range(3):
        await say(world, "once", event_id="e1")
    await say(world, "end")
    await effects(world, "once", "end")


async def test_unknown_types_are_skipped_and_unknown_fields_ignored(world, running):
    registry = CollectorRegistry()
    await running(consumers(world, routed(world), registry=registry))
    await publish(world.producer, record(world.log, "default/a", Sung(song="la")))
    newer = record(world.log, "default/a", Said(word="new"))
    value = b'{"word": "new", "workspace": "default", "tempo": 3}'
    await publish(world.producer, Outgoing(newer.topic, newer.key, value, newer.headers))
    await effects(world, "new")
    labels = {"group": f"phantom.{world.log.name}", "topic": world.log.name}
    for outcome, count in (("skipped", 1), ("applied", 1)):
        sample = registry.get_sample_value("phantom_consumer_records_total", labels | {"outcome": outcome})
        assert sample == count, outcome


async def test_garbage_goes_to_the_dead_letters_and_its_neighbours_are_applied(world, running):
    router = routed(world)
    await running(OutboxRelay(world.database, world.producer))
    await running(consumers(world, router))
    good = record(world.log, "default/a", Said(word="bad"))
    garbage = [
        Outgoing(world.log.name, b"default/a", b"\xff\x00garbage", []),
        Outgoing(world.log.name, b"default/a", b"{}", good.headers),
        Outgoing(world.log.name, b"default/a", None, record(world.log, "a", Said(word="x")).headers),
        Outgoing(world.log.name, None, b"{", [("ce_type", b"\xff"), ("ce_id", b"1")]),
        Outgoing(world.log.name, b"k", b"{}", [(n, b"a\0b" if n == "ce_id" else v) for n, v in good.headers]),
    ]
    await say(world, "before")
    for each in garbage:
        await publish(world.producer, each)
    await say(world, "after")
    await effects(world, "before", "after")
    letters = await until(lambda: _when_dead(world, router, len(garbage)))
    assert {letter.record.value for letter in letters} == {each.value for each in garbage}
    assert all(letter.reason.startswith("undecodable: ") for letter in letters)
    copies = await _read(world, world.log.dead_letters("test").name, len(garbage))
    copy = next(each for each in copies if each.value == b"\xff\x00garbage")
    headers = dict(copy.headers)
    assert copy.key == b"default/a"
    assert headers["phantom_dead_topic"] == world.log.name.encode()
    assert headers["phantom_dead_reason"].startswith(b"undecodable: header ce_type")


async def _when_dead(world, router, count):
    letters = await dead(world, router)
    return letters if len(letters) >= count else None


async def _read(world, topic, count):
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(topic, bootstrap_servers=world.kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(15):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


async def test_a_permanent_refusal_is_dead_at_once_and_undoes_what_it_did(world, running):
    calls = []

    async def refuse(tx, received):
        calls.append(received.event.word)
        await keep(tx, received)
        if received.event.word == "bad":
            tx.outbox.add(world.log, "default/a", Said(word="never"))
            raise NotFound("no such model", code="model_not_found")

    router = routed(world, refuse)
    await running(consumers(world, router))
    for word in ("one", "bad", "two"):
        await say(world, word)
    await effects(world, "one", "two")
    (letter,) = await until(lambda: _when_dead(world, router, 1))
    assert letter.reason == "model_not_found: no such model"
    assert calls.count("bad") <= 2
    topics = [row["topic"] for row in await world.database.fetch("SELECT topic FROM outbox")]
    assert topics == [world.log.dead_letters("test").name]


async def test_an_unknown_exception_is_tried_five_times(world, running):
    attempts = []

    async def fail(tx, received):
        if received.event.word == "bad":
            attempts.append(received.offset)
            raise ZeroDivisionError("a bug")
        await keep(tx, received)

    router = routed(world, fail)
    await running(consumers(world, router))
    await say(world, "bad")
    await say(world, "good")
    await effects(world, "good")
    (letter,) = await until(lambda: _when_dead(world, router, 1))
    assert letter.reason == "ZeroDivisionError: a bug"
    assert len(attempts) == 5


async def test_the_fifth_attempt_may_succeed_and_its_neighbours_are_applied_once(world, running):
    calls = []

    async def stumble(tx, received):
        calls.append(received.event.word)
        await keep(tx, received)
        if calls.count("bad") < 5 and received.event.word == "bad":
            raise ZeroDivisionError("a bug")

    for word in ("before", "bad", "behind"):
        await say(world, word)
    router = routed(world, stumble)
    await running(consumers(world, router))
    await effects(world, "before", "bad", "behind")
    assert calls.count("bad") == 5
    assert await world.effects() == ["before", "bad", "behind"]
    assert await dead(world, router) == []


async def test_a_handler_that_breaks_the_transaction_costs_no_other_record_an_attempt(world, running):
    calls = []

    async def careless(tx, received):
        calls.append(received.event.word)
        if received.event.word == "careless":
            with suppress(PostgresError):
                await tx.execute("SELECT 1 / 0")
        await keep(tx, received)

    for word in ("careless", "innocent"):
        await say(world, word)
    router = routed(world, careless)
    await running(consumers(world, router))
    await effects(world, "innocent")
    (letter,) = await until(lambda: _when_dead(world, router, 1))
    assert letter.reason.startswith("InFailedSQLTransactionError")
    assert calls.count("innocent") == 1


async def test_what_is_unavailable_is_tried_for_ever_and_holds_up_only_its_partition(world, running):
    is_away = True
    attempts = []

    async def depend(tx, received):
        if received.event.word == "waits" and is_away:
            attempts.append(1)
            raise Unavailable("the registry is away", retry_after_s=0.01)
        await keep(tx, received)

    router = routed(world, depend)
    await running(consumers(world, router))
    await say(world, "waits", key="default/a")
    await say(world, "behind", key="default/a")
    partitions = await world.producer.partitions(world.log.name)
    elsewhere = next(
        f"default/{n}"
        for n in range(100)
        if world.producer.choose(f"default/{n}".encode(), partitions)
        != world.producer.choose(b"default/a", partitions)
    )
    await say(world, "elsewhere", key=elsewhere)
    await effects(world, "elsewhere")
    await until(lambda: len(attempts) > 12)
    assert await dead(world, router) == []
    is_away = False
    await until(lambda: _has(world, 3))
    assert (await world.effects())[1:] == ["waits", "behind"]


async def test_a_dead_letter_is_replayed_once_in_the_transaction_of_its_effect(world, running):
    is_fixed = False

    async def picky(tx, received):
        if not is_fixed:
            raise Invalid("not yet")
        await keep(tx, received)

    router = routed(world, picky)
    await running(consumers(world, router))
    await say(world, "dead")
    (letter,) = await until(lambda: _when_dead(world, router, 1))
    letters = DeadLetters(router, world.database, SystemClock())
    with pytest.raises(Invalid):
        await letters.replay(letter.id)
    assert (await letters.show(letter.id)).state == "dead"
    is_fixed = True
    assert await letters.replay(letter.id) == "applied"
    assert await world.effects() == ["dead"]
    with pytest.raises(Refused) as caught:
        await letters.replay(letter.id)
    assert caught.value.code == "already_replayed"
    assert [each.id for each in await letters.list(state="applied")] == [letter.id]
    assert await letters.list(state="dead") == []
    with pytest.raises(NotFound):
        await letters.show("00000000-0000-7000-8000-000000000000")
    with pytest.raises(Invalid):
        await letters.show("nonsense")


async def test_a_dead_letter_that_came_again_is_not_buried_twice(world, running):
    async def refuse(tx, received):
        raise Invalid("never")

    router = routed(world, refuse)
    await running(consumers(world, router))
    for _ in range(2):
        await say(world, "again", event_id="e1")
    await until(lambda: _when_dead(world, router, 1))
    await say(world, "end", event_id="e2")
    assert len(await until(lambda: _when_dead(world, router, 2))) == 2


async def test_dead_letters_older_than_the_inbox_are_refused(world, running):
    async def refuse(tx, received):
        raise Invalid("never")

    router = routed(world, refuse)
    await running(consumers(world, router))
    await say(world, "old")
    (letter,) = await until(lambda: _when_dead(world, router, 1))
    clock = FakeClock(SystemClock().now())
    clock.advance(15 * 86_400)
    with pytest.raises(Refused) as caught:
        await DeadLetters(router, world.database, clock).replay(letter.id)
    assert caught.value.code == "dead_letter_expired"


async def test_a_superseded_replay_says_so(world, running):
    is_newer = False

    async def replace(tx, received):
        if is_newer:
            return kafka.SUPERSEDED
        raise Invalid("not yet")

    router = routed(world, replace)
    await running(consumers(world, router))
    await say(world, "old")
    (letter,) = await until(lambda: _when_dead(world, router, 1))
    is_newer = True
    assert await DeadLetters(router, world.database, SystemClock()).replay(letter.id) == "superseded"


async def test_raw_batches_come_whole_and_a_bad_record_goes_alone(world, running):
    sizes = []

    async def batch(tx, records):
        sizes.append(len(records))
        for each in records:
            if each.value == b"bad":
                raise Invalid("not a prediction")
            await tx.execute("INSERT INTO effect VALUES ($1, $2)", str(each.offset), each.value.decode())

    router = Router("test", group=f"phantom.{world.log.name}")
    router.on_batch(world.log, batch)
    for word in ("a", "b", "bad", "c"):
        await world.producer.send(world.log.name, b"k", word.encode(), [("h", b"1")])
    await running(consumers(world, router))
    await effects(world, "a", "b", "c")
    assert max(sizes) == 4
    (letter,) = await until(lambda: _when_dead(world, router, 1))
    assert (letter.record.value, letter.record.headers) == (b"bad", [("h", b"1")])
    assert letter.record.timestamp_ms > 0


async def test_a_rebalance_loses_nothing_and_applies_nothing_twice(world, running):
    registry = CollectorRegistry()
    await running(consumers(world, routed(world)))
    words = [f"w{number}" for number in range(300)]

    async def talk() -> None:
        for number, word in enumerate(words):
            await say(world, word, key=f"default/{number}")

    talking = asyncio.create_task(talk())
    await until(lambda: _has(world, 30))
    second = await running(consumers(world, routed(world), registry=registry))
    await second.assigned.wait()
    await until(lambda: _has(world, 120))
    third = consumers(world, routed(world))
    await third.start()
    await third.assigned.wait()
    await third.stop()
    await talking
    await effects(world, *words)


async def test_a_paused_partition_is_read_again_by_whoever_gets_it(world, running):
    is_away = True

    async def depend(tx, received):
        if is_away:
            raise Unavailable("away", retry_after_s=30)
        await keep(tx, received)

    slow = RetryPolicy(longest_s=60.0)
    first = Consumers(routed(world, depend), world.database, world.kafka, SystemClock(), retry=slow)
    await running(first)
    await say(world, "waits")
    await until(lambda: first._retries.waiting())
    is_away = False
    second = await running(consumers(world, routed(world, depend)))
    await second.assigned.wait()
    await effects(world, "waits")


async def test_postgres_away_means_waiting_not_dying(world, running):
    router = routed(world)
    await running(consumers(world, router))
    await say(world, "one")
    await effects(world, "one")
    await world.database.stop()
    await say(world, "two")
    await asyncio.sleep(0.3)
    await world.database.start()
    await effects(world, "one", "two")
    assert await dead(world, router) == []


async def test_a_trace_goes_on_in_the_handler(world, running):
    tracing.configure("test")
    seen = []

    async def look(tx, received):
        seen.append(trace.get_current_span().get_span_context().trace_id)

    await running(OutboxRelay(world.database, world.producer))
    await running(consumers(world, routed(world, look)))
    with tracing.span("announce") as span:
        async with world.database.transaction() as tx:
            tx.outbox.add(world.log, "default/a", Said(word="x"))
    await until(lambda: seen)
    assert seen == [span.get_span_context().trace_id]


async def test_set_up_mistakes_are_refused(world):
    router = routed(world)
    for wrong in (
        lambda: router.on(world.log, Said, keep),
        lambda: router.on_batch(world.log, keep),
        lambda: router.on(world.table, Said, keep),
        lambda: Router("test").on(world.table, Sung, keep),
    ):
        with pytest.raises(ValueError, match=r"handler already|compacted"):
            wrong()


async def test_the_inbox_forgets_after_fourteen_days(world, running):
    async with world.database.transaction() as tx:
        await tx.execute(
            "INSERT INTO inbox (consumer, source, event_id, at) "
            "VALUES ($1, 's', 'old', now() - interval '15 days'), ($1, 's', 'new', now() - interval '13 days')",
            f"phantom.{world.log.name}",
        )
    await running(consumers(world, routed(world)))
    await until(lambda: world.database.fetchval("SELECT count(*) = 1 FROM inbox"))
    assert await world.database.fetchval("SELECT event_id FROM inbox") == "new"
