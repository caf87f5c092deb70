"""The service on a real Postgres, in front of a real gRPC server; people with tokens; other services that obey."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct
from prometheus_client import CollectorRegistry

from phantom.pipelines.v1 import pipeline_pb2
from phantom.pipelines.v1 import pipeline_service_pb2 as pb
from phantom.pipelines.v1.pipeline_service_pb2_grpc import (
    PipelineServiceStub,
    add_PipelineServiceServicer_to_server,
)
from phantom_pipelines.bell import Bell
from phantom_pipelines.metrics import Metrics
from phantom_pipelines.patience import Patience
from phantom_pipelines.reconciler import PATIENT, Executor
from phantom_pipelines.rpc import SERVICE, PipelinesRpc
from phantom_pipelines.runners.runner import Runner
from phantom_pipelines.service import Executions, Pipelines, Progression, Suites, Testing
from phantom_pipelines.store import MIGRATIONS, SCHEMA, Leases, PostgresPipelines
from phantom_pipelines.tests.fakes import Cases, Deployments, Models, Script
from phantom_platform import rpc
from phantom_platform.clock import SystemClock
from phantom_platform.errors import PhantomError
from phantom_platform.lifecycle import Task
from phantom_platform.postgres import Database
from phantom_platform.testing.clock import FakeClock
from phantom_platform.testing.identity import FixedToken, Issuer
from phantom_platform.testing.rpc import serving
from phantom_platform.testing.waiting import until

TABLES = "pipelines, executions, stages, checks, log_lines, test_suites, answers, outbox"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database(postgres_dsn: str) -> AsyncIterator[Database]:
    made = Database(
        postgres_dsn, SCHEMA, migrations=MIGRATIONS, clock=FakeClock(), source="phantom/pipelines"
    )
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def clock(database: Database) -> FakeClock:
    """The database's too."""
    assert isinstance(database.clock, FakeClock)
    return database.clock


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer(SystemClock())


@dataclass
class Running:
    """A service that runs, and ways to call it and to stop its executor."""

    database: Database
    store: PostgresPipelines
    models: Models
    deployments: Deployments
    cases: Cases
    script: Script
    issuer: Issuer
    address: str
    stack: AsyncExitStack
    bell: Bell
    executors: list[Task] = field(default_factory=list)

    async def client(self, principal: str = "ada", *permissions: str) -> PipelineServiceStub:
        token = self.issuer.token(principal, *(permissions or ("pipelines:*", "models:deploy")))
        channel = await self.stack.enter_async_context(rpc.control_channel(self.address, FixedToken(token)))
        return PipelineServiceStub(channel)

    async def start_executor(
        self,
        runners: Mapping[str, Runner] | None = None,
        progression: Progression | None = None,
        concurrency: int = 16,
        patience: Patience = PATIENT,
    ) -> Task:
        """One more process's executor, with a session of its own; every type is the script's unless given."""
        leases = Leases(self.database)
        chosen = runners or dict.fromkeys(
            ("validation", "containerization", "testing", "deployment"), self.script
        )
        executor = Executor(
            progression or Progression(self.store),
            chosen,
            leases,
            self.database.clock,
            Metrics(CollectorRegistry()),
            self.bell,
            concurrency=concurrency,
            patience=patience,
        )

        async def live() -> None:
            try:
                await executor.run()
            finally:
                await leases.close()

        task = Task("executor", live)
        await task.start()
        self.executors.append(task)
        return task

    async def stop_executors(self) -> None:
        while self.executors:
            await self.executors.pop().stop()

    async def execution(self, stub: PipelineServiceStub, execution_id: str) -> pipeline_pb2.Execution:
        return (await stub.GetExecution(pb.GetExecutionRequest(execution_id=execution_id))).execution

    async def reaches(
        self, stub: PipelineServiceStub, execution_id: str, *phases: str, within_s: float = 15
    ) -> pipeline_pb2.Execution:
        """The execution as soon as it is in one of `phases`."""

        async def there() -> pipeline_pb2.Execution | None:
            found = await self.execution(stub, execution_id)
            return found if found.phase in phases else None

        return await until(there, within_s=within_s)

    async def events(self, kind: str = "") -> list[dict[str, Any]]:
        """What the outbox holds, oldest first; of `kind`, such as `StagePhaseChanged`."""
        rows = await self.database.fetch("SELECT topic, key, value, headers FROM outbox ORDER BY id")
        found = []
        for row in rows:
            headers = dict(json.loads(row["headers"]))
            if row["topic"] == "phantom.pipelines.events.v1" and f".{kind}" in headers["ce_type"]:
                event = {"key": row["key"].decode(), "number": int(headers["ce_aggregateversion"])}
                found.append({**event, "kind": headers["ce_type"].split(".")[2], **json.loads(row["value"])})
        return found

    async def audits(self) -> list[dict[str, Any]]:
        sql = "SELECT value FROM outbox WHERE topic = 'phantom.audit.v1' ORDER BY id"
        return [json.loads(row["value"]) for row in await self.database.fetch(sql)]


