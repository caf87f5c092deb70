"""Bad requests: each gets its exact status and code, names what is wrong, and hurts nobody else."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest

from harness import oip
from phantom_ml_studio import oip as messages

if TYPE_CHECKING:
    from harness.stack import Stack
    from phantom_ml_studio.values import Deployment

HALF = struct.pack("<d", 0.5)
MIB = 1 << 20


def tensor(
    model: str,
    name: str = "amount",
    datatype: str = "FP64",
    shape: tuple[int, ...] = (1, 1),
    raw: bytes = HALF,
) -> Any:
    """A request of one raw tensor, whatever it says."""
    return added(messages.message("ModelInferRequest")(model_name=model), name, datatype, shape, raw)


def added(message: Any, name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> Any:
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    message.raw_input_contents.append(raw)
    return message


def typed_and_raw(model: str) -> Any:
    message = tensor(model)
    message.inputs[0].contents.fp64_contents.append(1.0)
    return message


def text(length: int, content: bytes) -> bytes:
    return struct.pack("<I", length) + content


def channel(model: str, raw: bytes) -> Any:
    return added(tensor(model), "channel", "BYTES", (1, 1), raw)


def good(model: str) -> Any:
    return oip.request(model, {"amount": [0.5], "channel": ["web"]})


def renamed(model: str) -> bytes:
    """A message whose model name is no UTF-8."""
    return b"\x0a\x03\xff\xfe\xfd" + good(model).SerializeToString()[2 + len(model) :]


Case = tuple[Callable[[str], Any], str, str, str]
# What is sent to the endpoint (a number `amount` that must be there, a category `channel`): status, code, a word.
CASES: dict[str, Case] = {
    "unknown endpoint": (lambda m: tensor("nothing"), "NOT_FOUND", "endpoint_not_found", "'nothing'"),
    "no endpoint": (lambda m: b"", "NOT_FOUND", "endpoint_not_found", "''"),
    "a name of a megabyte": (lambda m: tensor("n" * MIB), "NOT_FOUND", "endpoint_not_found", "nnn..."),
    "unknown version": (
        lambda m: oip.request(m, {"amount": [0.5]}, version="9"),
        "NOT_FOUND",
        "version_not_found",
        "1.0.0",
    ),
    "wrong tensor name": (
        lambda m: added(tensor(m), "colour", "FP64", (1, 1), HALF),
        "INVALID_ARGUMENT",
        "unknown_feature",
        "'colour'",
    ),
    "a tensor twice": (
        lambda m: added(tensor(m), "amount", "FP64", (1, 1), HALF),
        "INVALID_ARGUMENT",
        "duplicate_tensor",
        "'amount'",
    ),
    "a required one missing": (
        lambda m: oip.request(m, {"channel": ["web"]}),
        "INVALID_ARGUMENT",
        "missing_feature",
        "'amount'",
    ),
    "no tensor": (
        lambda m: messages.message("ModelInferRequest")(model_name=m),
        "INVALID_ARGUMENT",
        "missing_feature",
        "amount, channel",
    ),
    "wrong shape": (
        lambda m: tensor(m, shape=(1, 3), raw=HALF * 3),
        "INVALID_ARGUMENT",
        "wrong_shape",
        "[1, 3]",
    ),
    "three dimensions": (
        lambda m: tensor(m, shape=(1, 1, 1)),
        "INVALID_ARGUMENT",
        "wrong_shape",
        "[1, 1, 1]",
    ),
    "negative shape": (lambda m: tensor(m, shape=(-1, 1)), "INVALID_ARGUMENT", "wrong_shape", "-1"),
    "no rows": (lambda m: tensor(m, shape=(0, 1), raw=b""), "INVALID_ARGUMENT", "wrong_shape", "0 rows"),
    "a shape beyond 64 bits": (
        lambda m: tensor(m, shape=(2**62, 4)),
        "INVALID_ARGUMENT",
        "wrong_shape",
        "'amount'",
    ),
    "rows that differ": (
        lambda m: added(tensor(m, shape=(2, 1), raw=HALF * 2), "channel", "BYTES", (1, 1), text(3, b"web")),
        "INVALID_ARGUMENT",
        "wrong_shape",
        "'channel'",
    ),
    "text for a number": (
        lambda m: tensor(m, datatype="BYTES", raw=text(1, b"x")),
        "INVALID_ARGUMENT",
        "wrong_datatype",
        "'BYTES'",
    ),
    "a number for text": (
        lambda m: added(tensor(m), "channel", "FP64", (1, 1), HALF),
        "INVALID_ARGUMENT",
        "wrong_datatype",
        "'channel'",
    ),
    "unknown datatype": (
        lambda m: tensor(m, datatype="FP99"),
        "INVALID_ARGUMENT",
        "wrong_datatype",
        "'FP99'",
    ),
    "too few bytes": (lambda m: tensor(m, raw=b"1234"), "INVALID_ARGUMENT", "wrong_length", "got 4 bytes"),
    "too many bytes": (lambda m: tensor(m, raw=HALF * 2), "INVALID_ARGUMENT", "wrong_length", "got 16 bytes"),
    "a text's length beyond its bytes": (
        lambda m: channel(m, text(99, b"web")),
        "INVALID_ARGUMENT",
        "wrong_length",
        "'channel'",
    ),
    "a tensor without bytes": (
        lambda m: (
            (message := tensor(m)).inputs.add(name="channel", datatype="BYTES", shape=[1, 1]) and message
        ),
        "INVALID_ARGUMENT",
        "wrong_length",
        "raw_input_contents",
    ),
    "typed beside raw": (typed_and_raw, "INVALID_ARGUMENT", "mixed_contents", "'amount'"),
    "NaN where the model forbids it": (
        lambda m: tensor(m, raw=struct.pack("<d", float("nan"))),
        "INVALID_ARGUMENT",
        "missing_value",
        "'amount'",
    ),
    "text that is no UTF-8": (
        lambda m: channel(m, text(2, b"\xff\xfe")),
        "INVALID_ARGUMENT",
        "invalid_utf8",
        "'channel'",
    ),
    "a name that is no UTF-8": (renamed, "INVALID_ARGUMENT", "unparsable_request", "model_name"),
    "truncated protobuf": (
        lambda m: good(m).SerializeToString()[:-3],
        "INVALID_ARGUMENT",
        "unparsable_request",
        "ModelInferRequest",
    ),
    "garbage": (lambda m: b"\xff" * 20, "INVALID_ARGUMENT", "unparsable_request", "ModelInferRequest"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_request_gets_its_status_its_code_and_a_word_on_what_is_wrong(
    case: str, mixed: Deployment, door: oip.Door
) -> None:
    make, status, code, word = CASES[case]
    message = make(mixed.id)
    with pytest.raises(grpc.RpcError) as refused:
        door.infer(message)
    found = oip.failure(refused.value)
    assert (found.status, found.code) == (status, code), found
    assert word in found.message
    assert len(found.message) < 1000


def test_on_a_stream_bad_requests_fail_alone(mixed: Deployment, door: oip.Door) -> None:
    bad = [make(mixed.id) for make, *_ in CASES.values()]
    messages_sent: list[Any] = []
    for n, each in enumerate(bad):
        messages_sent += [each, oip.request(mixed.id, {"amount": [0.9], "channel": ["web"]}, id=f"good-{n}")]
    answers = door.stream(messages_sent)
    assert len(answers) == 2 * len(bad)
    served = [a for a in answers if not a.error_message]
    assert {a.infer_response.id for a in served} == {f"good-{n}" for n in range(len(bad))}
    reasons = [a.infer_response.parameters["phantom_reason"].string_param for a in answers if a.error_message]
    assert sorted(reasons) == sorted(code for _, _, code, _ in CASES.values())


def test_a_request_beyond_64_mib_is_refused_by_both_doors(mixed: Deployment, door: oip.Door) -> None:
    big = tensor(mixed.id, shape=(65 * MIB // 8, 1), raw=bytes(65 * MIB))
    with pytest.raises(grpc.RpcError) as refused:
        door.infer(big)
    assert oip.failure(refused.value).status == "RESOURCE_EXHAUSTED"
    posted = door.rest.post(f"/v2/models/{mixed.id}/infer", content=bytes(65 * MIB))
    assert posted.status_code == 413
    assert posted.json()["code"] == "request_too_large"
    assert door.infer(good(mixed.id)).texts("label") == ["low"]


def column(**changes: Any) -> dict[str, Any]:
    """The tensor `amount` as JSON."""
    return {"name": "amount", "datatype": "FP64", "shape": [1], "data": [0.5], **changes}


NAN = b'{"inputs":[{"name":"amount","datatype":"FP64","shape":[1],"data":[NaN]}]}'
POSTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "not JSON": ({"content": b"{"}, 400, "invalid_json"),
    "no UTF-8": ({"content": b'{"inputs":"\xff"}'}, 400, "invalid_json"),
    "no object": ({"json": [1]}, 400, "invalid_json"),
    "NaN, which is not JSON": ({"content": NAN}, 400, "invalid_json"),
    "no inputs": ({"json": {}}, 400, "invalid_request"),
    "wrong tensor name": ({"json": {"inputs": [column(name="colour")]}}, 400, "unknown_feature"),
    "wrong shape": ({"json": {"inputs": [column(shape=[2])]}}, 400, "wrong_shape"),
    "wrong datatype": ({"json": {"inputs": [column(datatype="BYTES", data=["x"])]}}, 400, "wrong_datatype"),
    "text for a number": ({"json": {"inputs": [column(data=["x"])]}}, 400, "wrong_value"),
    "null where the model forbids it": ({"json": {"inputs": [column(data=[None])]}}, 400, "missing_value"),
    "a header beyond the body": (
        {"content": b"{}", "headers": {"inference-header-content-length": "99"}},
        400,
        "invalid_header",
    ),
}


@pytest.mark.parametrize("case", POSTS)
def test_a_bad_post_gets_its_status_its_code_and_an_error_text(
    case: str, mixed: Deployment, door: oip.Door
) -> None:
    sent, status, code = POSTS[case]
    answer = door.rest.post(f"/v2/models/{mixed.id}/infer", **sent)
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert body["error"]


def test_unknown_paths_and_endpoints_are_told_apart(mixed: Deployment, door: oip.Door) -> None:
    unknown = door.rest.post("/v2/models/nothing/infer", json={"inputs": [column()]})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "endpoint_not_found")
    version = door.rest.post(f"/v2/models/{mixed.id}/versions/9/infer", json={"inputs": [column()]})
    assert (version.status_code, version.json()["code"]) == (404, "version_not_found")
    path = door.rest.get("/v1/models")
    assert path.status_code == 404
    assert door.rest.get(f"/v2/models/{mixed.id}/infer").status_code == 405


def test_a_length_beside_chunks_is_refused_instead_of_smuggling_a_request(
    stack: Stack, mixed: Deployment
) -> None:
    host, port = stack.http.split(":")
    head = f"POST /v2/models/{mixed.id}/infer HTTP/1.1\r\nHost: {stack.http}\r\n"
    both = (
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall((head + both).encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert b" 400 " in answer.splitlines()[0]
    assert answer.count(b"HTTP/1.") == 1


def test_clients_that_cancel_or_vanish_leave_everybody_else_served(
    stack: Stack, shop: Deployment, door: oip.Door
) -> None:
    rows = 200_000
    big = tensor(shop.id, "features", "FP64", (rows, 2), HALF * 2 * rows).SerializeToString()
    calls = [door.channel.unary_unary(f"{oip.SERVICE}/ModelInfer").future(big, timeout=30) for _ in range(4)]
    for call in calls:
        call.cancel()
    assert all(call.cancelled() or call.code() is grpc.StatusCode.OK for call in calls)
    host, port = stack.http.split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /v2/models/x/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
            )
    for _ in range(20):
        assert door.infer(oip.request(shop.id, {"amount": [0.1], "hour": [0.5]})).texts("label") == ["low"]
    assert httpx.get(f"http://{stack.http}/v2/health/ready").status_code == 200
    # Anybody can do this: it is no failure of ours.
    assert "http_failed" not in stack.logs()


def test_a_deadline_that_passes_is_told_as_such(shop: Deployment, door: oip.Door) -> None:
    rows = 400_000
    message = tensor(shop.id, "features", "FP64", (rows, 2), HALF * 2 * rows)
    message.parameters["timeout"].int64_param = 1000  # µs, as Triton's clients say it
    with pytest.raises(grpc.RpcError) as late:
        door.infer(message)
    assert oip.failure(late.value).status == "DEADLINE_EXCEEDED"


async def test_a_burst_of_1500_simultaneous_calls_is_answered_to_the_last(
    stack: Stack, shop: Deployment
) -> None:
    body = oip.request(shop.id, {"amount": [0.9], "hour": [0.5]}).SerializeToString()
    async with grpc.aio.insecure_channel(stack.grpc) as channel:
        infer = channel.unary_unary(f"{oip.SERVICE}/ModelInfer")
        answers = await asyncio.gather(
            *(infer(body, timeout=60) for _ in range(1500)), return_exceptions=True
        )
    failed = [a for a in answers if isinstance(a, BaseException)]
    assert not failed, f"{len(failed)} failed, the first: {failed[0]!r}"
    assert len(answers) == 1500
