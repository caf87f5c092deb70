"""The pipelines service, wired."""

from __future__ import annotations

import os
import shlex
from datetime import timedelta
from functools import partial
from pathlib import Path

import grpc

from phantom.pipelines.v1.pipeline_service_pb2_grpc import add_PipelineServiceServicer_to_server
from phantom_pipelines.bell import Bell
from phantom_pipelines.containers.images import Workshop
from phantom_pipelines.containers.workroom import Workroom
from phantom_pipelines.metrics import Metrics
from phantom_pipelines.patience import Patience
from phantom_pipelines.reconciler import Executor
from phantom_pipelines.remotes import GrpcArtifactTokens, GrpcDeployer, GrpcRegistry
from phantom_pipelines.retention import Kept, Retention
from phantom_pipelines.rpc import SERVICE, PipelinesRpc
from phantom_pipelines.runners.containerization import ContainerizationRunner
from phantom_pipelines.runners.deployment import DeploymentRunner
from phantom_pipelines.runners.runner import Runner
from phantom_pipelines.runners.suites import GatewayCases, local_gateway
from phantom_pipelines.runners.testing import TestingRunner
from phantom_pipelines.runners.validation import ValidationRunner, ValidationSettings
from phantom_pipelines.runners.versions import Laboratory
from phantom_pipelines.service import Executions, Pipelines, Progression, Suites, Testing, find
from phantom_pipelines.settings import PipelinesSettings
from phantom_pipelines.store import MIGRATIONS, SCHEMA, Leases, PostgresPipelines
from phantom_platform import rpc
from phantom_platform.lifecycle import Application, Task
from phantom_platform.postgres import Database, OutboxRelay
from phantom_platform.rpc import control_channel
from phantom_platform.service import ServiceContext
from phantom_probing.dataset_files import Access
from phantom_probing.scratch import ScratchSettings


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


def _laboratory(
    context: ServiceContext, settings: PipelinesSettings, channel: grpc.aio.Channel, registry: GrpcRegistry
) -> Laboratory:
    """Where versions are run as the deployer's replicas are, away from every route."""
    scratch = ScratchSettings(
        folder=context.data_dir / "scratch",
        artifacts_dir=context.data_dir / "artifacts",
        download_dir=context.data_dir / "downloads",
        registry_address=context.control_address,
        allow_pickle=settings.allow_pickle,
        threads=settings.model_threads,
        runtime=settings.model_runtime,
        ready_timeout_s=settings.ready_timeout_s,
    )
    return Laboratory(
        scratch, registry, GrpcArtifactTokens(channel), Access(_dataset_roots(context, settings))
    )


def _dataset_roots(context: ServiceContext, settings: PipelinesSettings) -> tuple[Path, ...]:
    """The folder that is there for it, and what the operator adds."""
    return (context.data_dir / "datasets", *map(Path, filter(None, settings.dataset_roots.split(os.pathsep))))


def _cases(
    context: ServiceContext, settings: PipelinesSettings, registry: GrpcRegistry, laboratory: Laboratory
) -> GatewayCases:
    return GatewayCases(
        registry,
        laboratory,
        lambda: settings.gateway or local_gateway(context.data_dir),
        context.token_source("pipelines"),
    )


def _measuring(context: ServiceContext, settings: PipelinesSettings) -> ValidationSettings:
    return ValidationSettings(
        kafka_bootstrap=context.kafka_bootstrap,
        advisories=settings.advisories,
        advisories_max_age_days=settings.advisories_max_age_days,
        latency_calls=settings.latency_calls,
        throughput_s=settings.throughput_s,
        warm_up_s=settings.warm_up_s,
    )


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
    laboratory = app.add(_laboratory(context, settings, channel, registry))
    cases = _cases(context, settings, registry, laboratory)
    runners: dict[str, Runner] = {
        "deployment": DeploymentRunner(deployer, poll_s=settings.poll_s),
        "containerization": ContainerizationRunner(registry, _workshop(context.data_dir, settings)),
        "validation": ValidationRunner(registry, deployer, laboratory, _measuring(context, settings)),
        "testing": TestingRunner(registry, deployer, laboratory, cases, partial(find.suite, store.reads)),
    }

    progression = Progression(store)
    executor = Executor(
        progression,
        runners,
        leases,
        context.clock,
        Metrics(context.registry),
        bell,
        concurrency=settings.concurrency,
        patience=Patience(settings.unavailable_attempts, settings.unavailable_s),
    )
    workroom = app.add(Workroom(context.data_dir / "pipelines"))
    app.add(Task("pipelines-executor", executor.run))
    retention = Retention(progression, workroom, context.clock, _kept(settings))
    app.add(Task("pipelines-retention", retention.run))
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


def _kept(settings: PipelinesSettings) -> Kept:
    return Kept(
        executions=timedelta(days=settings.executions_kept_days),
        contexts=timedelta(days=settings.contexts_kept_days),
    )


def _workshop(data_dir: Path, settings: PipelinesSettings) -> Workshop:
    """Where images are built, and how."""
    return Workshop(
        folder=data_dir / "pipelines",
        lock=settings.requirements_lock,
        builder=settings.builder,
        options=tuple(shlex.split(settings.builder_options)),
        packages=settings.image_packages,
        build_timeout_s=settings.build_timeout_s,
        push_timeout_s=settings.push_timeout_s,
        push_registries=tuple(each.strip() for each in settings.push_registries.split(",") if each.strip()),
    )
