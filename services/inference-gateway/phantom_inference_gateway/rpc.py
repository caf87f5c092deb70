"""The gRPC door of the Open Inference Protocol v2: bytes in, bytes out, statuses with details.

Handlers are generic and take raw bytes, since a generated deserializer answers broken protobuf with INTERNAL. Only
the small messages of health and metadata are parsed here; `rpc_stream` holds the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError

from inference import grpc_service_pb2 as oip
from phantom_inference_gateway.calls import (
    DEFAULT_DEADLINE_S,
    DEFAULT_WORKSPACE,
    Answer,
    Call,
    RouteMemo,
    id_text,
)
from phantom_inference_gateway.descriptions import HASH_FIELD
from phantom_inference_gateway.service import ModelMetadata, ServerMetadata
from phantom_inference_gateway.wire import Head, read_head
from phantom_platform.errors import Invalid, PhantomError, Unavailable
from phantom_platform.http2.requests import Block, metadata_block
from phantom_platform.rpc.status import DETAILS_KEY, code_of, from_status, retry_after_s, to_status
from phantom_platform.telemetry import logs, tracing

log = logs.get(__name__)

SERVICE = "inference.GRPCInferenceService"
WORKSPACE, OVERRIDE, AUTHORIZATION = "phantom-workspace", "phantom-override-revision", "authorization"
RETRY_AFTER = "retry-after"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_BEARER = "bearer "
_TIMEOUT = "timeout"
_REMEMBERED = 1024
# The field of a prediction id without its 36 characters.
_ID_FIELD = metadata_block((("phantom-prediction-id", "0" * 36),))[:-36]

MessageT = TypeVar("MessageT")


class RpcGateway(Protocol):
    """What the door needs of the Gateway."""

    async def infer(self, call: Call) -> Answer: ...
    async def admit(self, call: Call) -> None: ...
    def server_metadata(self) -> ServerMetadata: ...
    def server_ready(self) -> bool: ...
    def model_ready(self, name: str, version: str, workspace: str) -> bool: ...
    def model_metadata(self, name: str, version: str, workspace: str) -> ModelMetadata: ...


class Caller:
    """What the metadata of a call, or of all calls that came with the same, says of who calls and for what."""

    __slots__ = ("metadata", "override", "source", "token", "traceparent", "workspace")

    def __init__(self, source: Iterable[tuple[str, Any]]) -> None:
        self.source = source
        self.metadata = metadata = dict(source)
        token: str = metadata.get(AUTHORIZATION, "")
        self.token = token[len(_BEARER) :] if token[: len(_BEARER)].lower() == _BEARER else ""
        self.workspace: str = metadata.get(WORKSPACE) or DEFAULT_WORKSPACE
        self.override: str = metadata.get(OVERRIDE, "")
        self.traceparent: str = metadata.get(tracing.TRACEPARENT, "")


def call_of(head: Head, body: bytes, caller: Caller, remaining_s: float | None, now: float) -> Call:
    """One request as the Gateway takes it. A parameter `timeout` (µs, as Triton's clients send) shortens it."""
    allowed = DEFAULT_DEADLINE_S if remaining_s is None else remaining_s
    timeout = head.parameter(_TIMEOUT)
    if isinstance(timeout, int) and timeout > 0:
        allowed = min(allowed, timeout / 1e6)
    return Call(
        head.model_name,
        head.model_version,
        head.request_id,
        body,
        caller.metadata.get,
        now + allowed,
        caller.workspace,
        caller.override,
        caller.token,
        caller.traceparent,
        head.unit,
    )


class InferenceDoor:
    """The methods of one server. `refused` is told the code of each call that the Gateway never sees."""

    def __init__(self, gateway: RpcGateway, refused: Callable[[str], None]) -> None:
        self.gateway = gateway
        self.refused = refused
        self._loop = asyncio.get_running_loop()
        self._callers: dict[int, Caller] = {}
        self._repeated = RouteMemo(lambda answer: metadata_block(answer.headers()[1:]))

    def handlers(self, stream: Callable[[Any, Any], Awaitable[None]]) -> grpc.GenericRpcHandler:
        """All methods; `stream` serves ModelStreamInfer."""
        unary = grpc.unary_unary_rpc_method_handler
        methods: dict[str, Any] = {
            "ServerLive": unary(self._server_live),
            "ServerReady": unary(self._server_ready),
            "ModelReady": unary(self._model_ready),
            "ServerMetadata": unary(self._server_metadata),
            "ModelMetadata": unary(self._model_metadata),
            "ModelInfer": unary(self._model_infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(stream),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    # -- inference -------------------------------------------------------------------------------------------

    async def _model_infer(self, body: bytes, context: Any) -> bytes:
        try:
            caller = self.caller(context)
            head = self.head(body)
            call = call_of(head, body, caller, context.time_remaining(), self._loop.time())
            answer = await self.gateway.infer(call)
        except PhantomError as error:
            await abort(context, error)
        except Exception as error:
            await abort(context, unexpected(error))
        await context.send_initial_metadata(self._headers(answer))
        if answer.status:
            await abort(context, error_of(answer))
        return answer.body

    def caller(self, context: Any) -> Caller:
        """Who calls. The server gives the same object for the same metadata, so it is read once."""
        source = context.invocation_metadata()
        known = self._callers.get(id(source))
        if known is not None and known.source is source:
            return known
        if len(self._callers) >= _REMEMBERED:
            self._callers.clear()
        made = self._callers[id(source)] = Caller(source)
        return made

    def _headers(self, answer: Answer) -> Block:
        """`answer.headers()` as the server sends them; all but the prediction id is encoded once a route."""
        return Block(_ID_FIELD + id_text(answer.prediction_id).encode() + self._repeated.of(answer))

    def head(self, body: bytes) -> Head:
        """`read_head`, counted where it refuses."""
        try:
            return read_head(body)
        except PhantomError as error:
            self.refused(error.code)
            raise

    # -- health and metadata -----------------------------------------------------------------------------------

    async def _server_live(self, body: bytes, context: Any) -> bytes:
        await _parsed(oip.ServerLiveRequest, body, context)
        return oip.ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, body: bytes, context: Any) -> bytes:
        await _parsed(oip.ServerReadyRequest, body, context)
        return oip.ServerReadyResponse(ready=self.gateway.server_ready()).SerializeToString()

    async def _model_ready(self, body: bytes, context: Any) -> bytes:
        request = await _parsed(oip.ModelReadyRequest, body, context)
        workspace = await self._admitted(body, context)
        is_ready = self.gateway.model_ready(request.name, request.version, workspace)
        return oip.ModelReadyResponse(ready=is_ready).SerializeToString()

    async def _server_metadata(self, body: bytes, context: Any) -> bytes:
        await _parsed(oip.ServerMetadataRequest, body, context)
        found = self.gateway.server_metadata()
        return oip.ServerMetadataResponse(
            name=found.name, version=found.version, extensions=found.extensions
        ).SerializeToString()

    async def _model_metadata(self, body: bytes, context: Any) -> bytes:
        request = await _parsed(oip.ModelMetadataRequest, body, context)
        workspace = await self._admitted(body, context)
        try:
            found = self.gateway.model_metadata(request.name, request.version, workspace)
        except PhantomError as error:
            await abort(context, error)
        response = oip.ModelMetadataResponse(
            name=found.name, versions=found.versions, platform=found.platform
        )
        for tensors, into in ((found.inputs, response.inputs), (found.outputs, response.outputs)):
            for each in tensors:
                into.add(name=each.name, datatype=each.datatype, shape=each.shape)
        response.parameters[HASH_FIELD].string_param = found.hash_field
        return response.SerializeToString()

    async def _admitted(self, body: bytes, context: Any) -> str:
        """The workspace that a call about a model is for, where its caller may ask. Fields 1 and 2 are a head's."""
        try:
            caller = self.caller(context)
            call = call_of(read_head(body), body, caller, context.time_remaining(), self._loop.time())
            await self.gateway.admit(call)
        except PhantomError as error:
            await abort(context, error)
        return call.workspace


async def abort(context: Any, error: PhantomError) -> NoReturn:
    """End the call with an error's status and its details; clients that should come back are told when."""
    status = to_status(error)
    trailing: tuple[tuple[str, str | bytes], ...] = ((DETAILS_KEY, status.SerializeToString()),)
    if (delay_s := retry_after_s(error)) is not None:
        trailing = (*trailing, (RETRY_AFTER, str(max(1, round(delay_s)))))
    await context.abort(code_of(error), status.message, trailing)
    raise AssertionError("unreachable: abort raises")


def error_of(answer: Answer) -> PhantomError:
    """A failed answer as the error that it is."""
    error = answer.refusal
    if error is None:
        error = from_status(_CODES.get(answer.status, grpc.StatusCode.INTERNAL), answer.message, None)
        error.code = answer.reason or error.code
    error.fields.update(prediction_id=id_text(answer.prediction_id), revision=answer.revision)
    if isinstance(error, Unavailable) and answer.retry_after_s is not None:
        error.retry_after_s = answer.retry_after_s
    return error


def unexpected(error: Exception) -> PhantomError:
    """What a client is told of a mistake of ours."""
    log.error("a call failed unexpectedly", action="call_failed", exc_info=error)
    return PhantomError("the gateway failed at this call; its log says why")


async def _parsed(kind: type[MessageT], body: bytes, context: Any) -> MessageT:
    try:
        message: MessageT = kind.FromString(body)  # type: ignore[attr-defined]
    except DecodeError:
        name = kind.__name__
        error = Invalid(f"the request is not a valid inference.{name}", code="unparsable_request")
        await abort(context, error)
    return message
