"""The REST door over real sockets, with a Gateway that answers what the test says."""

from __future__ import annotations

import asyncio
import gzip
import struct
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import orjson
import pytest

from inference.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from phantom_inference_gateway.calls import Answer, Call
from phantom_inference_gateway.rest import RestDoor
from phantom_inference_gateway.service import ModelMetadata, ServerMetadata, Tensor
from phantom_platform import errors
from phantom_platform.errors import NotFound, PhantomError, Refused, Unauthenticated

LIMIT = 1024 * 1024
DOCUMENT = {
    "id": "r-1",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}],
}


class FakeGateway:
    """Echoes the first input as output `y`, or fails as told."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.error: PhantomError | None = None
        self.failure: Answer | None = None
        self.is_ready = True
        self.ready_models = {"delays"}

    async def infer(self, call: Call) -> Answer:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        if self.failure is not None:
            return self.failure
        request = ModelInferRequest.FromString(call.body)
        response = ModelInferResponse(model_name=request.model_name, model_version="1.0.0", id=request.id)
        first = request.inputs[0]
        response.outputs.add(name="y", datatype=first.datatype, shape=first.shape)
        response.raw_output_contents.append(request.raw_input_contents[0])
        return answer(0, body=response.SerializeToString())

    async def admit(self, call: Call) -> None:
        if call.workspace != "default" and call.token != "good":
            raise Unauthenticated("this call needs a token", code="token_missing")

    def server_metadata(self) -> ServerMetadata:
        return ServerMetadata("phantom-inference-gateway", "0.1.0", ("binary_tensor_data",))

    def server_ready(self) -> bool:
        return self.is_ready

    def model_ready(self, name: str, version: str, workspace: str) -> bool:
        return name in self.ready_models and version in ("", "1.0.0")

    def model_metadata(self, name: str, version: str, workspace: str) -> ModelMetadata:
        if name not in ("delays", "a/b é", "asleep") or version not in ("", "1.0.0", "1.1.0"):
            raise NotFound(f"there is no endpoint {name!r}", code="endpoint_not_found")
        tensor = Tensor("x", "FP32", (-1, 2))
        return ModelMetadata(name, ("1.0.0", "1.1.0"), "phantom", (tensor,), (tensor,), "tail_num")

    def routed(self, workspace: str) -> Sequence[str]:
        return ["asleep", "delays", "gone"] if workspace == "default" else []


def answer(status: int, body: bytes = b"", **more: Any) -> Answer:
    return Answer(
        prediction_id=bytes(range(16)),
        status=status,
        body=body,
        revision="delays-prod.1",
        variant="candidate",
        route_version=7,
        **more,
    )


class Door:
    def __init__(
        self, gateway: FakeGateway, session: aiohttp.ClientSession, port: int, refused: list[str]
    ) -> None:
        self.gateway = gateway
        self.port = port
        self.refused = refused
        self._session = session

    async def __call__(self, method: str, path: str, **more: Any) -> tuple[int, Any, dict[str, str]]:
        async with self._session.request(method, f"http://127.0.0.1:{self.port}{path}", **more) as response:
            body = await response.read()
            headers = {name.lower(): value for name, value in response.headers.items()}
            is_json = headers.get("content-type") == "application/json"
            return response.status, orjson.loads(body) if is_json and body else body, headers

    async def infer(self, document: object = DOCUMENT, **more: Any) -> tuple[int, Any, dict[str, str]]:
        body = document if isinstance(document, bytes) else orjson.dumps(document)
        return await self("POST", "/v2/models/delays/infer", data=body, **more)

    async def raw(self, data: bytes, seconds: float = 5.0) -> bytes:
        """Everything that comes back on one connection until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), seconds)
        finally:
            writer.close()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    gateway, refused = FakeGateway(), []
    part = RestDoor(gateway, "127.0.0.1", 0, refused=refused.append, max_bytes=LIMIT)
    await part.start()
    # no automatic headers beyond HTTP's own, as foreign clients send them
    skipped = {"Content-Type", "User-Agent"}
    async with aiohttp.ClientSession(skip_auto_headers=skipped, auto_decompress=False) as session:
        yield Door(gateway, session, part.port, refused)
    await part.stop()


