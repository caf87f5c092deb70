"""The deployer, wired."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import grpc

from phantom.deployer.v1.deployer_service_pb2_grpc import add_DeployerServiceServicer_to_server
from phantom.deployer.v1.rollout_service_pb2_grpc import add_RolloutServiceServicer_to_server
from phantom_deployer.bell import Bell
from phantom_deployer.consumers import AckReader, RunningExperiments, routes_projection
from phantom_deployer.domain.acknowledgement import Acknowledgements
from phantom_deployer.domain.reconcile import Policy
from phantom_deployer.local_backend import LocalBackend, LocalSettings
from phantom_deployer.metrics import Metrics
from phantom_deployer.pilot import Pilot
from phantom_deployer.reconciler import Reconciler
from phantom_deployer.remotes import GrpcArtifactTokens, GrpcModels
from phantom_deployer.replayer import KafkaReplayer
from phantom_deployer.replays import Replays
from phantom_deployer.replica_calls import ReplicaCalls
from phantom_deployer.rollout_rpc import SERVICE as ROLLOUT_SERVICE
from phantom_deployer.rollout_rpc import RolloutRpc
from phantom_deployer.rpc import SERVICE, DeployerRpc
from phantom_deployer.service import (
    Convergence,
    Deployments,
    Evidences,
    Piloting,
    Queries,
    Replaying,
    Rollouts,
)
from phantom_deployer.settings import DeployerSettings
from phantom_deployer.store import MIGRATIONS, SCHEMA, PostgresDeployments
from phantom_deployer.window_consumer import router
from phantom_platform import ids, rpc
from phantom_platform.deadletters import DeadLetters
from phantom_platform.kafka import Consumers
from phantom_platform.lifecycle import Application, Readiness, Task
from phantom_platform.postgres import Database, OutboxRelay
from phantom_platform.rpc import control_channel
from phantom_platform.service import ServiceContext


@dataclass(frozen=True)
class Known:
    """What reconciler and pilot share."""

    store: PostgresDeployments
    acks: Acknowledgements
    experiments: RunningExperiments
    metrics: Metrics
    bell: Bell


class Connections:
    """A part: the calls to other services and to replicas, let go at the end."""

    name = "deployer-connections"

    def __init__(self, channel: grpc.aio.Channel, backend: LocalBackend) -> None:
        self._channel = channel
        self._backend = backend

    async def start(self) -> None:
        """Connects when it is needed."""

    async def stop(self) -> None:
        await self._backend.close()
        await self._channel.close()


def build(context: ServiceContext, settings: DeployerSettings) -> Application:
    """Postgres, what Kafka tells, the use cases over both, the door in front, the reconciler behind."""
    app = Application("deployer")
    database = app.add(_database(context))
    app.add(OutboxRelay(database, context.producer, registry=context.registry))
    store, metrics = PostgresDeployments(database), Metrics(context.registry)
    channel = control_channel(context.control_address, context.token_source("deployer"))
    backend = _backend(context, settings, channel)
    app.add(Connections(channel, backend))

    acks, bell = Acknowledgements(), Bell()
    reader = app.add(AckReader(context.kafka_bootstrap, store, acks, context.clock, bell, metrics))
    snapshots = context.data_dir / "deployer" / "snapshots"
    routes = app.add(
        routes_projection(
            context.kafka_bootstrap,
            acks,
            context.clock,
            bell,
            snapshot=snapshots / "routes",
            registry=context.registry,
        )
    )
    experiments = RunningExperiments(
        context.kafka_bootstrap,
        lambda key: reconciler.wake_key(key),
        snapshot=snapshots / "experiments",
        registry=context.registry,
    )
    convergence = Convergence(
        store,
        experiments,
        acks,
        mint=ids.new_id,
        has_read_routes=lambda: not routes.is_stale,
        policy=_policy(settings),
    )
    reconciler = Reconciler(convergence, backend, store, context.clock, metrics, bell)
    app.add(experiments.projection)
    app.add(Task("deployer-reconciler", reconciler.run))

    known = Known(store, acks, experiments, metrics, bell)
    _add_windows(app, context, database)
    pilot = _add_pilot(app, context, settings, known, reconciler)

    models = GrpcModels(channel)
    deployments = Deployments(store, models, experiments, wake=reconciler.wake, entropy=_entropy)

    def wake(workspace: str, deployment_id: str) -> None:
        pilot.wake(workspace, deployment_id)
        reconciler.wake(workspace, deployment_id)

    rollouts = Rollouts(
        store, models, experiments, acks, context.clock, wake=wake, mint=ids.new_id, entropy=_entropy
    )
    queries = Queries(store, acks, context.clock, bell.heard)
    door = DeployerRpc(deployments, queries, context.clock, acks.waiting)
    audit = rpc.DatabaseAuditSink(database)
    app.servicers += [
        rpc.servicer(add_DeployerServiceServicer_to_server, door, SERVICE, audit=audit),
        rpc.servicer(
            add_RolloutServiceServicer_to_server, RolloutRpc(rollouts), ROLLOUT_SERVICE, audit=audit
        ),
    ]
    app.readiness["route-acks"] = lambda: Readiness(
        reader.current.is_set(), "what gateways have acknowledged has not been read yet: nothing is withdrawn"
    )
    app.readiness["replicas"] = lambda: Readiness(
        reconciler.has_looked, "not every replica of an earlier life has been looked for yet"
    )
    return app


def _add_windows(app: Application, context: ServiceContext, database: Database) -> None:
    """What rollouts are judged by."""
    windows = router()
    app.add(Consumers(windows, database, context.kafka_bootstrap, context.clock, registry=context.registry))
    context.dead_letters.append(DeadLetters(windows, database, context.clock))


def _add_pilot(
    app: Application,
    context: ServiceContext,
    settings: DeployerSettings,
    known: Known,
    reconciler: Reconciler,
) -> Pilot:
    """What takes rollouts on, and runs their replays."""
    evidences = Evidences(known.store.reads, context.clock, timeout_s=settings.evidence_timeout_s)
    piloting = Piloting(known.store, known.experiments, known.acks, evidences)
    pilot = Pilot(piloting, known.store, context.clock, known.metrics, known.bell, reconciler.wake)
    app.add(Task("deployer-pilot", pilot.run))
    replayer = KafkaReplayer(context.kafka_bootstrap, context.clock)
    replays = Replays(Replaying(known.store.reads, piloting, replayer), context.clock)
    app.add(Task("deployer-replays", replays.run))
    return pilot


def _entropy() -> str:
    """Makes a salt unlike any other."""
    return secrets.token_hex(8)


def _database(context: ServiceContext) -> Database:
    return Database(
        context.postgres_dsn,
        SCHEMA,
        migrations=MIGRATIONS,
        clock=context.clock,
        source="phantom/deployer",
        max_size=12,
    )


def _backend(context: ServiceContext, settings: DeployerSettings, channel: grpc.aio.Channel) -> LocalBackend:
    local = LocalSettings(
        data_dir=context.data_dir,
        registry_address=context.control_address,
        drain_timeout_s=settings.drain_timeout_s,
        allow_pickle=settings.allow_pickle,
        threads=settings.replica_threads,
        runtime=settings.replica_runtime,
        model_server_module=settings.model_server_module,
        log_level=settings.telemetry.log_level,
        otlp_endpoint=settings.telemetry.otlp_endpoint,
    )
    return LocalBackend(local, GrpcArtifactTokens(channel), context.clock, ReplicaCalls())


def _policy(settings: DeployerSettings) -> Policy:
    return Policy(
        drain_timeout_s=settings.drain_timeout_s,
        startup_timeout_s=settings.startup_timeout_s,
        unresponsive_s=settings.unresponsive_s,
    )
