"""The registry, wired."""

from __future__ import annotations

from datetime import timedelta

from phantom.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from phantom_platform import rpc
from phantom_platform.lifecycle import Application, Task
from phantom_platform.postgres import Database, OutboxRelay
from phantom_platform.service import ServiceContext
from phantom_registry.artifacts import LocalArtifacts
from phantom_registry.metrics import Metrics
from phantom_registry.reconciler import Housekeeper
from phantom_registry.rpc import SERVICE, RegistryRpc
from phantom_registry.service import Datasets, Lineages, Models, Promotions
from phantom_registry.settings import RegistrySettings
from phantom_registry.store import MIGRATIONS, SCHEMA, PostgresRegistry


def build(context: ServiceContext, settings: RegistrySettings) -> Application:
    """Postgres and the artifact folder, the use cases over them, the door in front."""
    app = Application("registry")
    database = app.add(
        Database(
            context.postgres_dsn,
            SCHEMA,
            migrations=MIGRATIONS,
            clock=context.clock,
            source="phantom/registry",
        )
    )
    app.add(OutboxRelay(database, context.producer, registry=context.registry))
    artifacts = app.add(
        LocalArtifacts(
            context.data_dir / "artifacts",
            max_bytes=settings.max_artifact_bytes,
            min_free_bytes=settings.min_free_bytes,
            metrics=Metrics(context.registry),
        )
    )
    store = PostgresRegistry(database)
    promotions = Promotions(store, artifacts, context.clock)
    door = RegistryRpc(Models(store, artifacts), promotions, Datasets(store), Lineages(store))
    housekeeper = Housekeeper(
        promotions,
        interval_s=settings.housekeeping_interval_s,
        answers_kept=timedelta(days=settings.answers_kept_days),
    )
    app.add(Task("registry-housekeeping", housekeeper.run))
    app.servicers.append(
        rpc.servicer(
            add_RegistryServiceServicer_to_server, door, SERVICE, audit=rpc.DatabaseAuditSink(database)
        )
    )
    return app
