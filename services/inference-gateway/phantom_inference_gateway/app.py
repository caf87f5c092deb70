"""The composition root: settings → adapters → service → doors, started in this order and stopped in reverse."""

from __future__ import annotations

import random
import socket
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from phantom_contracts import topics
from phantom_contracts.events.deployer import RouteRecord
from phantom_contracts.events.experiment import ExperimentsRecord
from phantom_inference_gateway import attention
from phantom_inference_gateway.access import Access
from phantom_inference_gateway.acks import Acks
from phantom_inference_gateway.domain.admission import AdmissionRule
from phantom_inference_gateway.domain.ejection import EjectionRule
from phantom_inference_gateway.domain.frames import FrameLimits
from phantom_inference_gateway.grpc_server import InferenceServer
from phantom_inference_gateway.ids import IdMint
from phantom_inference_gateway.journey import ShadowLimits
from phantom_inference_gateway.membership import Membership, inherited
from phantom_inference_gateway.metrics import GatewayMetrics
from phantom_inference_gateway.pool import Pool
from phantom_inference_gateway.prediction_log import PredictionLog
from phantom_inference_gateway.rest import RestDoor
from phantom_inference_gateway.routes import Routes
from phantom_inference_gateway.service import Gateway, Limits, Source
from phantom_inference_gateway.settings import GatewaySettings
from phantom_inference_gateway.traced import TracedGateway
from phantom_inference_gateway.upstreams import StreamRule
from phantom_platform import garbage
from phantom_platform.clock import Clock, SystemClock
from phantom_platform.identity.feed import key_projection
from phantom_platform.identity.keys import KeySet
from phantom_platform.identity.tokens import TokenVerifier
from phantom_platform.kafka import Producer, Projection, ensure_topics
from phantom_platform.lifecycle import Application
from phantom_platform.settings import DataSettings, KafkaSettings, TelemetrySettings
from phantom_platform.telemetry import tracing
from phantom_platform.telemetry.http import MetricsServer

NAME = "inference-gateway"
_TOPICS = (topics.ROUTES, topics.EXPERIMENTS, topics.ROUTE_ACKS, topics.PREDICTIONS, topics.KEYS)


class GatewayApp(Application):
    """The process, with what tests look at: the doors' ports where 0 was asked for, and what is applied."""

    grpc: InferenceServer
    rest: RestDoor
    observation: MetricsServer | Membership
    gateway: Gateway
    routes: Routes
    acks: Acks
    boot_id: str
    attention: Callable[[], list[str]]

    async def start(self) -> None:
        """As every application's."""
        await super().start()
        garbage.settle()

    def unready(self) -> dict[str, str]:
        """As every application's; while it starts, too, it says what of Kafka it waits for."""
        waits = self.acks.unready
        return super().unready() | ({"routes": waits} if waits else {})


def main(settings: GatewaySettings, channel: int | None = None) -> Application:
    """The process as the environment describes it; `channel` is the descriptor that a worker's group left open."""
    tracing.configure(NAME, TelemetrySettings().otlp_endpoint)
    end = None if channel is None else inherited(channel)
    return build(settings, KafkaSettings().bootstrap, DataSettings().data_dir, group=end)


def build(
    settings: GatewaySettings, bootstrap: str, data_dir: Path, *, group: socket.socket | None = None
) -> GatewayApp:
    """One gateway, or with `group` one of several. Must be called inside the event loop that runs it."""
    app = GatewayApp(NAME)
    app.boot_id = str(uuid.uuid4())
    clock, registry = SystemClock(), CollectorRegistry()
    if group is not None:
        app.observation = app.add(Membership(group, registry, app.unready, lambda: app.attention()))
    folder = data_dir / "gateway" / settings.worker
    records = app.add(
        PredictionLog(bootstrap, folder / "spill", boot_id=app.boot_id, spill_bytes=settings.spill_bytes)
    )
    pool = app.add(Pool(app.boot_id, _rule(settings), random.random))
    app.routes = Routes(pool, records.set_routed)
    pool.on_draining = app.routes.drained_by
    keys = KeySet()
    app.add(key_projection(keys, bootstrap, folder / "snapshots" / "keys.json"))
    followed = _projections(app, app.routes, bootstrap, folder / "snapshots", registry)
    metrics = GatewayMetrics(clock)
    app.gateway = TracedGateway(
        app.routes,
        Access(TokenVerifier(keys, clock), is_required=settings.is_auth_required),
        records,
        metrics,
        Source(IdMint(), random.randrange),
        Limits(
            settings.max_in_flight,
            settings.max_in_flight_bytes,
            ShadowLimits(settings.shadow_in_flight, settings.shadow_in_flight_bytes),
        ),
    )
    app.acks = _acks(app, settings, bootstrap, followed, clock)
    app.gateway.is_stale = lambda: app.acks.is_stale
    app.gateway.is_ready = lambda: not app.unready()
    sources = attention.Sources(app.gateway, pool, records, app.routes, followed, app.acks)
    attention.wire(metrics, sources)
    app.attention = lambda: attention.needed(metrics, sources)
    registry.register(metrics)
    if group is None:
        app.observation = app.add(_metrics_server(app, settings, registry))
    app.add(app.acks)
    app.add(app.gateway.shadows)
    app.add(_Settling(app.routes))
    _doors(app, settings, metrics, is_shared=group is not None)
    return app


