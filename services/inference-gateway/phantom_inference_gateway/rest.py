"""The REST door of the Open Inference Protocol v2: paths, headers and statuses; the Gateway does the rest.

Only 200 is success. Errors are `{"error": text, "code": code}`. What Triton offers beyond the protocol and we do
not (repository control, shared memory, statistics, generate) is answered 501.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol
from urllib.parse import unquote

from aiohttp import web

from phantom_inference_gateway import converters
from phantom_inference_gateway.calls import (
    DEFAULT_DEADLINE_S,
    DEFAULT_WORKSPACE,
    MAX_MESSAGE_BYTES,
    Answer,
    Call,
)
from phantom_inference_gateway.descriptions import HASH_FIELD
from phantom_inference_gateway.http_server import (
    HttpServer,
    error_response,
    json_response,
    read_body,
    response_of,
    status_of_grpc,
)
from phantom_inference_gateway.service import ModelMetadata, ServerMetadata, Tensor
from phantom_platform.errors import Exhausted, Invalid, NotFound, PhantomError, Unsupported

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
_UNAVAILABLE = 14  # gRPC's code
_WORKSPACE = "phantom-workspace"
_MAX_TIMEOUT_US = 3_600_000_000
_NOT_OFFERED = {
    "load": "models are loaded by deploying them: `phantom-ml-studio deploy`",
    "unload": "models are unloaded by withdrawing their deployment",
    "config": "model configuration is not offered; see the model's metadata",
    "stats": "statistics are Prometheus metrics here, on the metrics port",
    "generate": "the generate extension is not offered; use infer",
    "generate_stream": "the generate extension is not offered; use infer",
    "trace": "trace settings are not offered",
}


class RestGateway(Protocol):
    """What the door needs of the Gateway."""

    async def infer(self, call: Call) -> Answer: ...
    async def admit(self, call: Call) -> None: ...
    def server_metadata(self) -> ServerMetadata: ...
    def server_ready(self) -> bool: ...
    def model_ready(self, name: str, version: str, workspace: str) -> bool: ...
    def model_metadata(self, name: str, version: str, workspace: str) -> ModelMetadata: ...
    def routed(self, workspace: str) -> Sequence[str]:
        """The endpoints of a workspace, sorted."""


class RestDoor:
    """A part. `refused` is told the code of every call that ends before the Gateway sees it.

    `is_shared`: other workers of its group listen on the same port, which the group's process reserved.
    """

    name = "REST"

    def __init__(
        self,
        gateway: RestGateway,
        host: str,
        port: int,
        *,
        refused: Callable[[str], None] = lambda code: None,
        max_bytes: int = MAX_MESSAGE_BYTES,
        is_shared: bool = False,
    ) -> None:
        self._gateway = gateway
        self._refused = refused
        self._max_bytes = max_bytes
        self._server = HttpServer(
            self.name, self._serve, host, port, setting="PHANTOM_GATEWAY_HTTP_PORT", is_shared=is_shared
        )

    @property
    def port(self) -> int:
        """The port in use."""
        return self._server.port

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()

    async def _serve(self, request: web.BaseRequest) -> web.Response:
        try:
            return await self._route(request)
        except PhantomError as error:
            return response_of(error)

    async def _route(self, request: web.BaseRequest) -> web.Response:
        path = [_decoded(part) for part in request.rel_url.raw_path.strip("/").split("/")]
        match path:
            case ["v2", "models", model, "infer"]:
                return await self._post(request, model, "")
            case ["v2", "models", model, "versions", version, "infer"]:
                return await self._post(request, model, version)
            case ["v2", "repository", "index"]:
                return await self._index(request)
            case ["v2", "repository", "models", _, ("load" | "unload") as action]:
                _not_offered(action)
            case ["v2", "models", _, action] | ["v2", "models", _, "versions", _, action] if (
                action in _NOT_OFFERED
            ):
                _not_offered(action)
            case ["v2", "systemsharedmemory" | "cudasharedmemory", *_]:
                raise Unsupported("shared memory is not offered; send tensors in the request")
            case ["v2", "models", *_]:
                await self._gateway.admit(_asking(request))
                return self._get(request, path)
            case ["v2", *_]:
                return self._get(request, path)
        raise _unknown_path(request)

    def _get(self, request: web.BaseRequest, path: list[str]) -> web.Response:
        workspace = request.headers.get(_WORKSPACE, DEFAULT_WORKSPACE)
        match path:
            case ["v2"]:
                answer = self._server_metadata
            case ["v2", "health", "live"]:
                answer = self._live
            case ["v2", "health", "ready"]:
                answer = self._ready
            case ["v2", "models", model]:
                return _if_get(request, lambda: self._metadata(model, "", workspace))
            case ["v2", "models", model, "versions", version]:
                return _if_get(request, lambda: self._metadata(model, version, workspace))
            case ["v2", "models", model, "ready"]:
                return _if_get(request, lambda: self._model_ready(model, "", workspace))
            case ["v2", "models", model, "versions", version, "ready"]:
                return _if_get(request, lambda: self._model_ready(model, version, workspace))
            case _:
                raise _unknown_path(request)
        return _if_get(request, answer)

    # health and metadata

    def _live(self) -> web.Response:
        return json_response({"live": True})

    def _ready(self) -> web.Response:
        if self._gateway.server_ready():
            return json_response({"ready": True})
        headers = {"Retry-After": "1"}
        body = {"ready": False, "error": "this gateway is not ready", "code": "not_ready"}
        return json_response(body, 503, headers)

    def _server_metadata(self) -> web.Response:
        server = self._gateway.server_metadata()
        return json_response(
            {"name": server.name, "version": server.version, "extensions": list(server.extensions)}
        )

    def _metadata(self, model: str, version: str, workspace: str) -> web.Response:
        metadata = self._gateway.model_metadata(model, version, workspace)
        return json_response(
            {
                "name": metadata.name,
                "versions": list(metadata.versions),
                "platform": metadata.platform,
                "inputs": [_tensor(each) for each in metadata.inputs],
                "outputs": [_tensor(each) for each in metadata.outputs],
                "parameters": {HASH_FIELD: metadata.hash_field},
            }
        )

    def _model_ready(self, model: str, version: str, workspace: str) -> web.Response:
        if self._gateway.model_ready(model, version, workspace):
            return json_response({"name": model, "ready": True})
        try:
            self._gateway.model_metadata(model, version, workspace)
        except NotFound as error:
            return json_response(
                {"name": model, "ready": False, "error": error.message, "code": error.code}, 404
            )
        body = {"name": model, "ready": False, "error": "no replica is ready", "code": "not_ready"}
        return json_response(body, 503, {"Retry-After": "1"})

    async def _index(self, request: web.BaseRequest) -> web.Response:
        """Every routed endpoint and version; with `{"ready": true}` only those that would answer."""
        if request.method != "POST":
            return _wrong_method("POST")
        await self._gateway.admit(_asking(request))
        body = await read_body(request, self._max_bytes)
        only_ready = converters.parse_index_request(body)
        workspace = request.headers.get(_WORKSPACE, DEFAULT_WORKSPACE)
        models = []
        for name in self._gateway.routed(workspace):
            try:
                versions = self._gateway.model_metadata(name, "", workspace).versions
            except NotFound:  # withdrawn this moment
                continue
            for version in versions:
                is_ready = self._gateway.model_ready(name, version, workspace)
                if is_ready or not only_ready:
                    models.append(_index_entry(name, version, is_ready))
        return json_response(models)

    # inference

    async def _post(self, request: web.BaseRequest, model: str, version: str) -> web.Response:
        if request.method != "POST":
            return _wrong_method("POST")
        try:
            body = await read_body(request, self._max_bytes)
            parsed = converters.parse_request(body, _json_length(request), model, version)
            call = _call(request, parsed, model, version)
        except (Invalid, Exhausted, Unsupported) as error:
            self._refused(error.code)
            raise
        answer = await self._gateway.infer(call)
        headers = dict(answer.headers())
        if answer.status:
            return _failure(answer, headers)
        try:
            rendered, json_length = converters.render_response(answer.body, parsed)
        except PhantomError as error:
            refusal = response_of(error)
            refusal.headers.update(headers)
            return refusal
        if json_length is None:
            return web.Response(body=rendered, headers=headers, content_type="application/json")
        headers[JSON_LENGTH_HEADER] = str(json_length)
        return web.Response(body=rendered, headers=headers, content_type="application/octet-stream")


def _call(request: web.BaseRequest, parsed: converters.RestRequest, model: str, version: str) -> Call:
    headers = request.headers
    get = headers.get
    return Call(
        model_name=model,
        model_version=version,
        request_id=parsed.request_id,
        body=parsed.body,
        unit_metadata=lambda key: get(key),
        deadline=asyncio.get_running_loop().time() + _patience_s(parsed),
        workspace=get(_WORKSPACE, DEFAULT_WORKSPACE),
        override_revision=get("phantom-override-revision", ""),
        token=_token(get("Authorization", "")),
        traceparent=get("traceparent", ""),
        parameter=parsed.unit,
    )


def _asking(request: web.BaseRequest) -> Call:
    """A call about models that predicts nothing, as far as it matters to who may ask."""
    get = request.headers.get
    return Call(
        model_name="",
        model_version="",
        request_id="",
        body=b"",
        unit_metadata=lambda key: get(key),
        deadline=0.0,
        workspace=get(_WORKSPACE, DEFAULT_WORKSPACE),
        token=_token(get("Authorization", "")),
    )


def _failure(answer: Answer, headers: dict[str, str]) -> web.Response:
    retry_after_s = answer.retry_after_s
    if retry_after_s is None and answer.status == _UNAVAILABLE:
        retry_after_s = 1.0
    return error_response(
        status_of_grpc(answer.status, answer.reason),
        answer.message,
        answer.reason or "internal",
        headers=headers,
        retry_after_s=retry_after_s,
    )


def _patience_s(parsed: converters.RestRequest) -> float:
    """HTTP carries no deadline; Triton's clients send parameter `timeout`, in microseconds."""
    timeout_us = parsed.parameters.get("timeout")
    if timeout_us is None or timeout_us == 0:
        return DEFAULT_DEADLINE_S
    if type(timeout_us) is not int or not 0 < timeout_us <= _MAX_TIMEOUT_US:
        text = (
            f"parameter 'timeout' must be a whole number of microseconds, at most {_MAX_TIMEOUT_US} (an hour)"
        )
        raise Invalid(text, code="invalid_request")
    return timeout_us / 1e6


