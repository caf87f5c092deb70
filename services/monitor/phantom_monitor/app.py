"""The monitor, wired."""

from __future__ import annotations

from phantom.monitor.v1.monitor_service_pb2_grpc import add_MonitorServiceServicer_to_server
from phantom_contracts.events.deployer import RouteRecord
from phantom_contracts.topics import ROUTES
from phantom_monitor.consumers import router
from phantom_monitor.export import Exporter
from phantom_monitor.reconciler import Housekeeper, ReadingClock
from phantom_monitor.routes import KnownRoutes, parse_route
from phantom_monitor.rpc import SERVICE, MonitorRpc
from phantom_monitor.service import Monitor
from phantom_monitor.settings import MonitorSettings
from phantom_monitor.store import (
    MIGRATIONS,
    SCHEMA,
    SESSION,
    PostgresGateways,
    PostgresPredictions,
    PostgresShadows,
    PostgresWindows,
)
from phantom_platform import rpc
from phantom_platform.deadletters import DeadLetters
from phantom_platform.kafka.consumers import Consumers
from phantom_platform.kafka.projection import Projection
from phantom_platform.lifecycle import Application, Task
from phantom_platform.postgres import Database, OutboxRelay
from phantom_platform.service import ServiceContext


def build(context: ServiceContext, settings: MonitorSettings) -> Application:
    """Postgres, the routes, the consumers of predictions and outcomes, the clock's duties, and the door."""
    app = Application("monitor")
    database = app.add(
        Database(
            context.postgres_dsn,
            SCHEMA,
            migrations=MIGRATIONS,
            clock=context.clock,
            source="phantom/monitor",
            session_settings=SESSION,
        )
    )
    app.add(OutboxRelay(database, context.producer, registry=context.registry))
    windows, predictions = PostgresWindows(database), PostgresPredictions(database)
    known = KnownRoutes()
    monitor = Monitor(
        database, windows, PostgresGateways(database), predictions, PostgresShadows(database), known
    )
    _add_routes(app, context, monitor, known, predictions)
    reading = ReadingClock(context.clock)
    routes = router(monitor, reading)
    app.add(Consumers(routes, database, context.kafka_bootstrap, context.clock, registry=context.registry))
    context.dead_letters.append(DeadLetters(routes, database, context.clock))
    _add_duties(app, settings, Housekeeper(monitor, reading, context.clock))
    exporter = Exporter(windows, predictions, context.clock, context.registry)
    app.add(Task("monitor-export", lambda: exporter.run(settings.export_interval_s)))
    app.servicers.append(
        rpc.servicer(
            add_MonitorServiceServicer_to_server,
            MonitorRpc(monitor),
            SERVICE,
            audit=rpc.DatabaseAuditSink(database),
        )
    )
    return app


def _add_routes(
    app: Application,
    context: ServiceContext,
    monitor: Monitor,
    known: KnownRoutes,
    predictions: PostgresPredictions,
) -> None:
    async def on_changed(_key: str, record: RouteRecord, _version: int) -> None:
        schemas = known.changed(record)
        await monitor.route_changed(record.workspace, record.endpoint, record.aliases, schemas)

    def on_deleted(_key: str, _version: int) -> None:
        """What is known stays: answers and outcomes of a deleted endpoint may still come."""

    class Remembered:
        """Before any event is read: the schemas that the table kept."""

        name = "monitor-schemas"

        async def start(self) -> None:
            known.remember(await predictions.schemas())

        async def stop(self) -> None:
            """Nothing to end."""

    app.add(Remembered())
    app.add(
        Projection(
            ROUTES,
            context.kafka_bootstrap,
            parse=parse_route,
            on_changed=on_changed,
            on_deleted=on_deleted,
            snapshot=context.data_dir / "monitor" / "snapshots" / "routes",
            clock=context.clock,
            registry=context.registry,
        )
    )


def _add_duties(app: Application, settings: MonitorSettings, housekeeper: Housekeeper) -> None:
    app.add(Task("monitor-publish", lambda: housekeeper.publish(settings.publish_interval_s)))
    app.add(Task("monitor-mature", lambda: housekeeper.mature(settings.maturity_interval_s)))
    app.add(Task("monitor-forget", lambda: housekeeper.forget(settings.forget_interval_s)))
