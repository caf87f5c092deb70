"""The group's own little HTTP: what it answers, and what it refuses."""

import asyncio
import json
import socket

import pytest

from phantom_inference_gateway.domain.totals import Family
from phantom_inference_gateway.observation import Observation
from phantom_platform.errors import Refused

HOST = "127.0.0.1"


class Group:
    reasons: dict[str, str] = {}  # noqa: RUF012 - a test sets its own

    async def metrics(self):
        return [Family("calls_total", "counter", "Calls", {("calls_total", ()): 2.0})]

    async def standing(self):
        return self.reasons, ["look here"]


@pytest.fixture
async def group():
    return Group()


@pytest.fixture
async def observation(group):
    made = Observation(HOST, 0, group.metrics, group.standing)
    await made.start()
    yield made
    await made.stop()


async def ask(observation, request):
    """Status, head and body of the answer to these bytes."""
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(HOST, observation.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head.decode(), body.decode()


async def get(observation, path, method="GET"):
    return await ask(observation, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def test_it_answers_metrics_health_and_readiness(observation, group):
    status, head, body = await get(observation, "/metrics?x=1")
    assert (status, body) == (200, "# HELP calls_total Calls\n# TYPE calls_total counter\ncalls_total 2.0\n")
    assert "Content-Type: text/plain; version=0.0.4" in head
    status, head, body = await get(observation, "/metrics", "HEAD")
    assert (status, body) == (200, "")
    assert "Content-Length: 68" in head
    assert (await get(observation, "/health"))[0] == 200
    status, _, body = await get(observation, "/ready")
    assert (status, json.loads(body)) == (200, {"ready": True, "reasons": {}, "attention": ["look here"]})
    group.reasons = {"worker 0-1": "starting"}
    status, _, body = await get(observation, "/ready")
    assert (status, json.loads(body)["reasons"]) == (503, {"worker 0-1": "starting"})


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 400),
    ],
)
async def test_what_is_not_offered_is_refused(observation, request_bytes, status):
    assert (await ask(observation, request_bytes))[0] == status


async def test_a_client_that_goes_away_does_no_harm(observation):
    _, writer = await asyncio.open_connection(HOST, observation.port)
    writer.write(b"GET /met")
    writer.close()
    assert (await get(observation, "/health"))[0] == 200


async def test_a_taken_port_is_refused_with_what_to_do(group):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(Refused, match="PHANTOM_GATEWAY_METRICS_PORT") as refused:
            await Observation(HOST, taken.getsockname()[1], group.metrics, group.standing).start()
    assert refused.value.code == "address_in_use"