@asynccontextmanager
async def running(database: Database, issuer: Issuer) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        store, models, deployments, cases, bell = (
            PostgresPipelines(database),
            Models(),
            Deployments(),
            Cases(),
            Bell(),
        )
        door = PipelinesRpc(
            Pipelines(store),
            Executions(store, models, deployments, bell.ring),
            Suites(store, models),
            Testing(store, models, deployments, cases),
        )
        servicer = rpc.servicer(
            add_PipelineServiceServicer_to_server, door, SERVICE, audit=rpc.DatabaseAuditSink(database)
        )
        server = await stack.enter_async_context(serving(servicer, verifier=issuer.verifier))
        made = Running(
            database, store, models, deployments, cases, Script(), issuer, server.address, stack, bell
        )
        try:
            yield made
        finally:
            await made.stop_executors()


@pytest_asyncio.fixture(loop_scope="session")
async def pipelines(database: Database, issuer: Issuer) -> AsyncIterator[Running]:
    """The service with empty tables, without an executor."""
    await database.fetch(f"TRUNCATE {TABLES}")
    async with running(database, issuer) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def ada(pipelines: Running) -> PipelineServiceStub:
    """Who asks."""
    return await pipelines.client("ada")


@pytest_asyncio.fixture(loop_scope="session")
async def bob(pipelines: Running) -> PipelineServiceStub:
    """Who approves."""
    return await pipelines.client("bob")


def struct(values: Mapping[str, Any]) -> Struct:
    made = Struct()
    made.update(values)
    return made


def stage(name: str, kind: str = "validation", **config: Any) -> pipeline_pb2.Stage:
    """A stage that a script can play; validation stages need something to check."""
    if kind == "validation" and not config.get("performance_checks"):
        config.setdefault("security_scan", True)
    return pipeline_pb2.Stage(name=name, type=kind, config=struct(config))


async def made(stub: PipelineServiceStub, *stages: pipeline_pb2.Stage, name: str = "line") -> str:
    """The id of a new pipeline."""
    answer = await stub.CreatePipeline(pb.CreatePipelineRequest(name=name))
    for each in stages:
        await stub.AddStage(pb.AddStageRequest(pipeline_id=answer.pipeline.pipeline_id, stage=each))
    return answer.pipeline.pipeline_id


async def executed(stub: PipelineServiceStub, pipeline_id: str, **options: Any) -> str:
    """The id of a new execution of fraud 1.0.0."""
    request = pb.ExecutePipelineRequest(
        pipeline_id=pipeline_id, model_id="fraud", **{"version": "1.0.0", **options}
    )
    return (await stub.ExecutePipeline(request)).execution.execution_id


async def refused(code: str, call: Awaitable[Any]) -> PhantomError:
    """The error of a call that has to be refused with `code`."""
    with pytest.raises(grpc.RpcError) as caught:
        await call
    error = rpc.from_rpc_error(caught.value)
    assert error.code == code, f"{error.code}: {error.message}"
    return error
