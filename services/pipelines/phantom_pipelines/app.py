"""The pipelines service, wired."""

from __future__ import annotations

import grpc

from phantom.pipelines.v1.pipeline_service_pb2_grpc import add_PipelineServiceServicer_to_server
from phantom_pipelines.bell import Bell
from phantom_pipelines.metrics import Metrics
from phantom_pipelines.reconciler import Executor
from phantom_pipelines.remotes import GrpcDeployer, GrpcRegistry
from phantom_pipelines.rpc import SERVICE, PipelinesRpc
from phantom_pipelines.runners.deployment import DeploymentRunner
from phantom_pipelines.runners.runner import CaseRunner, Runner
from phantom_pipelines.service import Executions, Pipelines, Progression, Suites, Testing
from phantom_pipelines.settings import PipelinesSettings
from phantom_pipelines.store import MIGRATIONS, SCHEMA, Leases, PostgresPipelines
from phantom_platform import rpc
from phantom_platform.lifecycle import Application, Task
from phantom_platform.postgres import Database, OutboxRelay
from phantom_platform.rpc import control_channel
from phantom_platform.service import ServiceContext


class Connections:
    """A part: the calls to other services, and the session that holds leases, let go at the end."""

    name = "pipelines-connections"

    def __init__(self, channel: grpc.aio.Channel, leases: Leases) -> None:
        self._channel = channel
        self._leases = leases

    async def start(self) -> None:
        """Connects when it is needed."""

    async def stop(self) -> None:
        await self._leases.close()
        await self._channel.close()


def build(context: ServiceContext, settings: PipelinesSettings) -> Application:
    """Postgres, the use cases over it, the door in front, the executor with its runners behind."""
    app = Application("pipelines")
    database = app.add(
        Database(
            context.postgres_dsn,
            SCHEMA,
            migrations=MIGRATIONS,
            clock=context.clock,
            source="phantom/pipelines",
        )
    )
    app.add(OutboxRelay(database, context.producer, registry=context.registry))
    store, leases, bell = PostgresPipelines(database), Leases(database), Bell()
    channel = control_channel(context.control_address, context.token_source("pipelines"))
    app.add(Connections(channel, leases))
    registry, deployer = GrpcRegistry(channel), GrpcDeployer(channel)
    runners: dict[str, Runner] = {"deployment": DeploymentRunner(deployer, poll_s=settings.poll_s)}
    cases: CaseRunner | None = None

    executor = Executor(
        Progression(store),
        runners,
        leases,
        context.clock,
        Metrics(context.registry),
        bell,
        concurrency=settings.concurrency,
    )
    app.add(Task("pipelines-executor", executor.run))
    door = PipelinesRpc(
        Pipelines(store),
        Executions(store, registry, deployer, bell.ring),
        Suites(store, registry),
        Testing(store, registry, deployer, cases),
    )
    app.servicers.append(
        rpc.servicer(
            add_PipelineServiceServicer_to_server, door, SERVICE, audit=rpc.DatabaseAuditSink(database)
        )
    )
    return app