def _metrics_server(app: GatewayApp, settings: GatewaySettings, registry: CollectorRegistry) -> MetricsServer:
    """Before what waits for Kafka, so that it says what is waited for; after the doors have drained it answers yet."""
    return MetricsServer(
        registry, settings.host, settings.metrics_port, app.unready, attention=lambda: app.attention()
    )


def _acks(
    app: GatewayApp,
    settings: GatewaySettings,
    bootstrap: str,
    followed: tuple[Projection[RouteRecord], Projection[ExperimentsRecord]],
    clock: Clock,
) -> Acks:
    producer = app.add(Producer(bootstrap, client_id=f"phantom-gateway-{settings.worker}"))
    return Acks(
        app.boot_id,
        producer,
        followed,
        app.routes.progress,
        lambda: app.gateway.in_flight,
        clock,
        # This process may be the first to need them.
        prepare=lambda: ensure_topics(bootstrap, _TOPICS),
        unreachable_s=settings.kafka_patience_s,
    )


def _doors(app: GatewayApp, settings: GatewaySettings, metrics: GatewayMetrics, *, is_shared: bool) -> None:
    # After everything else, so that they are the first to stop: observation is up while they drain.
    app.rest = app.add(
        RestDoor(app.gateway, settings.host, settings.http_port, refused=metrics.refuse, is_shared=is_shared)
    )
    app.grpc = app.add(
        InferenceServer(
            app.gateway,
            settings.host,
            settings.grpc_port,
            refused=metrics.refuse,
            unready=app.unready,
            is_shared=is_shared,
        )
    )


def _rule(settings: GatewaySettings) -> StreamRule:
    return StreamRule(
        frames=FrameLimits(
            calls=settings.frame_calls,
            size=settings.frame_bytes,
            wait_s=settings.frame_wait_ms / 1000,
            in_flight=settings.frames_in_flight,
        ),
        ejection=EjectionRule(threshold=settings.eject_after),
        admission=AdmissionRule(
            max_wait_s=settings.max_wait_ms / 1000,
            floor=2 * settings.frames_in_flight,
            unknown=2 * settings.frames_in_flight * settings.frame_calls,
        ),
    )


def _projections(
    app: Application, routes: Routes, bootstrap: str, folder: Path, registry: CollectorRegistry
) -> tuple[Projection[RouteRecord], Projection[ExperimentsRecord]]:
    experiments = Projection(
        topics.EXPERIMENTS,
        bootstrap,
        parse=_experiments,
        on_changed=routes.experiments_changed,
        on_deleted=routes.experiments_deleted,
        snapshot=folder / "experiments.json",
        registry=registry,
    )
    route = Projection(
        topics.ROUTES,
        bootstrap,
        parse=_route,
        on_changed=routes.route_changed,
        on_deleted=routes.route_deleted,
        snapshot=folder / "routes.json",
        registry=registry,
    )
    return app.add(route), app.add(experiments)


def _route(key: str, value: bytes, headers: Mapping[str, bytes]) -> RouteRecord:
    return RouteRecord.model_validate_json(value)


def _experiments(key: str, value: bytes, headers: Mapping[str, bytes]) -> ExperimentsRecord:
    return ExperimentsRecord.model_validate_json(value)


class _Settling:
    """A part that waits until what was read is applied, so that the doors open on connected replicas."""

    name = "routes applied"

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def start(self) -> None:
        await self._routes.settled()

    async def stop(self) -> None:
        """Nothing is held."""
