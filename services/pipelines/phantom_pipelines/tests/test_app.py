"""The service as it is wired: it calls others over gRPC, events reach Kafka, a restart goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from prometheus_client import CollectorRegistry

from phantom.governance.v1 import governance_service_pb2 as governance
from phantom.pipelines.v1 import pipeline_service_pb2 as pb
from phantom.pipelines.v1.pipeline_service_pb2_grpc import PipelineServiceStub
from phantom.registry.v1 import model_pb2
from phantom.registry.v1 import registry_service_pb2 as registry
from phantom_contracts import topics
from phantom_pipelines.app import build
from phantom_pipelines.settings import PipelinesSettings
from phantom_pipelines.tests.conftest import executed, made, stage
from phantom_pipelines.tests.fake_deployer import FakeDeployer, at
from phantom_pipelines.tests.fakes import DIGEST
from phantom_platform import rpc
from phantom_platform.clock import SystemClock
from phantom_platform.errors import NotFound
from phantom_platform.kafka import Producer, ensure_topics
from phantom_platform.service import ServiceContext
from phantom_platform.testing.audit import MemoryAuditSink
from phantom_platform.testing.identity import FixedToken, Issuer
from phantom_platform.testing.rpc import serving, standing_in
from phantom_platform.testing.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


async def get_version(request: registry.GetVersionRequest, context: Any) -> registry.GetVersionResponse:
    if request.version != "1.1.0":
        raise NotFound(code="version_not_found")
    found = model_pb2.ModelVersion(model_id="fraud", version="1.1.0", digest=DIGEST, framework="xgboost")
    return registry.GetVersionResponse(version=found)


async def list_versions(request: registry.ListVersionsRequest, context: Any) -> registry.ListVersionsResponse:
    found = model_pb2.ModelVersion(model_id="fraud", version="1.1.0", digest=DIGEST)
    return registry.ListVersionsResponse(versions=[found])


@asynccontextmanager
async def others(issuer: Issuer, deployer: FakeDeployer) -> AsyncIterator[str]:
    """The address of the other services."""

    async def issue(
        request: governance.IssueServiceTokenRequest, context: Any
    ) -> governance.IssueServiceTokenResponse:
        token = governance.Token(value=issuer.token(request.service, "*"), principal=request.service)
        token.expires_at.FromSeconds(int(issuer.clock.now().timestamp()) + 3600)
        return governance.IssueServiceTokenResponse(token=token)

    servicers = [
        *deployer.servicers(),
        standing_in(
            "phantom.governance.v1.GovernanceService", audit=MemoryAuditSink(), IssueServiceToken=issue
        ),
        standing_in(
            "phantom.registry.v1.RegistryService",
            audit=MemoryAuditSink(),
            GetVersion=get_version,
            ListVersions=list_versions,
        ),
    ]
    async with serving(*servicers, verifier=issuer.verifier) as server:
        yield server.address


@asynccontextmanager
async def one_life(context: ServiceContext, issuer: Issuer) -> AsyncIterator[PipelineServiceStub]:
    """The service from its start to its end."""
    app = build(context, PipelinesSettings(poll_s=0.05))
    await app.start()
    try:
        async with (
            serving(*app.servicers, verifier=issuer.verifier, unready=app.unready) as server,
            rpc.control_channel(
                server.address, FixedToken(issuer.token("ada", "pipelines:*", "models:deploy"))
            ) as channel,
        ):
            yield PipelineServiceStub(channel)
    finally:
        await app.stop()


async def read_events(bootstrap: str, key: str, count: int) -> list[dict[str, bytes]]:
    consumer = AIOKafkaConsumer(
        topics.PIPELINE_EVENTS.name, bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: list[dict[str, bytes]] = []
    try:
        async with asyncio.timeout(30):
            async for record in consumer:
                if record.key == key.encode():
                    found.append(dict(record.headers))
                if len(found) == count:
                    break
    finally:
        await consumer.stop()
    return found


async def test_an_execution_survives_a_restart_and_its_events_reach_kafka_in_order(
    kafka_bootstrap: str, postgres_dsn: str, tmp_path: Path, issuer: Issuer
) -> None:
    await ensure_topics(kafka_bootstrap, [topics.PIPELINE_EVENTS, topics.AUDIT])
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "pipelines.key").write_text("key")
    deployer = FakeDeployer()
    deployer.serve("1.0.0")
    async with AsyncExitStack() as stack:
        producer = Producer(kafka_bootstrap, client_id="test-pipelines")
        await producer.start()
        stack.push_async_callback(producer.stop)
        address = await stack.enter_async_context(others(issuer, deployer))

        def context() -> ServiceContext:
            return ServiceContext(
                kafka_bootstrap=kafka_bootstrap,
                postgres_dsn=postgres_dsn,
                control_address=address,
                data_dir=tmp_path,
                clock=SystemClock(),
                registry=CollectorRegistry(),
                producer=producer,
                verifier=issuer.verifier,
            )

        async with one_life(context(), issuer) as stub:
            pipeline_id = await made(stub, stage("deploy", "deployment", environment="staging"))
            execution_id = await executed(stub, pipeline_id, version="")
            await until(lambda: deployer.looks > 2)
        deployer.course = [at("succeeded", 100, "all good")]
        second = context()
        async with one_life(second, issuer) as stub:

            async def ended() -> Any:
                request = pb.GetExecutionRequest(execution_id=execution_id)
                found = (await stub.GetExecution(request)).execution
                return found if found.HasField("ended_at") else None

            done = await until(ended)
            assert (done.phase, done.model_version, done.stages[0].attempts) == ("succeeded", "1.1.0", 2)
        headers = await read_events(kafka_bootstrap, f"default/{execution_id}", 4)
    assert len(deployer.rollouts) == 1
    assert [each["ce_type"].decode().split(".")[2] for each in headers] == [
        "StagePhaseChanged",
        "ExecutionPhaseChanged",
        "StagePhaseChanged",
        "ExecutionPhaseChanged",
    ]
    assert [each["ce_aggregateversion"] for each in headers] == [b"1", b"2", b"3", b"4"]
    counted = second.registry.get_sample_value(
        "phantom_pipelines_stages_total", {"type": "deployment", "outcome": "succeeded"}
    )
    assert counted == 1
