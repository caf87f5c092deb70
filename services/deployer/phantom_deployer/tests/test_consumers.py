"""Reading route-acks from a real Kafka, frozen and resumed."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from phantom_contracts import topics
from phantom_contracts.events.gateway import EndpointProgress, GatewayHeartbeat, GatewayJoined, GatewayLeft
from phantom_deployer.bell import Bell
from phantom_deployer.consumers import AckReader, routes_projection
from phantom_deployer.domain.acknowledgement import Acknowledgements, Progress
from phantom_deployer.metrics import Metrics
from phantom_deployer.store import PostgresDeployments
from phantom_platform.clock import SystemClock
from phantom_platform.ids import new_id
from phantom_platform.kafka import Producer, ensure_topics
from phantom_platform.kafka.snapshot import Snapshot, Stored, save
from phantom_platform.outgoing import Outgoing
from phantom_platform.postgres import Database
from phantom_platform.testing import servers
from phantom_platform.testing.events import publish, record
from phantom_platform.testing.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[str]:
    """A broker that this module may freeze."""
    if os.environ.get("PHANTOM_TEST_KAFKA"):
        pytest.skip("a broker of somebody else's is not frozen")
    with servers.kafka() as bootstrap:
        yield bootstrap


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def producer(own_kafka: str) -> AsyncIterator[Producer]:
    await ensure_topics(own_kafka, topics.CATALOGUE)
    made = Producer(own_kafka, client_id="test-acks")
    await made.start()
    yield made
    await made.stop()


class Reading:
    """One life of the reader."""

    def __init__(self, bootstrap: str, database: Database) -> None:
        self.acks = Acknowledgements()
        self.registry = CollectorRegistry()
        self.reader = AckReader(
            bootstrap, PostgresDeployments(database), self.acks, SystemClock(), Bell(), Metrics(self.registry)
        )

    async def __aenter__(self) -> "Reading":
        await self.reader.start()
        await self.reader.current.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reader.stop()


def beat(boot_id: str, version: int) -> Outgoing:
    progress = {"default/x": EndpointProgress(applied=version, drained=version)}
    return record(topics.ROUTE_ACKS, boot_id, GatewayHeartbeat(boot_id=boot_id, endpoints=progress))


def joined(boot_id: str) -> Outgoing:
    return record(topics.ROUTE_ACKS, boot_id, GatewayJoined(boot_id=boot_id))


def left(boot_id: str) -> Outgoing:
    return record(topics.ROUTE_ACKS, boot_id, GatewayLeft(boot_id=boot_id))


async def test_gateways_count_from_join_to_leave_across_restarts(
    own_kafka: str, producer: Producer, database: Database
) -> None:
    await publish(producer, joined("g1"))
    await publish(producer, beat("g2", 3))
    async with Reading(own_kafka, database) as reading:
        await until(lambda: {"g1", "g2"} <= set(reading.acks.gateways))
        assert reading.acks.gateways["g2"].progress["default/x"] == Progress(3, 3)
    async with Reading(own_kafka, database) as reading:  # from the table: nothing is read twice
        assert {"g1", "g2"} <= set(reading.acks.gateways)
        assert reading.acks.gateways["g2"].progress == {}
        await publish(producer, beat("g2", 4))
        await until(lambda: reading.acks.gateways["g2"].progress)
        await publish(producer, left("g1"))
        await publish(producer, left("g2"))
        await until(lambda: not reading.acks.gateways)
    async with Reading(own_kafka, database) as reading:
        assert not reading.acks.gateways


async def test_garbage_is_counted_and_left(own_kafka: str, producer: Producer, database: Database) -> None:
    good = beat("g3", 1)
    await producer.send(good.topic, b"g3", b"\xff not json", good.headers)
    await producer.send(good.topic, b"g3", None, [])
    await publish(producer, good)
    async with Reading(own_kafka, database) as reading:
        await until(lambda: "g3" in reading.acks.gateways)
        assert reading.registry.get_sample_value("phantom_deployer_bad_acks_total") == 1
        await publish(producer, left("g3"))
        await until(lambda: not reading.acks.gateways)


async def test_time_in_which_kafka_was_frozen_does_not_count(
    own_kafka: str, producer: Producer, database: Database
) -> None:
    port = int(own_kafka.rsplit(":", 1)[1])
    (broker,) = {
        c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port
    }
    async with Reading(own_kafka, database) as reading:
        await publish(producer, joined("g4"))
        gateway = await until(lambda: reading.acks.gateways.get("g4"))
        await until(lambda: gateway.silence_s > 2.0)
        assert broker is not None
        os.kill(broker, signal.SIGSTOP)
        try:
            # An interruption is noticed, and what was counted is forgotten.
            await until(lambda: gateway.silence_s == 0.0, within_s=15)
        finally:
            os.kill(broker, signal.SIGCONT)
        await until(lambda: gateway.silence_s > 0.0, within_s=30)
        assert gateway.silence_s < 2.0
        await publish(producer, beat("g4", 1))
        await until(lambda: gateway.progress)
        await publish(producer, left("g4"))
        await until(lambda: not reading.acks.gateways)


async def test_a_gateway_that_is_silent_for_long_needs_attention(
    own_kafka: str, producer: Producer, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phantom_deployer.domain.acknowledgement.SILENT_AFTER_S", 0.5)
    async with Reading(own_kafka, database) as reading:
        await publish(producer, joined("g5"))
        await until(lambda: "g5" in reading.acks.gateways)
        (said,) = await until(reading.reader.attention)
        assert said.startswith("gateway g5 was not heard for ")
        await publish(producer, left("g5"))
        await until(lambda: reading.reader.attention() == [])


async def test_a_route_that_kafka_has_lost_counts_when_it_is_there_again_though_a_snapshot_knew_it(
    own_kafka: str, producer: Producer, tmp_path: Path
) -> None:
    acks, path, key = Acknowledgements(), tmp_path / "routes", f"w-{new_id()}/fraud"
    known = Snapshot({key: Stored(b"{}", {}, 7)}, {0: 99}, SystemClock().now().timestamp())
    save(path, topics.ROUTES.name, known)
    routes = routes_projection(own_kafka, acks, SystemClock(), Bell(), snapshot=path)
    await routes.start()
    try:
        await routes.current.wait()
        assert acks.confirmed(key) == 0
        headers = [("phantom_version", b"7")]
        await publish(producer, Outgoing(topics.ROUTES.name, key.encode(), b"{}", headers))
        await until(lambda: acks.confirmed(key) == 7)
    finally:
        await routes.stop()
