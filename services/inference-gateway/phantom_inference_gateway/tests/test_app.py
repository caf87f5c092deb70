"""The whole process against a real Kafka: joins, reads, serves, acknowledges, logs, leaves."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from contextlib import asynccontextmanager

import grpc
import pytest

from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc as oip_grpc
from phantom.predictions.v1 import prediction_batch_pb2 as predictions
from phantom_contracts import topics
from phantom_inference_gateway.app import build
from phantom_inference_gateway.settings import GatewaySettings
from phantom_inference_gateway.tests import fakes
from phantom_inference_gateway.tests.fakes import FakeModelServer, until
from phantom_inference_gateway.tests.kafka_sides import deployer, records

pytestmark = pytest.mark.integration
SETTINGS = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}


@pytest.fixture
def endpoint():
    """A name of its own: topics outlive a test."""
    return f"f-{uuid.uuid4().hex[:8]}"


def route(endpoint, *revisions, **changes):
    return fakes.route(*revisions, endpoint=endpoint, aliases=(), **changes)


@asynccontextmanager
async def gateway(bootstrap, data_dir, **changes):
    app = build(GatewaySettings(**SETTINGS | changes), bootstrap, data_dir)
    async with asyncio.timeout(60):
        await app.start()
    try:
        yield app
    finally:
        async with asyncio.timeout(60):
            await app.stop()


async def ask(port, endpoint, request_id, **parameters):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = oip.ModelInferRequest(model_name=endpoint, id=request_id)
        for name, value in parameters.items():
            request.parameters[name].string_param = value
        call = oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        await call
        return dict(await call.initial_metadata())


async def ready(port):
    def get():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    return await asyncio.to_thread(get)


def acked(found, boot_id):
    return [
        (dict(each.headers)["ce_type"].decode().split(".")[2], json.loads(each.value))
        for each in found
        if each.key == boot_id.encode()
    ]


async def test_it_joins_serves_acknowledges_logs_and_leaves(kafka_bootstrap, tmp_path, endpoint):
    one = await FakeModelServer("r1", "f.1").start()
    two = await FakeModelServer("r2", "f.2").start()
    try:
        async with deployer(kafka_bootstrap) as publish:
            await publish(route(endpoint, ("f.1", [one])))
            async with gateway(kafka_bootstrap, tmp_path) as app:
                boot_id = app.boot_id
                headers = await ask(app.grpc.port, endpoint, "q1", tail_number="N1")
                assert headers["phantom-route-version"] == "1"
                assert (await ready(app.observation.port))[0] == 200
                loop = asyncio.get_running_loop()
                started = loop.time()
                await publish(
                    route(endpoint, ("f.1", [one]), ("f.2", [two]), version=2, candidate="f.2", share=10_000)
                )
                await until(lambda: app.routes.progress()[f"default/{endpoint}"].applied == 2)
                assert loop.time() - started < 1.0
                headers = await ask(app.grpc.port, endpoint, "q2", tail_number="N1")
                assert (headers["phantom-variant"], headers["phantom-revision"]) == ("candidate", "f.2")
                await publish(route(endpoint, ("f.1", [one]), version=3), value=b"garbage")
                await until(lambda: any("version 3" in each for each in app.attention()))
                assert f"version 3 of default/{endpoint} cannot be served" in " ".join(app.attention())
                assert (await ask(app.grpc.port, endpoint, "q3"))["phantom-route-version"] == "2"
                await records(
                    kafka_bootstrap,
                    topics.ROUTE_ACKS,
                    lambda found: any(
                        kind == "GatewayHeartbeat"
                        and event["endpoints"].get(f"default/{endpoint}", {}).get("drained") == 2
                        for kind, event in acked(found, boot_id)
                    ),
                )
            found = await records(
                kafka_bootstrap,
                topics.ROUTE_ACKS,
                lambda found: any(kind == "GatewayLeft" for kind, _ in acked(found, boot_id)),
            )
            kinds = [kind for kind, _ in acked(found, boot_id)]
            assert (kinds[0], kinds[-1]) == ("GatewayJoined", "GatewayLeft")

            def calls(found):
                ours = [each.value for each in found if each.key == f"default/{endpoint}".encode()]
                batches = [predictions.PredictionBatch.FromString(each) for each in ours]
                return [each for batch in batches if batch.boot_id == boot_id for each in batch.request_ids]

            logged = await records(kafka_bootstrap, topics.PREDICTIONS, lambda found: len(calls(found)) >= 3)
            assert sorted(calls(logged)) == ["q1", "q2", "q3"]
    finally:
        await one.kill()
        await two.kill()


async def test_without_kafka_it_serves_from_its_snapshot_and_says_so(kafka_bootstrap, tmp_path, endpoint):
    one = await FakeModelServer("r1", "f.1").start()
    try:
        async with deployer(kafka_bootstrap) as publish:
            await publish(route(endpoint, ("f.1", [one]), version=50))
        async with gateway(kafka_bootstrap, tmp_path):
            pass
        async with gateway("127.0.0.1:1", tmp_path, kafka_patience_s=1.0) as app:
            assert (await ask(app.grpc.port, endpoint, "q"))["phantom-route-version"] == "50"
            status, body = await ready(app.observation.port)
            assert status == 200
            assert "snapshot" in " ".join(body["attention"])
            await one.kill()
            await until(lambda: app.gateway.model_ready(endpoint, "", "default") is False)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(app.grpc.port, endpoint, "q")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "snapshot" in refused.value.details()
    finally:
        await one.kill()


async def test_without_kafka_and_snapshot_it_is_not_ready(tmp_path):
    async with gateway("127.0.0.1:1", tmp_path, kafka_patience_s=0.1) as app:
        status, body = await ready(app.observation.port)
        assert status == 503
        assert "no snapshot" in body["reasons"]["routes"]
        assert not app.gateway.server_ready()


async def test_while_it_starts_it_says_what_it_waits_for(tmp_path):
    app = build(GatewaySettings(**SETTINGS | {"kafka_patience_s": 30.0}), "127.0.0.1:1", tmp_path)
    starting = asyncio.create_task(app.start())
    try:
        await until(lambda: app.observation.port)
        async with asyncio.timeout(20):
            while "routes" not in (found := await ready(app.observation.port))[1]["reasons"]:
                pass
        status, body = found
        assert (status, body["reasons"]["lifecycle"]) == (503, "starting")
        assert body["reasons"]["routes"].startswith("joining through Kafka")
        assert "snapshot" not in " ".join(body["attention"])
    finally:
        starting.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait([starting])


async def test_a_taken_port_is_refused_with_what_to_do(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        app = build(
            GatewaySettings(**SETTINGS | {"grpc_port": taken.getsockname()[1], "kafka_patience_s": 0.0}),
            "127.0.0.1:1",
            tmp_path,
        )
        with pytest.raises(Exception, match="PHANTOM_GATEWAY_GRPC_PORT"):
            await app.start()


async def test_sigterm_finishes_calls_and_exits_0(kafka_bootstrap, tmp_path, endpoint):
    one = await FakeModelServer("r1", "f.1").start()
    ports = []
    for _ in range(3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(str(free.getsockname()[1]))
    async with deployer(kafka_bootstrap) as publish:
        await publish(route(endpoint, ("f.1", [one]), version=100))
    env = os.environ | {
        "PHANTOM_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "PHANTOM_DATA_DIR": str(tmp_path),
        **dict(zip(("PHANTOM_GATEWAY_GRPC_PORT", "PHANTOM_GATEWAY_HTTP_PORT", "PHANTOM_GATEWAY_METRICS_PORT"), ports,
                   strict=True)),
    }  # fmt: skip
    with (tmp_path / "log").open("w") as out:
        process = subprocess.Popen(  # noqa: ASYNC220 - it only starts it
            [sys.executable, "-m", "phantom_inference_gateway"], env=env, stdout=out, stderr=out
        )
    try:
        async with asyncio.timeout(40):
            while True:
                try:
                    await ask(ports[0], endpoint, "first")
                    break
                except grpc.aio.AioRpcError:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    await asyncio.sleep(0.1)
        one.answers.clear()
        last = asyncio.create_task(ask(ports[0], endpoint, "last"))
        await one.got(2)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        one.answers.set()
        assert (await last)["phantom-revision"] == "f.1"
        assert await asyncio.to_thread(process.wait, 30) == 0
    finally:
        process.kill()
        process.wait()
        await one.kill()
