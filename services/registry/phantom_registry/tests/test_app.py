"""The service as it is wired: events reach Kafka, and a restart finds everything again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from prometheus_client import CollectorRegistry

from phantom.registry.v1 import registry_service_pb2 as pb
from phantom.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from phantom_contracts import topics
from phantom_contracts.events.registry import DatasetRegistered
from phantom_platform import rpc
from phantom_platform.clock import SystemClock
from phantom_platform.kafka import Producer, ensure_topics
from phantom_platform.postgres import Database
from phantom_platform.service import ServiceContext
from phantom_platform.testing.identity import FixedToken, Issuer
from phantom_platform.testing.rpc import serving
from phantom_registry.app import build
from phantom_registry.domain.values import Artifact
from phantom_registry.settings import RegistrySettings
from phantom_registry.store import MIGRATIONS, SCHEMA, PostgresRegistry
from phantom_registry.tests.conftest import EVERYTHING, register

pytestmark = pytest.mark.integration


async def one_run(context: ServiceContext, issuer: Issuer, use: Any) -> None:
    app = build(context, RegistrySettings(min_free_bytes=0))
    await app.start()
    try:
        async with (
            serving(*app.servicers, verifier=issuer.verifier, unready=app.unready) as server,
            rpc.control_channel(server.address, FixedToken(issuer.token("ada", *EVERYTHING))) as channel,
        ):
            await use(RegistryServiceStub(channel))
    finally:
        await app.stop()


async def read_events(bootstrap: str, model_id: str, count: int) -> list[dict[str, bytes]]:
    consumer = AIOKafkaConsumer(
        topics.REGISTRY_EVENTS.name, bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[dict[str, bytes]] = []
    try:
        async with asyncio.timeout(30):
            async for record in consumer:
                if record.key == f"default/{model_id}".encode():
                    found.append(dict(record.headers))
                if len(found) == count:
                    break
    finally:
        await consumer.stop()
    return found


async def test_events_reach_kafka_in_order_and_a_restart_finds_the_model(
    kafka_bootstrap: str, postgres_dsn: str, tmp_path: Path, issuer: Issuer
) -> None:
    await ensure_topics(kafka_bootstrap, [topics.REGISTRY_EVENTS, topics.AUDIT])
    producer = Producer(kafka_bootstrap, client_id="test-registry")
    await producer.start()

    def context() -> ServiceContext:
        return ServiceContext(
            kafka_bootstrap=kafka_bootstrap,
            postgres_dsn=postgres_dsn,
            control_address="",
            data_dir=tmp_path,
            clock=SystemClock(),
            registry=CollectorRegistry(),
            producer=producer,
            verifier=issuer.verifier,
        )

    async def first(stub: RegistryServiceStub) -> None:
        await register(stub, "wired")

    async def second(stub: RegistryServiceStub) -> None:
        assert (await stub.GetModel(pb.GetModelRequest(model_id="wired"))).model.latest_version == "1.0.0"
        await stub.SetTags(pb.SetTagsRequest(model_id="wired", tags=["x"]))

    try:
        await one_run(context(), issuer, first)
        await one_run(context(), issuer, second)
        headers = await read_events(kafka_bootstrap, "wired", 3)
    finally:
        await producer.stop()
    assert [each["ce_type"].decode().split(".")[2] for each in headers] == [
        "ModelRegistered",
        "VersionCreated",
        "ModelTagged",
    ]
    assert [each["ce_aggregateversion"] for each in headers] == [b"1", b"2", b"3"]


async def test_what_was_announced_in_a_transaction_that_fails_is_not_there(postgres_dsn: str) -> None:
    database = Database(
        postgres_dsn, SCHEMA, migrations=MIGRATIONS, clock=SystemClock(), source="phantom/registry"
    )
    await database.start()
    store = PostgresRegistry(database)
    digest = f"sha256:{'0' * 64}"

    async def fail() -> None:
        async with store.transaction() as tx:
            await tx.add_artifact("default", Artifact(digest, 1), "ada")
            event = DatasetRegistered(dataset="d", dataset_version="1", digest=digest, actor="ada")
            tx.announce(topics.REGISTRY_EVENTS, "default/d", event, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await store.reads.artifact("default", digest) is None
    assert await database.fetchval("SELECT count(*) FROM outbox WHERE key = 'default/d'::bytea") == 0
    await database.stop()
