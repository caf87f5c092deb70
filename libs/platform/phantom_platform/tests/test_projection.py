import asyncio
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client import CollectorRegistry

from phantom_platform.clock import SystemClock
from phantom_platform.errors import Unavailable
from phantom_platform.kafka import Projection
from phantom_platform.kafka.snapshot import Snapshot, Stored, load, save
from phantom_platform.outgoing import Outgoing
from phantom_platform.testing.clock import FakeClock
from phantom_platform.testing.events import publish, record
from phantom_platform.testing.waiting import until
from phantom_platform.tests.words import Entry

pytestmark = pytest.mark.integration

NOWHERE = "127.0.0.1:1"


class Seen:
    """What a projection's reader holds, and every call it got."""

    def __init__(self):
        self.values = {}
        self.calls = []

    def parse(self, key, value, headers):
        return Entry.model_validate_json(value).text

    def changed(self, key, value, version):
        if value == "refused":
            raise RuntimeError("the reader cannot use this")
        self.values[key] = value
        self.calls.append((key, value, version))

    def deleted(self, key, version):
        self.values.pop(key, None)
        self.calls.append((key, None, version))


def projection(world, seen: Seen, *, bootstrap=None, **options) -> Projection:
    return Projection(
        world.table,
        bootstrap or world.kafka,
        parse=seen.parse,
        on_changed=seen.changed,
        on_deleted=seen.deleted,
        **options,
    )


async def put(world, key: str, version: int, text: str | None) -> None:
    event = None if text is None else Entry(version=version, text=text)
    await publish(world.producer, record(world.table, key, event, version=version))


async def test_it_is_current_when_all_that_was_there_is_applied(world, running):
    for number in range(200):
        await put(world, f"k{number % 20}", number, str(number))
    seen = Seen()
    reader = await running(projection(world, seen))
    await asyncio.wait_for(reader.current.wait(), 15)
    assert seen.values == {f"k{number % 20}": str(number) for number in range(180, 200)}
    assert not reader.is_stale


async def test_it_is_current_on_an_empty_topic_and_after_a_transaction(world, running):
    empty = await running(projection(world, Seen()))
    await asyncio.wait_for(empty.current.wait(), 15)
    producer = AIOKafkaProducer(bootstrap_servers=world.kafka, transactional_id=world.table.name)
    await producer.start()
    for text, is_kept in (("kept", True), ("aborted", False)):
        out = record(world.table, "k", Entry(version=1, text=text), version=1)
        await producer.begin_transaction()
        await producer.send_and_wait(out.topic, out.value, out.key, headers=out.headers)
        await (producer.commit_transaction() if is_kept else producer.abort_transaction())
    await producer.stop()
    seen = Seen()
    reader = await running(projection(world, seen))
    await asyncio.wait_for(reader.current.wait(), 15)
    await asyncio.wait_for(reader.caught_up(), 15)
    assert seen.values == {"k": "kept"}


async def test_what_is_not_newer_is_ignored_and_a_tombstone_deletes(world, running):
    seen = Seen()
    reader = await running(projection(world, seen))
    for version, text in ((1, "a"), (2, "b"), (3, None), (1, "a"), (2, "b"), (3, None), (4, "d")):
        await put(world, "k", version, text)
    await asyncio.wait_for(reader.caught_up(), 15)
    assert seen.calls == [("k", "a", 1), ("k", "b", 2), ("k", None, 3), ("k", "d", 4)]
    assert reader.version("k") == 4


async def test_a_bad_record_is_counted_and_the_last_good_one_stays(world, running):
    registry = CollectorRegistry()
    seen = Seen()
    reader = await running(projection(world, seen, registry=registry))
    good = record(world.table, "k", Entry(version=2, text="x"), version=2)
    await put(world, "k", 1, "good")
    bad = [
        Outgoing(world.table.name, b"k", b"\x00 not json", good.headers),
        Outgoing(world.table.name, b"k", good.value, []),
        Outgoing(world.table.name, b"k", good.value, [("phantom_version", b"-5")]),
        Outgoing(world.table.name, b"\xff\xfe", good.value, good.headers),
    ]
    for each in bad:
        await publish(world.producer, each)
    await put(world, "k", 3, "refused")
    await put(world, "other", 1, "fine")
    await asyncio.wait_for(reader.caught_up(), 15)
    assert seen.values == {"k": "good", "other": "fine"}
    assert (reader.version("k"), reader.bad["k"]) == (1, 3)
    labels = {"topic": world.table.name}
    assert registry.get_sample_value("phantom_projection_bad_records_total", labels) == 5
    await put(world, "k", 4, "better")
    await asyncio.wait_for(reader.caught_up(), 15)
    assert (seen.values["k"], reader.bad.get("k")) == ("better", None)


async def test_callbacks_may_be_coroutines(world, running):
    seen = []

    async def changed(key, value, version):
        await asyncio.sleep(0)
        seen.append(value)

    async def deleted(key, version):
        seen.append(None)

    reader = await running(
        Projection(world.table, world.kafka, parse=Seen().parse, on_changed=changed, on_deleted=deleted)
    )
    await put(world, "k", 1, "a")
    await put(world, "k", 2, None)
    await asyncio.wait_for(reader.caught_up(), 15)
    assert seen == ["a", None]


