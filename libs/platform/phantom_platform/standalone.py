"""One process out of one service, or of several: what they share, their parts, the servers in front."""

from __future__ import annotations

from collections.abc import Callable

from phantom_contracts import topics
from prometheus_client import CollectorRegistry

from phantom_platform.clock import SystemClock
from phantom_platform.identity.feed import key_projection
from phantom_platform.identity.keys import KeySet
from phantom_platform.identity.tokens import TokenVerifier
from phantom_platform.kafka import Producer, ensure_topics
from phantom_platform.lifecycle import Application, Readiness
from phantom_platform.rpc.server import GrpcServer
from phantom_platform.service import ServiceContext
from phantom_platform.settings import (
    DataSettings,
    GrpcSettings,
    KafkaSettings,
    PostgresSettings,
    TelemetrySettings,
)
from phantom_platform.telemetry import logs, tracing
from phantom_platform.telemetry.http import MetricsServer

Build = Callable[[ServiceContext], Application]


class Topics:
    """A part that makes the catalogue's topics as they should be, before anybody reads or writes one."""

    name = "topics"

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    async def start(self) -> None:
        await ensure_topics(self._bootstrap, topics.CATALOGUE)

    async def stop(self) -> None:
        """Topics stay."""


def standalone(name: str, *builds: Build) -> Application:
    """The whole process `name`, configured by `PHANTOM_*`; every build is called once, in order."""
    telemetry = TelemetrySettings()
    logs.configure(name, telemetry.log_level)
    tracing.configure(name, telemetry.otlp_endpoint)
    app = Application(name)
    context = _shared(app, name)
    for build in builds:
        app.merge(build(context))
    _doors(app, context, telemetry.metrics_port)
    return app


def _shared(app: Application, name: str) -> ServiceContext:
    bootstrap, data_dir, clock = KafkaSettings().bootstrap, DataSettings().data_dir, SystemClock()
    keys = KeySet()
    app.add(Topics(bootstrap))
    producer = app.add(Producer(bootstrap, client_id=f"phantom-{name}"))
    app.add(key_projection(keys, bootstrap, data_dir / "run" / f"{name}.keys.snapshot"))
    app.readiness["keys"] = lambda: Readiness(len(keys) > 0, "no key that verifies tokens is known yet")
    return ServiceContext(
        kafka_bootstrap=bootstrap,
        postgres_dsn=PostgresSettings().dsn,
        control_address=GrpcSettings().address,
        data_dir=data_dir,
        clock=clock,
        registry=CollectorRegistry(),
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
        app.add(MetricsServer(context.registry, grpc.host, metrics_port, app.unready))
