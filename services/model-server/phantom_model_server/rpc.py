"""The gRPC doors: frames and their administration, plain OIP, health and reflection. Requests come as raw bytes."""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_model_server.frames import Context, Stream, Work
from phantom_model_server.plain import Inference, parse
from phantom_model_server.statuses import abort
from phantom_model_server.tensors import shown
from phantom_platform.errors import Invalid, NotFound, PhantomError, Unauthenticated
from phantom_platform.telemetry import logs

log = logs.get(__name__)

MAX_DRAIN_MS = 600_000
OIP_SERVICE = "inference.GRPCInferenceService"
OWN_SERVICE = "phantom.modelserver.v1.ModelServerService"
HEALTH_SERVICE = "grpc.health.v1.Health"

Unary = Callable[[bytes, Context], Awaitable[bytes]]


def handlers(work: Work) -> list[grpc.GenericRpcHandler]:
    """The handlers of every service of this process."""
    own, plain, health = Administration(work), Inference(work), Health(work)
    streams = {
        OWN_SERVICE: {"Frames": _stream(lambda context: Stream(work, context).run())},
        OIP_SERVICE: {"ModelStreamInfer": _stream(plain.stream)},
    }
    unary: dict[str, dict[str, Unary]] = {
        OWN_SERVICE: {"Describe": own.describe, "Drain": own.drain},
        OIP_SERVICE: {
            "ServerLive": plain.server_live,
            "ServerReady": plain.server_ready,
            "ModelReady": plain.model_ready,
            "ServerMetadata": plain.server_metadata,
            "ModelMetadata": plain.model_metadata,
            "ModelInfer": plain.infer,
        },
        HEALTH_SERVICE: {"Check": health.check},
    }
    made = []
    for service, methods in unary.items():
        of: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(_guarded(method)) for name, method in methods.items()
        }
        made.append(grpc.method_handlers_generic_handler(service, {**of, **streams.get(service, {})}))
    return made


def reflect(server: grpc.aio.Server) -> None:
    """Answer reflection, so that grpcurl works."""
    reflection.enable_server_reflection(
        (OIP_SERVICE, OWN_SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME), server
    )


class Administration:
    """What the deployer asks."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def describe(self, raw: bytes, context: Context) -> bytes:
        launch, gate, model = self._work.launch, self._work.gate, self._work.server.model
        return pb.DescribeResponse(
            replica_id=launch.replica_id,
            revision=launch.revision,
            digest=launch.artifact.digest,
            state="draining" if gate.is_draining else "ready",
            pid=os.getpid(),
            model_id=launch.model_id,
            model_version=launch.model_version,
            open_streams=gate.open_streams,
            in_flight=gate.in_flight,
            runtime=model.runtime,
            onnx_rows=model.choice.rows,
            onnx_reason=model.choice.reason,
        ).SerializeToString()

    async def drain(self, raw: bytes, context: Context) -> bytes:
        request = parse(pb.DrainRequest, raw)
        launch, gate = self._work.launch, self._work.gate
        if not hmac.compare_digest(request.drain_key.encode(), launch.drain_key.encode()):
            raise Unauthenticated("the drain key is not the one of the launch file", code="wrong_drain_key")
        if request.timeout_ms > MAX_DRAIN_MS:
            raise Invalid(
                f"timeout_ms is {request.timeout_ms}, at most {MAX_DRAIN_MS}", code="invalid_timeout"
            )
        gate.close(request.route_record, request.timeout_ms / 1000 or launch.drain_timeout_s)
        log.info("told to drain", action="drain_asked", streams=gate.open_streams, in_flight=gate.in_flight)
        return pb.DrainResponse(open_streams=gate.open_streams, in_flight=gate.in_flight).SerializeToString()


class Health:
    """The standard health service."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def check(self, raw: bytes, context: Context) -> bytes:
        request = parse(health_pb2.HealthCheckRequest, raw)
        if request.service not in ("", OIP_SERVICE, OWN_SERVICE):
            raise NotFound(f"no service {shown(request.service)} here", code="service_not_found")
        states = health_pb2.HealthCheckResponse
        status = states.NOT_SERVING if self._work.gate.is_draining else states.SERVING
        return bytes(states(status=status).SerializeToString())


def _guarded(method: Unary) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def call(raw: bytes, context: Context) -> bytes:
        try:
            return await method(raw, context)
        except PhantomError as error:
            await abort(context, error)

    return call


def _stream(run: Callable[[Context], Awaitable[None]]) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def call(_: Any, context: Context) -> None:
        try:
            await run(context)
        except PhantomError as error:
            await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(call)