@asynccontextmanager
async def started(part):
    await part.start()
    try:
        yield part
    finally:
        await part.stop()


async def test_a_reader_that_is_temporarily_unavailable_is_waited_for(world, running):
    seen, left = [], [2]

    async def changed(key, value, version):
        if left[0]:
            left[0] -= 1
            raise Unavailable("Postgres is away", retry_after_s=0.01)
        seen.append((key, value, version))

    await put(world, "k", 1, "x")
    reader = await running(
        Projection(
            world.table, world.kafka, parse=Seen().parse, on_changed=changed, on_deleted=lambda *_: None
        )
    )
    await asyncio.wait_for(reader.current.wait(), 15)
    assert (seen, reader.bad) == ([("k", "x", 1)], {})


async def test_the_snapshot_serves_while_kafka_is_away_marked_stale(world, tmp_path):
    path = tmp_path / "deep" / "table.json"
    async with started(projection(world, Seen(), snapshot=path)) as reader:
        await put(world, "k", 1, "a")
        await put(world, "gone", 1, "b")
        await put(world, "gone", 2, None)
        await asyncio.wait_for(reader.caught_up(), 15)
        await until(path.is_file)
    seen = Seen()
    async with started(projection(world, seen, bootstrap=NOWHERE, snapshot=path)) as away:
        assert seen.values == {"k": "a"}
        assert away.is_stale
        assert not away.current.is_set()
    assert load(path, world.table.name).records["gone"] == Stored(
        None, load(path, world.table.name).records["gone"].headers, 2
    )
    await put(world, "k", 2, "newer")
    seen = Seen()
    async with started(projection(world, seen, snapshot=path)) as back:
        await asyncio.wait_for(back.current.wait(), 15)
        assert seen.values == {"k": "newer"}
        assert not back.is_stale


@pytest.mark.parametrize(("days", "is_kept"), [(1, True), (8, False)])
async def test_a_snapshot_older_than_tombstones_loses_what_kafka_no_longer_has(
    world, running, tmp_path, days, is_kept
):
    path = tmp_path / "table.json"
    clock = FakeClock(SystemClock().now())
    stored = Stored(Entry(version=5, text="old").model_dump_json().encode(), {}, 5)
    save(path, world.table.name, Snapshot({"k": stored}, {0: 0}, clock.now().timestamp()))
    clock.advance(days * 86_400)
    seen = Seen()
    reader = await running(projection(world, seen, snapshot=path, clock=clock))
    await asyncio.wait_for(reader.current.wait(), 15)
    assert seen.values == ({"k": "old"} if is_kept else {})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 9, "topic": "t"}', b"\xff"])
def test_a_damaged_snapshot_is_as_good_as_none(tmp_path, content):
    path = tmp_path / "s.json"
    path.write_bytes(content)
    assert load(path, "t") is None


def test_a_snapshot_of_another_topic_is_not_used(tmp_path):
    save(tmp_path / "s.json", "t", Snapshot({}, {0: 4}, 1.0))
    assert load(tmp_path / "s.json", "t") == Snapshot({}, {0: 4}, 1.0)
    assert load(tmp_path / "s.json", "u") is None


async def test_catching_up_is_refused_while_kafka_is_away(world):
    reader = projection(world, Seen(), bootstrap=NOWHERE)
    reader.current.set()
    async with started(reader):
        with pytest.raises(Unavailable):
            await reader.caught_up()


async def test_it_tells_of_a_snapshot_of_bad_records_and_of_silence(world, running, tmp_path):
    path = tmp_path / "table"
    stored = Stored(Entry(version=5, text="old").model_dump_json().encode(), {}, 5)
    save(path, world.table.name, Snapshot({"k": stored}, {0: 0}, SystemClock().now().timestamp()))
    clock = FakeClock(SystemClock().now())
    away = await running(projection(world, Seen(), bootstrap=NOWHERE, snapshot=path, clock=clock))
    assert ["from a snapshot" in each for each in away.attention()] == [True]
    nothing = await running(projection(world, Seen(), bootstrap=NOWHERE, clock=clock))
    assert nothing.attention() == []
    clock.advance(11)
    assert ["nothing was heard from Kafka for 11 s" in each for each in nothing.attention()] == [True]


async def test_silence_ends_with_the_next_answer(world, running):
    clock = FakeClock(SystemClock().now())
    reader = await running(projection(world, Seen(), clock=clock))
    await asyncio.wait_for(reader.current.wait(), 15)
    clock.advance(11)
    assert reader.attention()
    await until(lambda: reader.attention() == [])


async def test_whoever_must_know_is_told_what_kafka_has_lost_and_hears_of_it_when_it_comes_again(
    world, running, tmp_path
):
    path, seen, lost = tmp_path / "table", Seen(), []
    stored = Stored(Entry(version=5, text="old").model_dump_json().encode(), {}, 5)
    save(path, world.table.name, Snapshot({"k": stored}, {0: 9}, SystemClock().now().timestamp()))
    reader = await running(projection(world, seen, snapshot=path, on_lost=lost.append))
    await asyncio.wait_for(reader.current.wait(), 15)
    assert lost == ["k"]
    await put(world, "k", 5, "again")
    await asyncio.wait_for(reader.caught_up(), 15)
    assert seen.calls == [("k", "old", 5), ("k", "again", 5)]
