"""One process out of one service, or of several: what they share, their parts, the servers in front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from prometheus_client import CollectorRegistry

from phantom_contracts import topics
from phantom_platform.clock import SystemClock
from phantom_platform.deadletters_rpc import dead_letter_servicer
from phantom_platform.errors import Unavailable
from phantom_platform.identity.feed import key_projection
from phantom_platform.identity.keys import KeySet
from phantom_platform.identity.tokens import TokenVerifier
from phantom_platform.kafka import Producer, ensure_topics
from phantom_platform.lifecycle import Application, Readiness, Task
from phantom_platform.postgres import Database
from phantom_platform.rpc.server import GrpcServer
from phantom_platform.service import ServiceContext
from phantom_platform.settings import (
    DataSettings,
    GrpcSettings,
    KafkaSettings,
    MigrationSettings,
    PostgresSettings,
    TelemetrySettings,
)
from phantom_platform.telemetry import logs, tracing
from phantom_platform.telemetry.http import MetricsServer
from phantom_platform.upkeep import DeadLetterWatch, PostMigrations

log = logs.get(__name__)

TOPICS_RETRY_S = 2.0

Build = Callable[[ServiceContext], Application]


class Telemetry:
    """A part that, as the last one to stop, hands over the spans and lines that are still buffered."""

    name = "telemetry"

    async def start(self) -> None:
        """Configured already, so that building can log."""

    async def stop(self) -> None:
        await asyncio.to_thread(tracing.shutdown)
        logs.flush()


class Topics:
    """A part that makes the catalogue's topics as they should be. While Kafka is away it goes on trying.

    A topic that exists with other partitions stops the process (`Refused`).
    """

    name = "topics"

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._task = Task("topics", self._keep_trying)
        self.are_there = False

    async def start(self) -> None:
        try:
            await self._ensure()
        except Unavailable as error:
            log.warning("topics wait for Kafka", action="topics_wait", reason=str(error))
            await self._task.start()

    async def stop(self) -> None:
        await self._task.stop()

    async def _ensure(self) -> None:
        await ensure_topics(self._bootstrap, topics.CATALOGUE)
        self.are_there = True

    async def _keep_trying(self) -> None:
        while not self.are_there:
            await asyncio.sleep(TOPICS_RETRY_S)
            with suppress(Unavailable):
                await self._ensure()
        await asyncio.Event().wait()  # a task that returned would count as dead


def standalone(name: str, *builds: Build) -> Application:
    """The whole process `name`, configured by `PHANTOM_*`; every build is called once, in order."""
    telemetry = TelemetrySettings()
    logs.configure(name, telemetry.log_level)
    tracing.configure(name, telemetry.otlp_endpoint)
    app = Application(name)
    app.add(Telemetry())
    context = _shared(app, name)
    for build in builds:
        app.merge(build(context))
    if context.dead_letters:
        app.servicers.append(dead_letter_servicer(context.dead_letters))
        app.add(DeadLetterWatch(context.dead_letters))
    _doors(app, context, telemetry.metrics_port)
    if MigrationSettings().run_post_migrations:
        app.add(PostMigrations([each for each in app.parts if isinstance(each, Database)], app.unready))
    return app


def _shared(app: Application, name: str) -> ServiceContext:
    bootstrap, data_dir, clock = KafkaSettings().bootstrap, DataSettings().data_dir, SystemClock()
    keys = KeySet()
    made = app.add(Topics(bootstrap))
    producer = app.add(Producer(bootstrap, client_id=f"phantom-{name}"))
    registry = CollectorRegistry()
    app.add(key_projection(keys, bootstrap, data_dir / name / "snapshots" / "keys", registry))
    app.readiness["topics"] = lambda: Readiness(made.are_there, "Kafka is away: topics are not checked yet")
    app.readiness["keys"] = lambda: Readiness(len(keys) > 0, "no key that verifies tokens is known yet")
    return ServiceContext(
        kafka_bootstrap=bootstrap,
        postgres_dsn=PostgresSettings().dsn,
        control_address=GrpcSettings().address,
        data_dir=data_dir,
        clock=clock,
        registry=registry,
        producer=producer,
        verifier=TokenVerifier(keys, clock),
    )


def _doors(app: Application, context: ServiceContext, metrics_port: int | None) -> None:
    grpc = GrpcSettings()
    app.add(
        GrpcServer(
            app.servicers,
            host=grpc.host,
            port=grpc.port,
            verifier=context.verifier,
            registry=context.registry,
            unready=app.unready,
        )
    )
    if metrics_port is not None:
        app.add(
            MetricsServer(
                context.registry,
                grpc.host,
                metrics_port,
                app.unready,
                attention=app.needing_attention,
            )
        )
