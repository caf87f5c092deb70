"""The gRPC server that carries the inference door, the standard health service and reflection."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from phantom_inference_gateway.calls import MAX_MESSAGE_BYTES
from phantom_inference_gateway.rpc import SERVICE, InferenceDoor, RpcGateway
from phantom_inference_gateway.rpc_stream import StreamDoor
from phantom_platform.errors import Refused
from phantom_platform.http2.server import Server
from phantom_platform.rpc.health import Health
from phantom_platform.telemetry import logs

log = logs.get(__name__)

DRAIN_S = 30.0


class InferenceServer:
    """A part. `is_shared`: other workers of its group listen on the same port, which the group's process reserved."""

    name = "gRPC"

    def __init__(
        self,
        gateway: RpcGateway,
        host: str,
        port: int,
        *,
        refused: Callable[[str], None],
        unready: Callable[[], Mapping[str, str]],
        is_shared: bool = False,
    ) -> None:
        self._gateway = gateway
        self._host = host
        self._port = port
        self._refused = refused
        self._is_shared = is_shared
        self._health = Health(frozenset((SERVICE,)), unready)
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """The port in use; differs from the one asked for when that was 0."""
        return self._port

    async def start(self) -> None:
        server = Server(max_message=MAX_MESSAGE_BYTES, reuse_port=self._is_shared)
        door = InferenceDoor(self._gateway, self._refused)
        server.add_generic_rpc_handlers((door.handlers(StreamDoor(door).serve),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            self._port = server.add_insecure_port(f"{self._host}:{self._port}")
        except RuntimeError as error:
            raise Refused(
                f"cannot listen on {self._host}:{self._port}: the address is in use or not this machine's; stop what "
                "listens there or set PHANTOM_GATEWAY_GRPC_PORT to another port (0 takes any)",
                code="address_in_use",
            ) from error
        await server.start()
        self._server = server
        log.info("listening", action="grpc_listening", host=self._host, port=self._port)

    async def stop(self) -> None:
        """No new calls; those under way end as they would have, for at most 30 s."""
        self._health.stop()
        if self._server is not None:
            await self._server.stop(DRAIN_S)