async def test_a_call_goes_through_with_its_headers(door: Door) -> None:
    headers = {
        "X-Tail-Num": "N12345",
        "Phantom-Workspace": "team",
        "phantom-override-revision": "delays-prod.2",
        "Authorization": "Bearer abc.def",
        "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
    }
    document = DOCUMENT | {"parameters": {"tail_num": "N9", "count": 5}}
    before = asyncio.get_running_loop().time()
    status, body, got = await door.infer(document, headers=headers)
    assert status == 200
    assert body == {
        "model_name": "delays",
        "model_version": "1.0.0",
        "id": "r-1",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}],
    }
    assert got["phantom-prediction-id"] == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert got["phantom-revision"] == "delays-prod.1"
    assert got["phantom-variant"] == "candidate"
    assert got["phantom-route-version"] == "7"
    (call,) = door.gateway.calls
    assert (call.model_name, call.model_version, call.request_id) == ("delays", "", "r-1")
    assert call.unit_metadata("x-tail-num") == "N12345"
    assert call.unit_metadata("x-other") is None
    assert (call.workspace, call.override_revision, call.token) == ("team", "delays-prod.2", "abc.def")
    assert call.traceparent.startswith("00-0123")
    assert call.parameter is not None
    assert (call.parameter("tail_num"), call.parameter("count"), call.parameter("none")) == ("N9", "5", None)
    assert 29 < call.deadline - before < 31
    assert door.refused == []


async def test_the_default_call_of_tritons_client_is_answered_in_binary(door: Door) -> None:
    blob = struct.pack("<2f", 1, 2)
    text = orjson.dumps(
        {
            "parameters": {"binary_data_output": True, "timeout": 2_000_000},
            "inputs": [
                {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
            ],
        }
    )
    before = asyncio.get_running_loop().time()
    status, body, headers = await door.infer(
        text + blob, headers={"Inference-Header-Content-Length": str(len(text))}
    )
    assert status == 200
    assert headers["content-type"] == "application/octet-stream"
    length = int(headers["inference-header-content-length"])
    assert body[length:] == blob
    assert orjson.loads(body[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert 1 < door.gateway.calls[0].deadline - before < 3


@pytest.mark.parametrize("timeout", [-1, 1.5, "5", True, 10**12])
async def test_a_timeout_that_cannot_be_kept_is_refused(door: Door, timeout: object) -> None:
    status, body, _ = await door.infer(DOCUMENT | {"parameters": {"timeout": timeout}})
    assert status == 400
    assert "timeout" in body["error"]


async def test_versions_and_quoted_names_reach_the_gateway(door: Door) -> None:
    status, _, _ = await door(
        "POST", "/v2/models/a%2Fb%20%C3%A9/versions/1.1.0/infer", data=orjson.dumps(DOCUMENT)
    )
    assert status == 200
    call = door.gateway.calls[0]
    assert (call.model_name, call.model_version) == ("a/b é", "1.1.0")
    assert ModelInferRequest.FromString(call.body).model_version == "1.1.0"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.Invalid("x"), 400, "invalid"),
        (errors.Refused("x", code="rolled_back"), 400, "rolled_back"),
        (errors.Unauthenticated("x"), 401, "unauthenticated"),
        (errors.Forbidden("x"), 403, "forbidden"),
        (errors.NotFound("x", code="endpoint_not_found"), 404, "endpoint_not_found"),
        (errors.Exhausted("x", code="overloaded"), 429, "overloaded"),
        (errors.Exhausted("x", code="request_too_large"), 413, "request_too_large"),
        (errors.Unsupported("x"), 501, "unsupported"),
        (errors.Unavailable("x", retry_after_s=2.2), 503, "unavailable"),
        (errors.DeadlineExceeded("x"), 504, "deadline_exceeded"),
        (PhantomError("x"), 500, "internal"),
    ],
)
async def test_errors_have_their_statuses(door: Door, error: PhantomError, status: int, code: str) -> None:
    door.gateway.error = error
    got, body, headers = await door.infer()
    assert (got, body) == (status, {"error": "x", "code": code})
    assert headers.get("retry-after") == ("3" if status == 503 else None)
    assert headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize(
    ("grpc_code", "status"),
    [(3, 400), (4, 504), (5, 404), (8, 429), (12, 501), (13, 500), (2, 500), (14, 503), (16, 401)],
)
async def test_a_failed_answer_has_its_status_and_its_headers(
    door: Door, grpc_code: int, status: int
) -> None:
    door.gateway.failure = answer(grpc_code, reason="because", message="it \udcff broke")
    got, body, headers = await door.infer()
    assert (got, body) == (status, {"error": "it ? broke", "code": "because"})
    assert headers["phantom-revision"] == "delays-prod.1"
    assert headers.get("retry-after") == ("1" if status == 503 else None)


