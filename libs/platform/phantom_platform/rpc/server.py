"""The gRPC server of a process: all its services, guarded, with health and reflection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from phantom_platform.errors import Refused
from phantom_platform.identity.tokens import TokenVerifier
from phantom_platform.rpc.guard import Guard
from phantom_platform.rpc.health import Health
from phantom_platform.rpc.metrics import RpcMetrics
from phantom_platform.rpc.servicer import Servicer, ServicerError, handlers_of, methods_of
from phantom_platform.telemetry import logs

log = logs.get(__name__)

MAX_MESSAGE_BYTES = 65 * 1024 * 1024
"""64 MiB, and slack for what surrounds a payload of just that size."""


@dataclass(frozen=True)
class ServerLimits:
    """`max_unary_s`: a unary call's longest life. `drain_s`: how long calls may go on after SIGTERM."""

    max_unary_s: float = 60.0
    drain_s: float = 30.0
    max_message_bytes: int = MAX_MESSAGE_BYTES


_LIMITS = ServerLimits()


def message_options(max_bytes: int = MAX_MESSAGE_BYTES) -> list[tuple[str, int]]:
    """Channel arguments for messages of this size, both ways."""
    return [("grpc.max_receive_message_length", max_bytes), ("grpc.max_send_message_length", max_bytes)]


class GrpcServer:
    """A part. Mistakes in the services' set-up are raised here, before anything listens.

    `verifier` may be None where every method is public. `unready` names the reasons against sending work
    (`Application.unready`); health answers by it.
    """

    name = "grpc server"

    def __init__(
        self,
        servicers: Sequence[Servicer],
        *,
        host: str,
        port: int,
        verifier: TokenVerifier | None,
        registry: CollectorRegistry,
        unready: Callable[[], Mapping[str, str]] = dict,
        limits: ServerLimits = _LIMITS,
    ) -> None:
        self._host = host
        self._port = port
        self._limits = limits
        self._services = frozenset(each.full_service_name for each in servicers)
        if len(self._services) < len(servicers):
            raise ServicerError(
                "a service is served twice; dead letters of several services share one servicer"
            )
        if verifier is None:
            _check_public(servicers)
        guard = Guard(verifier, RpcMetrics(registry), limits.max_unary_s)
        self._handlers = [_guarded(each, guard) for each in servicers]
        self._health = Health(self._services, unready)
        self._server: grpc.aio.Server | None = None

    @property
    def port(self) -> int:
        """The port in use; differs from the one asked for when that was 0."""
        return self._port

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        server = grpc.aio.server(
            # so_reuseport off: a second server would bind the taken port silently and steal its traffic.
            options=[("grpc.so_reuseport", 0), *message_options(self._limits.max_message_bytes)]
        )
        server.add_generic_rpc_handlers(tuple(self._handlers))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*sorted(self._services), health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        self._port = _bind(server, self._host, self._port)
        await server.start()
        self._server = server
        log.info("listening", action="grpc_listening", address=self.address, services=sorted(self._services))

    async def stop(self) -> None:
        """No new calls; those under way may finish within `drain_s`, then they are cancelled."""
        self._health.stop()
        if self._server is not None:
            await self._server.stop(self._limits.drain_s)


def _check_public(servicers: Sequence[Servicer]) -> None:
    for servicer in servicers:
        for method in methods_of(servicer.full_service_name).values():
            if not method.is_public:
                raise ServicerError(
                    f"{method.path} needs {method.permission}, so the server needs a verifier"
                )


def _guarded(servicer: Servicer, guard: Guard) -> grpc.GenericRpcHandler:
    methods = methods_of(servicer.full_service_name)
    handlers = handlers_of(servicer)
    if missing := sorted(methods.keys() ^ handlers.keys()):
        raise ServicerError(
            f"{servicer.full_service_name}: proto and stubs differ in {missing}; generate again"
        )
    if servicer.audit is None and any(method.mutates for method in methods.values()):
        raise ServicerError(
            f"{servicer.full_service_name} has mutating methods: rpc.servicer(…, audit=DatabaseAuditSink(database))"
        )
    guarded = {name: guard.wrap(methods[name], servicer, handler) for name, handler in handlers.items()}
    return grpc.method_handlers_generic_handler(servicer.full_service_name, guarded)


def _bind(server: grpc.aio.Server, host: str, port: int) -> int:
    address = f"{host}:{port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise Refused(
            f"cannot listen on {address}: the address is in use or not this machine's; stop what listens there or "
            "set PHANTOM_CONTROL_PORT to another port (0 takes any)",
            code="address_in_use",
            address=address,
        ) from error
