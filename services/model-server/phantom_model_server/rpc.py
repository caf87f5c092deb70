"""The gRPC doors: frames and their administration, plain OIP, health and reflection. Requests come as raw bytes."""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from inference import grpc_service_pb2 as oip
from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom_contracts.tensors import endpoint_inputs, model_outputs
from phantom_model_server import failures
from phantom_model_server.frames import Context, Stream, Work, read
from phantom_model_server.service import Asked
from phantom_model_server.statuses import abort
from phantom_model_server.tensors import shown
from phantom_platform.errors import Invalid, NotFound, PhantomError, Unauthenticated
from phantom_platform.telemetry import logs

log = logs.get(__name__)

DEFAULT_DEADLINE_S = 30.0
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
        request = _parse(pb.DrainRequest, raw)
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


class Inference:
    """Plain OIP, for clients that speak to one replica directly. The model goes by its id or its deployment's."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._names = (work.launch.model_id, work.launch.deployment_id)

    async def server_live(self, raw: bytes, context: Context) -> bytes:
        return oip.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, raw: bytes, context: Context) -> bytes:
        return oip.ServerReadyResponse(ready=not self._work.gate.is_draining).SerializeToString()

    async def model_ready(self, raw: bytes, context: Context) -> bytes:
        request = _parse(oip.ModelReadyRequest, raw)
        return oip.ModelReadyResponse(ready=self.is_ready(request.name, request.version)).SerializeToString()

    async def server_metadata(self, raw: bytes, context: Context) -> bytes:
        return oip.ServerMetadataResponse(name="phantom-model-server", version="0.1.0").SerializeToString()

    async def model_metadata(self, raw: bytes, context: Context) -> bytes:
        request = _parse(oip.ModelMetadataRequest, raw)
        return self.describe(request.name, request.version).SerializeToString()

    def is_ready(self, name: str, version: str) -> bool:
        is_here = name in self._names and version in ("", self._work.launch.model_version)
        return is_here and not self._work.gate.is_draining

    def describe(self, name: str, version: str) -> oip.ModelMetadataResponse:
        """The model's metadata; NotFound where it is not served here."""
        self.check_name(name, version)
        server = self._work.server
        reply = oip.ModelMetadataResponse(
            name=name, versions=[self._work.launch.model_version], platform=server.model.runtime
        )
        for tensor in endpoint_inputs(server.own.projection.endpoint):
            reply.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        for tensor in model_outputs(server.schema):
            reply.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return reply

    async def infer(self, raw: bytes, context: Context) -> bytes:
        left_s = context.time_remaining()
        request = _parse(oip.ModelInferRequest, raw)
        self.check_name(request.model_name, request.model_version)
        parent = dict(context.invocation_metadata() or ()).get("traceparent", "")
        with self._work.span("ModelInfer", str(parent)):
            return await self.answer(
                raw, time.monotonic() + (DEFAULT_DEADLINE_S if left_s is None else left_s)
            )

    async def stream(self, context: Context) -> None:
        """Triton's form: an error is a message of the stream and does not end it."""
        while (raw := await read(context)) is not None:
            reply = oip.ModelStreamInferResponse()
            try:
                request = _parse(oip.ModelInferRequest, raw)
                self.check_name(request.model_name, request.model_version)
                answer = await self.answer(raw, time.monotonic() + DEFAULT_DEADLINE_S)
                reply.infer_response.MergeFromString(answer)
            except PhantomError as error:
                reply.error_message = error.message
            await context.write(reply.SerializeToString())

    async def answer(self, raw: bytes, deadline: float) -> bytes:
        """A serialized ModelInferResponse to a serialized ModelInferRequest; `deadline` is on the monotonic clock."""
        work = self._work
        if work.gate.is_draining:
            raise failures.draining()
        work.gate.begin(1)
        try:
            calls = [Asked(raw, deadline)]
            if len(raw) <= work.inline_bytes:
                answered = work.server.answer(work.server.own, calls, time.monotonic())
            else:
                answered = await asyncio.get_running_loop().run_in_executor(
                    work.pool, lambda: work.server.answer(work.server.own, calls, time.monotonic())
                )
        finally:
            work.gate.end(1)
        if answered.errors:
            raise answered.errors[0]
        return answered.replies[0]

    def check_name(self, name: str, version: str) -> None:
        launch = self._work.launch
        if name not in self._names:
            raise NotFound(
                f"the model {shown(name)} is not served here; {launch.model_id!r} is", code="model_not_found"
            )
        if version not in ("", launch.model_version):
            raise NotFound(
                f"version {shown(version)} is not served here; {launch.model_version!r} is",
                code="version_not_found",
            )


class Health:
    """The standard health service."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def check(self, raw: bytes, context: Context) -> bytes:
        request = _parse(health_pb2.HealthCheckRequest, raw)
        if request.service not in ("", OIP_SERVICE, OWN_SERVICE):
            raise NotFound(f"no service {shown(request.service)} here", code="service_not_found")
        states = health_pb2.HealthCheckResponse
        status = states.NOT_SERVING if self._work.gate.is_draining else states.SERVING
        return bytes(states(status=status).SerializeToString())


def _parse(kind: Any, raw: Any) -> Any:
    try:
        message: Message = kind.FromString(raw)
    except DecodeError as error:
        raise Invalid(
            f"the request is no {kind.DESCRIPTOR.name}: it is cut off, or a text in it is no UTF-8",
            code="unparsable_request",
        ) from error
    return message


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
