"""OIP's REST form, for a model server without a gateway in front. JSON only: binary tensors go over gRPC."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import orjson
from aiohttp import web

from inference import grpc_service_pb2 as oip
from phantom_model_server.frames import Work
from phantom_model_server.plain import DEFAULT_DEADLINE_S, Inference
from phantom_platform import errors

_STATUSES = (
    (errors.Invalid, 400),
    (errors.NotFound, 404),
    (errors.Exhausted, 429),
    (errors.Unsupported, 501),
    (errors.Unavailable, 503),
    (errors.DeadlineExceeded, 504),
)
_CONTENTS: dict[str, tuple[str, type]] = {
    "BOOL": ("bool_contents", bool),
    "INT8": ("int_contents", int),
    "INT16": ("int_contents", int),
    "INT32": ("int_contents", int),
    "INT64": ("int64_contents", int),
    "UINT8": ("uint_contents", int),
    "UINT16": ("uint_contents", int),
    "UINT32": ("uint_contents", int),
    "UINT64": ("uint64_contents", int),
    "FP32": ("fp32_contents", float),
    "FP64": ("fp64_contents", float),
    "BYTES": ("bytes_contents", bytes),
}
_BINARY = "Inference-Header-Content-Length"
_MAX_DEPTH = 8

Handler = Callable[[web.Request], Awaitable[web.Response]]


class Rest:
    """The routes below /v2."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._inference = Inference(work)

    def routes(self) -> Sequence[web.RouteDef]:
        get, post = web.get, web.post
        made = [
            get("/v2", _guarded(self._server)),
            get("/v2/health/live", _guarded(self._live)),
            get("/v2/health/ready", _guarded(self._ready)),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            made += [
                get(model, _guarded(self._metadata)),
                get(f"{model}/ready", _guarded(self._model_ready)),
                post(f"{model}/infer", _guarded(self._infer)),
            ]
        return made

    async def _server(self, _: web.Request) -> web.Response:
        return _json({"name": "phantom-model-server", "version": "0.1.0", "extensions": []})

    async def _live(self, _: web.Request) -> web.Response:
        return _json({"live": True})

    async def _ready(self, _: web.Request) -> web.Response:
        return _readiness("ready", not self._work.gate.is_draining)

    async def _model_ready(self, request: web.Request) -> web.Response:
        name, version = _names(request)
        self._inference.check_name(name, version)
        return _readiness("ready", self._inference.is_ready(name, version))

    async def _metadata(self, request: web.Request) -> web.Response:
        found = self._inference.describe(*_names(request))
        sides = {
            side: [
                {"name": each.name, "datatype": each.datatype, "shape": list(each.shape)}
                for each in getattr(found, side)
            ]
            for side in ("inputs", "outputs")
        }
        return _json(
            {"name": found.name, "versions": list(found.versions), "platform": found.platform, **sides}
        )

    async def _infer(self, request: web.Request) -> web.Response:
        name, version = _names(request)
        self._inference.check_name(name, version)
        if _BINARY in request.headers:
            raise errors.Unsupported(
                f"binary tensors ({_BINARY}) are taken over gRPC only; send JSON here",
                code="unsupported_extension",
            )
        asked = _request(await request.read(), name, version)
        answer = await self._inference.answer(asked, time.monotonic() + DEFAULT_DEADLINE_S)
        return _json(_answer(oip.ModelInferResponse.FromString(answer)))


def _request(body: bytes, name: str, version: str) -> bytes:
    """A serialized ModelInferRequest; Invalid that names the field."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise errors.Invalid(f"the body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise _invalid("body", "must be an object with an array of inputs")
    request = oip.ModelInferRequest(model_name=name, model_version=version)
    if not isinstance(document.get("id", ""), str):
        raise _invalid("id", "must be a string")
    request.id = document.get("id", "")
    for place, item in enumerate(document["inputs"]):
        _add_input(request, item, f"inputs[{place}]")
    for place, item in enumerate(document.get("outputs") or []):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise _invalid(f"outputs[{place}]", "must be an object with a name")
        request.outputs.add(name=item["name"])
    return request.SerializeToString()


def _add_input(request: oip.ModelInferRequest, item: Any, where: str) -> None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise _invalid(where, "must be an object with a name")
    if not isinstance(item.get("datatype"), str) or item["datatype"] not in _CONTENTS:
        raise _invalid(f"{where}.datatype", f"must be one of {', '.join(_CONTENTS)}")
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(each) is int and 0 <= each < 2**31 for each in shape):
        raise _invalid(f"{where}.shape", "must be an array of numbers")
    if not isinstance(item.get("data"), list):
        raise _invalid(f"{where}.data", "must be an array")
    contents, kind = _CONTENTS[item["datatype"]]
    added = request.inputs.add(name=item["name"], datatype=item["datatype"], shape=shape)
    values = [_value(each, kind, f"{where}.data") for each in _flat(item["data"], f"{where}.data", 0)]
    try:
        getattr(added.contents, contents).extend(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid(f"{where}.data", f"does not hold {item['datatype']}: {error!s:.100}") from error


def _flat(values: list[Any], where: str, depth: int) -> Iterator[Any]:
    if depth > _MAX_DEPTH:
        raise _invalid(where, f"is nested deeper than {_MAX_DEPTH}")
    for each in values:
        if isinstance(each, list):
            yield from _flat(each, where, depth + 1)
        else:
            yield each


def _value(value: Any, kind: type, where: str) -> Any:
    """The value as protobuf takes it; null is a missing number."""
    if kind is float and value is None:
        return float("nan")
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is bytes and isinstance(value, str):
        return value.encode()
    if type(value) is kind:
        return value
    raise _invalid(where, f"holds {value!r:.40}, which is no {kind.__name__}")


def _answer(response: oip.ModelInferResponse) -> dict[str, Any]:
    """The answer as JSON. Its contents are typed, as the request's were."""
    outputs = [
        {"name": each.name, "datatype": each.datatype, "shape": list(each.shape), "data": _data(each)}
        for each in response.outputs
    ]
    head = {"model_name": response.model_name, "model_version": response.model_version, "id": response.id}
    return {**{key: value for key, value in head.items() if value}, "outputs": outputs}


def _data(output: Any) -> list[Any]:
    contents, kind = _CONTENTS[output.datatype]
    values = getattr(output.contents, contents)
    return [each.decode() for each in values] if kind is bytes else list(values)


def _names(request: web.Request) -> tuple[str, str]:
    return request.match_info["model"], request.match_info.get("version", "")


def _guarded(handler: Handler) -> Handler:
    async def call(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except errors.PhantomError as error:
            status = next((each for kind, each in _STATUSES if isinstance(error, kind)), 500)
            return _json({"error": error.message, "code": error.code}, status)

    return call


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")


def _readiness(key: str, is_ready: bool) -> web.Response:
    return _json({key: is_ready}, 200 if is_ready else 503)


def _invalid(where: str, what: str) -> errors.Invalid:
    return errors.Invalid(code="invalid_request", violations=[errors.Violation(where, what)])