def _token(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _json_length(request: web.BaseRequest) -> int | None:
    text = request.headers.get(JSON_LENGTH_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise Invalid(
            f"header {JSON_LENGTH_HEADER} must be a number of bytes, got {text[:40]!r}", code="invalid_header"
        )
    return int(text)


def _decoded(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise NotFound("the address is not UTF-8", code="unknown_path") from None


def _tensor(tensor: Tensor) -> dict[str, object]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def _index_entry(name: str, version: str, is_ready: bool) -> dict[str, str]:
    state, reason = ("READY", "") if is_ready else ("UNAVAILABLE", "no replica is ready")
    return {"name": name, "version": version, "state": state, "reason": reason}


def _if_get(request: web.BaseRequest, answer: Callable[[], web.Response]) -> web.Response:
    return answer() if request.method in ("GET", "HEAD") else _wrong_method("GET")


def _wrong_method(allowed: str) -> web.Response:
    return error_response(
        405, f"this address takes {allowed} only", "method_not_allowed", headers={"Allow": allowed}
    )


def _not_offered(action: str) -> NoReturn:
    raise Unsupported(_NOT_OFFERED[action], code="unsupported_extension")


def _unknown_path(request: web.BaseRequest) -> NotFound:
    return NotFound(
        f"there is nothing at {request.rel_url.raw_path[:200]}; the protocol is served below /v2",
        code="unknown_path",
    )
