"""The observation door of a process: /metrics, /health and /ready over plain HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from phantom_platform.errors import Refused
from phantom_platform.telemetry import logs

log = logs.get(__name__)


class MetricsServer:
    """A part. `unready` names the reasons against sending work here (`Application.unready`); `attention` says,
    in sentences, what should not be so although work may come."""

    name = "metrics http"

    def __init__(
        self,
        registry: CollectorRegistry,
        host: str,
        port: int,
        unready: Callable[[], Mapping[str, str]],
        *,
        attention: Callable[[], Sequence[str]] = tuple,
        routes: Sequence[web.RouteDef] = (),
        max_body: int = 1024 * 1024,
    ) -> None:
        self._registry = registry
        self._host = host
        self._port = port
        self._unready = unready
        self._attention = attention
        self._routes = routes  # further ones, beside the three
        self._max_body = max_body  # bytes
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port in use; differs from the one asked for when that was 0."""
        if self._runner is None:
            return self._port
        return int(self._runner.addresses[0][1])

    async def start(self) -> None:
        app = web.Application(client_max_size=self._max_body)
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/health", self._health),
                web.get("/ready", self._ready),
                *self._routes,
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise Refused(
                f"metrics cannot listen on {self._host}:{self._port}: {error.strerror or error}; free the port or "
                "set PHANTOM_METRICS_PORT to another one (0 takes any)",
                code="address_in_use",
                address=f"{self._host}:{self._port}",
            ) from error
        self._runner = runner
        log.info("metrics listening", action="metrics_listening", address=f"{self._host}:{self.port}")

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        reasons = dict(self._unready())
        body = {"ready": not reasons, "reasons": reasons, "attention": list(self._attention())}
        return web.json_response(body, status=503 if reasons else 200)