async def test_an_answer_that_json_cannot_hold_is_501_with_the_headers_of_the_answer(door: Door) -> None:
    text = orjson.dumps(
        {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]}
    )
    status, body, headers = await door.infer(
        text + struct.pack("<f", float("inf")), headers={"Inference-Header-Content-Length": str(len(text))}
    )
    assert (status, body["code"]) == (501, "not_json")
    assert headers["phantom-prediction-id"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"not json", "invalid_json"),
        (b'{"inputs": [{"name": "\xff"}]}', "invalid_json"),
        (b"[]", "invalid_json"),
        (b"{}", "invalid_request"),
    ],
)
async def test_a_body_that_is_no_request_is_400_and_counted(door: Door, body: bytes, code: str) -> None:
    status, got, _ = await door.infer(body)
    assert (status, got["code"]) == (400, code)
    assert got["error"]
    assert door.refused == [code]
    assert door.gateway.calls == []


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "99999999999999", "²"])
async def test_a_wrong_json_length_is_400(door: Door, value: str) -> None:
    status, body, _ = await door.infer(headers={"Inference-Header-Content-Length": value})
    assert (status, body["code"]) == (400, "invalid_header")


async def test_health_is_what_every_client_wants(door: Door) -> None:
    assert (await door("GET", "/v2/health/live"))[:2] == (200, {"live": True})
    assert (await door("GET", "/v2/health/ready"))[:2] == (200, {"ready": True})
    door.gateway.is_ready = False
    status, body, headers = await door("GET", "/v2/health/ready")
    assert (status, body["ready"], headers["retry-after"]) == (503, False, "1")
    assert body["error"]


async def test_metadata_of_server_and_model(door: Door) -> None:
    status, body, _ = await door("GET", "/v2")
    assert (status, body) == (
        200,
        {"name": "phantom-inference-gateway", "version": "0.1.0", "extensions": ["binary_tensor_data"]},
    )
    for path in ("/v2/models/delays", "/v2/models/delays/versions/1.0.0"):
        status, body, _ = await door("GET", path)
        assert status == 200
        assert body["name"] == "delays"
        assert body["versions"] == ["1.0.0", "1.1.0"]
        assert body["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        assert body["parameters"] == {"hash_field": "tail_num"}
    assert (await door("GET", "/v2/models/nobody"))[0] == 404


@pytest.mark.parametrize(
    ("path", "status", "ready"),
    [
        ("/v2/models/delays/ready", 200, True),
        ("/v2/models/delays/versions/1.0.0/ready", 200, True),
        ("/v2/models/delays/versions/1.1.0/ready", 503, False),
        ("/v2/models/asleep/ready", 503, False),
        ("/v2/models/nobody/ready", 404, False),
        ("/v2/models/delays/versions/9/ready", 404, False),
    ],
)
async def test_readiness_of_a_model(door: Door, path: str, status: int, ready: bool) -> None:
    got, body, _ = await door("GET", path)
    assert (got, body["ready"]) == (status, ready)
    assert ready or (body["error"] and body["code"])


async def test_the_index_needs_no_body(door: Door) -> None:
    status, body, _ = await door("POST", "/v2/repository/index")
    assert status == 200
    assert [(each["name"], each["version"], each["state"]) for each in body] == [
        ("asleep", "1.0.0", "UNAVAILABLE"),
        ("asleep", "1.1.0", "UNAVAILABLE"),
        ("delays", "1.0.0", "READY"),
        ("delays", "1.1.0", "UNAVAILABLE"),
    ]
    _, body, _ = await door("POST", "/v2/repository/index", data=b'{"ready": true}')
    assert [(each["name"], each["version"]) for each in body] == [("delays", "1.0.0")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/models/delays/load"),
        ("POST", "/v2/repository/models/delays/unload"),
        ("GET", "/v2/models/delays/config"),
        ("GET", "/v2/models/delays/versions/1/stats"),
        ("POST", "/v2/models/delays/generate"),
        ("GET", "/v2/systemsharedmemory/status"),
    ],
)
async def test_what_is_not_offered_says_so(door: Door, method: str, path: str) -> None:
    status, body, _ = await door(method, path)
    assert status == 501
    assert len(body["error"]) > 20


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/models/delays", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/delays/nothing", 404),
        ("GET", "/v2/models/%FF/ready", 404),
        ("GET", "/v2/models/delays/infer", 405),
        ("GET", "/v2/repository/index", 405),
        ("POST", "/v2/health/live", 405),
        ("DELETE", "/v2/models/delays", 405),
    ],
)
async def test_wrong_addresses_and_methods_are_told(door: Door, method: str, path: str, status: int) -> None:
    got, body, headers = await door(method, path)
    assert got == status
    assert set(body) == {"error", "code"}
    assert ("allow" in headers) == (status == 405)


