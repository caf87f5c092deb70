"""Join, then read, then ready; one heartbeat at a time; leave at the end; Kafka may be away."""

import asyncio
import json

import pytest

from phantom_contracts.events.gateway import EndpointProgress
from phantom_inference_gateway.acks import Acks
from phantom_inference_gateway.tests.fakes import until
from phantom_platform.errors import Unavailable
from phantom_platform.testing.clock import FakeClock


class Producer:
    """Keeps what was sent; acknowledges while `up`, raises Unavailable or waits for ever otherwise."""

    def __init__(self, up=True, hangs=False):
        self.up, self.hangs = up, hangs
        self.sent = []
        self.waiting = 0

    async def send(self, topic, key, value, headers):
        self.waiting += 1
        try:
            while self.hangs:  # noqa: ASYNC110 - a test flips it
                await asyncio.sleep(0.005)
            if not self.up:
                raise Unavailable("away")
        finally:
            self.waiting -= 1
        self.sent.append((dict(headers)["ce_type"].decode().split(".")[2], key, json.loads(value)))

    @property
    def kinds(self):
        return [kind for kind, _, _ in self.sent]


class Projection:
    """Is read when `read` is set; raises Unavailable before where it `fails`."""

    def __init__(self, producer, *, is_read=True, fails=False):
        self.reads = []
        self.read = asyncio.Event()
        self.fails = fails
        self._producer = producer
        if is_read:
            self.read.set()

    async def caught_up(self):
        if self.fails and not self.read.is_set():
            raise Unavailable("the topic has no leader")
        await self.read.wait()
        self.reads.append(list(self._producer.kinds))


PROGRESS = {"default/f": EndpointProgress(applied=4, drained=3, experiment=1)}


def acks(producer, projection, progress=PROGRESS, **changes):
    settings = {"unreachable_s": 0.1, "heartbeat_s": 0.02} | changes
    return Acks("boot", producer, (projection,), lambda: progress, lambda: 7, FakeClock(), **settings)


async def test_it_reads_the_routes_after_its_join_was_acknowledged_and_then_beats():
    producer = Producer()
    projection = Projection(producer)
    made = acks(producer, projection)
    await made.start()
    assert projection.reads == [["GatewayJoined"]]
    assert (made.has_joined, made.is_stale) == (True, False)
    await until(lambda: len(producer.sent) >= 4)
    await made.stop()
    assert producer.kinds[0] == "GatewayJoined"
    assert set(producer.kinds[1:-1]) == {"GatewayHeartbeat"}
    assert producer.kinds[-1] == "GatewayLeft"
    assert {key for _, key, _ in producer.sent} == {b"boot"}
    beat = producer.sent[1][2]
    assert beat["endpoints"]["default/f"] == {"applied": 4, "drained": 3, "experiment": 1}
    assert beat["in_flight"] == 7


async def test_no_heartbeat_is_queued_behind_one_that_waits():
    producer = Producer()
    made = acks(producer, Projection(producer))
    await made.start()
    producer.hangs = True
    await until(lambda: producer.waiting == 1)
    before = len(producer.sent)
    await asyncio.sleep(0.1)
    assert producer.waiting == 1
    producer.hangs = False
    await until(lambda: len(producer.sent) > before)
    assert len(producer.sent) <= before + 2
    await made.stop()


async def test_with_kafka_away_it_starts_stale_and_joins_when_kafka_returns():
    producer = Producer(up=False)
    projection = Projection(producer)
    made = acks(producer, projection)
    await made.start()
    assert (made.has_joined, made.is_stale) == (False, True)
    producer.up = True
    await until(lambda: not made.is_stale)
    assert projection.reads == [["GatewayJoined"]]
    producer.up = False
    await until(lambda: made.failed > 0)
    producer.up = True
    count = len(producer.sent)
    await until(lambda: len(producer.sent) > count)
    await made.stop()


@pytest.mark.parametrize("fails", [False, True])
async def test_while_kafka_answers_it_waits_for_its_routes_and_beats(fails):
    producer = Producer()
    projection = Projection(producer, is_read=False, fails=fails)
    made = acks(producer, projection, unreachable_s=0.1)
    starting = asyncio.create_task(made.start())
    # Ten heartbeats are 0.2 s: twice as long as Kafka may be unreachable.
    await until(lambda: producer.kinds.count("GatewayHeartbeat") >= 10)
    assert not starting.done()
    assert producer.sent[1][2]["endpoints"]["default/f"] == {"applied": 4, "drained": 3, "experiment": 1}
    expected = "reading the routes from Kafka"
    assert made.unready == (f"{expected}: the topic has no leader" if fails else expected)
    assert (made.is_stale, made.serves_snapshot) == (True, False)
    projection.read.set()
    async with asyncio.timeout(5):
        await starting
    assert (made.is_stale, made.unready) == (False, "")
    await made.stop()


@pytest.mark.parametrize("hangs", [False, True])
async def test_where_kafka_goes_away_before_the_routes_are_read_the_snapshot_serves(hangs):
    producer = Producer()
    projection = Projection(producer, is_read=False)
    made = acks(producer, projection)
    starting = asyncio.create_task(made.start())
    await until(lambda: producer.kinds.count("GatewayHeartbeat") >= 2)
    assert not starting.done()
    producer.hangs, producer.up = hangs, hangs
    async with asyncio.timeout(5):
        await starting
    assert (made.is_stale, made.serves_snapshot, made.unready) == (True, True, "")
    producer.hangs, producer.up = False, True
    projection.read.set()
    await until(lambda: not made.is_stale)
    assert not made.serves_snapshot
    await made.stop()


async def test_without_a_snapshot_it_is_not_ready_before_everything_is_read():
    producer = Producer(up=False)
    progress = {}
    projection = Projection(producer, is_read=False)
    made = acks(producer, projection, progress)
    assert made.unready == "joining through Kafka"
    await made.start()
    assert "no snapshot" in made.unready
    producer.up = True
    await until(lambda: made.has_joined)
    progress |= PROGRESS  # some of the routes were read
    assert "no snapshot" in made.unready
    projection.read.set()
    await until(lambda: not made.unready)
    await made.stop()


async def test_one_that_is_stopped_while_it_waits_says_that_it_leaves():
    producer = Producer()
    made = acks(producer, Projection(producer, is_read=False))
    starting = asyncio.create_task(made.start())
    await until(lambda: "GatewayHeartbeat" in producer.kinds)
    starting.cancel()
    await asyncio.wait([starting])
    assert producer.kinds[-1] == "GatewayLeft"
    count = len(producer.sent)
    await asyncio.sleep(0.06)
    assert len(producer.sent) == count


async def test_a_process_that_never_joined_does_not_leave():
    producer = Producer(up=False)
    made = acks(producer, Projection(producer), unreachable_s=0.01)
    await made.start()
    await made.stop()
    assert producer.sent == []