async def test_a_request_over_the_limit_is_413(door: Door) -> None:
    status, body, _ = await door.infer(bytes(LIMIT + 1))
    assert (status, body["code"]) == (413, "request_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(LIMIT // 10)

    status, body, _ = await door("POST", "/v2/models/delays/infer", data=chunks())
    assert (status, body["code"]) == (413, "request_too_large")
    assert door.refused == ["request_too_large"] * 2


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_packed_requests_are_read_within_the_bound(door: Door, encoding: str, pack: Any) -> None:
    headers = {"Content-Encoding": encoding}
    assert (await door.infer(pack(orjson.dumps(DOCUMENT)), headers=headers))[0] == 200
    status, body, _ = await door.infer(pack(bytes(LIMIT * 50)), headers=headers)
    assert (status, body["code"]) == (413, "request_too_large")
    whole = pack(orjson.dumps(DOCUMENT))
    for wrong in (whole[:-4], whole + b"more", b"junk", b""):
        status, body, _ = await door.infer(wrong, headers=headers)
        assert (status, body["code"]) == (400, "invalid_encoding")


async def test_other_encodings_are_refused(door: Door) -> None:
    status, body, _ = await door.infer(b"x", headers={"Content-Encoding": "br"})
    assert (status, body["code"]) == (501, "unsupported_encoding")


SMUGGLED = b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"Content-Length: +5\r\n\r\nabcde",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    ],
)
async def test_a_second_request_cannot_be_smuggled(door: Door, head: bytes) -> None:
    reply = await door.raw(b"POST /v2/models/delays/infer HTTP/1.1\r\nHost: x\r\n" + head + SMUGGLED)
    assert reply.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert reply.count(b"HTTP/1.") == 1
    assert b"phantom-inference-gateway" not in reply
    assert door.gateway.calls == []


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n"]
)
async def test_what_is_no_http_gets_a_json_error(door: Door, data: bytes) -> None:
    reply = await door.raw(data)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.")
    assert b" 400 " in head.splitlines()[0]
    assert set(orjson.loads(body)) == {"error", "code"}


async def test_a_client_that_asks_first_is_told_to_go_on(door: Door) -> None:
    body = orjson.dumps(DOCUMENT)
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = f"POST /v2/models/delays/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 100 ")
    writer.write(body)
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_an_unexpected_failure_is_500_and_json(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(call: Call) -> Answer:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(door.gateway, "infer", broken)
    status, body, _ = await door.infer()
    assert status == 500
    assert body == {"error": "the server failed", "code": "internal"}


async def test_a_taken_port_is_said(door: Door) -> None:
    with pytest.raises(Refused) as refused:
        await RestDoor(FakeGateway(), "127.0.0.1", door.port).start()
    assert refused.value.code == "address_in_use"
    assert "PHANTOM_GATEWAY_HTTP_PORT" in refused.value.message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/delays"),
        ("GET", "/v2/models/delays/versions/1.0.0"),
        ("GET", "/v2/models/delays/ready"),
        ("POST", "/v2/repository/index"),
    ],
)
async def test_another_workspace_needs_a_token_whatever_is_asked(door: Door, method: str, path: str) -> None:
    status, body, _ = await door(method, path, headers={"phantom-workspace": "team"})
    assert (status, body["code"]) == (401, "token_missing")
    headers = {"phantom-workspace": "team", "Authorization": "Bearer good"}
    status, _, _ = await door(method, path, headers=headers)
    assert status == 200
