"""The real process, from its launch file to its exit code."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc as oip_stubs
from phantom.modelserver.v1 import model_server_service_pb2 as pb
from phantom.modelserver.v1 import model_server_service_pb2_grpc as stubs
from phantom.predictions.v1.prediction_batch_pb2 import Block
from phantom_contracts.launch import EXIT_FAILED, EXIT_LOCKED, EXIT_RETRY
from phantom_model_server.tests.conftest import DRAIN_KEY, Gateway, channel_to, gateway, request

ROW = [[0.5, 13, 1, 2.0]]


def fetch(replica, path):
    with urllib.request.urlopen(f"http://{replica.file().http_address}{path}", timeout=10) as answer:
        return answer.status, answer.read().decode()


async def test_a_replica_says_who_it_is_answers_and_ends_on_sigterm(replica):
    one = replica().start()
    file = one.file()
    assert (file.state, file.launch_id, file.pid) == ("ready", "launch-0", one.process.pid)
    assert file.digest == one.launch["artifact"]["digest"]
    async with channel_to(one) as channel:
        described = await stubs.ModelServerServiceStub(channel).Describe(pb.DescribeRequest())
        assert (described.replica_id, described.revision, described.state) == (
            one.launch["replica_id"],
            "flights-prod.1",
            "ready",
        )
        assert (described.pid, described.digest) == (one.process.pid, file.digest)
    async with gateway(one) as stream:
        frame = await stream.ask(request(ROW), request(ROW, request_id="r2"))
        answers = [oip.ModelInferResponse.FromString(each) for each in frame.responses]
        assert [answer.id for answer in answers] == ["r1", "r2"]
        assert answers[0].model_version == "1.0.0"
        assert len(frame.blocks) == 1
        assert list(frame.blocks[0].calls) == [0, 1]
        one.terminate()
        assert (await stream.read()).draining.route_record == b""
        await stream.close()
    assert one.ended() == 0
    assert one.file().state == "stopped"


def test_the_lock_file_names_the_process(replica):
    one = replica().start()
    assert Path(one.launch["lock_path"]).read_text() == f"{one.process.pid}\n"


def test_a_replica_starts_quickly_and_stays_small(replica):
    started = time.monotonic()
    one = replica().start()
    took = time.monotonic() - started
    used = psutil.Process(one.process.pid).memory_info().rss / 2**20
    assert used < 200
    assert took < 10  # about 1 s on an idle machine
    modules = psutil.Process(one.process.pid).memory_maps()
    assert not [each.path for each in modules if "sklearn" in each.path or "asyncpg" in each.path]


async def test_health_readiness_and_metrics_are_served(replica):
    one = replica().start()
    async with gateway(one) as stream:
        await stream.ask(request(ROW), b"\xff\xff", remaining_ms=[1000, 1000])
        assert fetch(one, "/health") == (200, '{"live": true}')
        assert json.loads(fetch(one, "/ready")[1])["ready"] is True
        text = fetch(one, "/metrics")[1]
        assert 'phantom_model_calls_total{code="0"} 1.0' in text
        assert 'phantom_model_calls_total{code="3"} 1.0' in text
        assert 'phantom_model_refusals_total{reason="unparsable_request"} 1.0' in text
        assert "phantom_model_open_streams 1.0" in text
        assert 'runtime="xgboost"' in text
        one.terminate()
        await stream.read()
        with pytest.raises(urllib.error.HTTPError) as caught:
            fetch(one, "/ready")
        assert caught.value.code == 503
        await stream.close()
    assert one.ended() == 0


@pytest.mark.parametrize(("pinned", "answered"), [("auto", "onnxruntime"), ("native", "xgboost")])
async def test_the_runtime_that_answered_stands_in_the_record(pinned, answered, replica):
    one = replica(runtime=pinned).start()
    async with gateway(one) as stream:
        (packed,) = (await stream.ask(request(ROW))).blocks
        assert Block.FromString(packed.block).runtime == answered
        (packed,) = (await stream.ask(request(ROW * 500))).blocks
        assert Block.FromString(packed.block).runtime == "xgboost"
    metric = next(
        line for line in fetch(one, "/metrics")[1].splitlines() if line.startswith("phantom_model_onnx_rows{")
    )
    async with channel_to(one) as channel:
        told = await stubs.ModelServerServiceStub(channel).Describe(pb.DescribeRequest())
        assert told.runtime == "xgboost"
        assert f'{{reason="{told.onnx_reason}"}} {float(told.onnx_rows)}' in metric
    if pinned == "native":
        assert metric == 'phantom_model_onnx_rows{reason="pinned to XGBoost"} 0.0'
    else:
        assert "alike on 10000" in metric


def test_a_second_process_for_the_same_replica_exits_and_touches_nothing(replica):
    one = replica().start()
    before = one.path.read_bytes()
    second = one.spawn()
    assert second.wait(30) == EXIT_LOCKED
    assert one.path.read_bytes() == before
    assert one.process.poll() is None


def test_a_watchers_probe_of_the_lock_does_not_stop_a_start(replica):
    one = replica()
    with open(one.launch["lock_path"], "ab") as probe:
        fcntl.flock(probe, fcntl.LOCK_SH)
        one.process = one.spawn()
        time.sleep(0.7)  # longer than a probe takes, shorter than the retries last
        assert not one.path.exists()
        fcntl.flock(probe, fcntl.LOCK_UN)
    until = time.monotonic() + 20
    while not one.path.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert one.file().state == "ready"


def test_a_killed_replicas_lock_is_free(replica):
    one = replica().start()
    one.process.kill()
    one.ended()
    with open(one.launch["lock_path"], "ab") as probe:
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    one.path.unlink()
    one.start()
    assert one.file().state == "ready"


def failed(one):
    one.process = one.spawn()
    code = one.ended()
    return code, one.file()


def test_bytes_that_do_not_match_their_digest_are_not_loaded(replica, artifacts):
    one = replica()
    sha256 = "ab" * 32
    path = one.folder / "store" / "sha256" / "ab" / sha256
    path.parent.mkdir(parents=True)
    shutil.copy(artifacts[1]["numeric"][1], path)
    one.launch["artifacts_dir"] = one.folder / "store"
    one.launch["artifact"]["digest"] = f"sha256:{sha256}"
    code, file = failed(one)
    assert (code, file.state, file.error_code) == (EXIT_FAILED, "failed", "digest_mismatch")
    assert file.digest == f"sha256:{artifacts[1]['numeric'][2]}"
    assert "was registered; it is not loaded" in file.error_message


def test_a_corrupt_model_fails_for_good_and_says_why(replica):
    import hashlib

    one = replica()
    content = b'{"learner": {}}'
    sha256 = hashlib.sha256(content).hexdigest()
    path = one.folder / "store" / "sha256" / sha256[:2] / sha256
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    one.launch["artifacts_dir"] = one.folder / "store"
    one.launch["artifact"]["digest"] = f"sha256:{sha256}"
    code, file = failed(one)
    assert (code, file.state, file.error_code) == (EXIT_FAILED, "failed", "corrupt_model")
    assert "learner_model_param" in file.error_message


def test_a_schema_that_is_not_the_models_fails_for_good(replica):
    one = replica()
    one.launch["model_schema"]["features"] = one.launch["model_schema"]["features"][:3]
    code, file = failed(one)
    assert (code, file.error_code) == (EXIT_FAILED, "schema_mismatch")


def test_a_taken_address_may_be_tried_again(replica):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, file = failed(replica(port=taken.getsockname()[1]))
    assert (code, file.state, file.error_code) == (EXIT_RETRY, "failed", "address_in_use")


def test_an_artifact_that_nobody_has_fails_for_good_without_a_registry(replica):
    one = replica()
    one.launch["artifact"]["digest"] = f"sha256:{'cd' * 32}"
    code, file = failed(one)
    assert (code, file.error_code, file.digest) == (EXIT_FAILED, "artifact_not_found", "")


def test_a_registry_that_is_away_may_be_tried_again(replica):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    one = replica(registry_address=address)
    one.launch["artifact"]["digest"] = f"sha256:{'cd' * 32}"
    code, file = failed(one)
    assert (code, file.error_code) == (EXIT_RETRY, "registry_unavailable")


@pytest.mark.parametrize("content", ["{", '{"replica_id": "x"}'])
def test_a_broken_launch_file_is_refused_by_field(content, replica):
    import subprocess
    import sys

    one = replica()
    path = one.folder / "broken.json"
    path.write_text(content)
    ended = subprocess.run(
        [sys.executable, "-m", "phantom_model_server", "--launch", str(path)],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == EXIT_FAILED
    assert b"launch_file_invalid" in ended.stderr


async def test_a_stream_that_means_another_replica_is_refused(replica):
    one = replica().start()
    for wrong in ({"replica_id": "flights-prod.1-9"}, {"revision": "flights-prod.2"}):
        async with channel_to(one) as channel:
            call = stubs.ModelServerServiceStub(channel).Frames()
            with pytest.raises(grpc.aio.AioRpcError):
                await Gateway(call).open(one, **wrong)
            assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "this is replica flights-prod.1-0" in await call.details()
            details = dict(await call.trailing_metadata())["grpc-status-details-bin"]
            assert b"wrong_replica" in details


async def test_a_stream_that_does_not_begin_with_open_is_refused(replica):
    one = replica().start()
    async with channel_to(one) as channel:
        call = stubs.ModelServerServiceStub(channel).Frames()
        await call.write(pb.FramesRequest(frame=pb.RequestFrame(sequence=1)))
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_drain_sends_the_route_record_and_waits_for_the_gateways(replica):
    one = replica().start()
    async with gateway(one) as first, gateway(one) as second, channel_to(one) as channel:
        stub = stubs.ModelServerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Drain(pb.DrainRequest(drain_key="wrong"))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        told = await stub.Drain(pb.DrainRequest(route_record=b'{"route": 7}', drain_key=DRAIN_KEY))
        assert told.open_streams == 2
        for stream in (first, second):
            assert (await stream.read()).draining.route_record == b'{"route": 7}'
        refused = await first.ask(request(ROW), request(ROW))
        assert list(refused.codes) == [14, 14]
        assert {error.reason for error in refused.errors} == {"draining"}
        assert (await stub.Describe(pb.DescribeRequest())).state == "draining"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await oip_stubs.GRPCInferenceServiceStub(channel).ModelInfer(request(ROW))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await first.close()
        await asyncio.sleep(0.3)
        assert one.process.poll() is None  # the second gateway's stream is still open
        async with gateway(one) as late:  # a gateway that starts with an old route is told at once
            assert (await late.read()).draining.route_record == b'{"route": 7}'
            await late.close()
        await second.close()
        assert await asyncio.to_thread(one.ended) == 0
    assert one.file().state == "stopped"


async def test_a_gateway_that_never_closes_is_waited_for_no_longer_than_the_timeout(replica):
    one = replica().start()
    async with gateway(one) as stream, channel_to(one) as channel:
        drain = pb.DrainRequest(drain_key=DRAIN_KEY, timeout_ms=700)
        started = time.monotonic()
        await stubs.ModelServerServiceStub(channel).Drain(drain)
        await stream.read()
        assert await asyncio.to_thread(one.ended) == 0
        assert 0.6 < time.monotonic() - started < 10
    assert "drain_timeout" in one.log


async def test_sigterm_in_the_middle_of_work_loses_no_call(replica):
    one = replica().start()
    rows = np.tile(np.float32(ROW), (60_000, 1))
    async with gateway(one) as stream:
        large = [await stream.send(request(rows)) for _ in range(4)]
        one.terminate()
        small = await stream.send(request(ROW))
        answered, refused, told = set(), set(), 0
        while len(answered) + len(refused) < 5:
            message = await stream.read()
            if message.WhichOneof("message") == "draining":
                told += 1
                continue
            frame = message.frame
            if list(frame.codes):
                assert list(frame.codes) == [14]
                assert frame.errors[0].reason == "draining"
                refused.add(frame.sequence)
            else:
                answered.add(frame.sequence)
                assert sum(sum(block.rows) for block in frame.blocks) in (60_000, 1)
        assert answered | refused == {*large, small}
        await stream.close()
    assert await asyncio.to_thread(one.ended) == 0


async def test_sigterm_before_it_is_ready_ends_it(replica):
    """It hangs in a download from a registry that never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        one = replica(registry_address=f"127.0.0.1:{silent.getsockname()[1]}")
        one.launch["artifact"]["digest"] = f"sha256:{'cd' * 32}"
        one.process = one.spawn()
        connection, _ = await asyncio.to_thread(silent.accept)
        os.kill(one.process.pid, signal.SIGTERM)
        assert await asyncio.to_thread(one.ended) == 0
        connection.close()
    assert one.file().state == "stopped"


@pytest.mark.parametrize("kind", ["onnx", "skops", "pickle"])
def test_a_replica_serves_every_framework(kind, replica):
    import hashlib
    import io

    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(200, 4)).astype(np.float32)
    model = LogisticRegression().fit(matrix, np.where(matrix[:, 0] > 0, "late", "on_time"))
    if kind == "onnx":
        content = to_onnx(model, matrix[:1], options={"zipmap": False}).SerializeToString()
    elif kind == "skops":
        import skops.io

        content = skops.io.dumps(model)
    else:
        import joblib

        joblib.dump(model, buffer := io.BytesIO())
        content = buffer.getvalue()
    one = replica()
    sha256 = hashlib.sha256(content).hexdigest()
    path = one.folder / "store" / "sha256" / sha256[:2] / sha256
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    one.launch["artifacts_dir"] = one.folder / "store"
    framework = "onnx" if kind == "onnx" else "scikit-learn"
    one.launch["artifact"] = {"digest": f"sha256:{sha256}", "file_name": "m", "framework": framework}
    if kind == "pickle":
        code, file = failed(one)
        assert (code, file.error_code) == (EXIT_FAILED, "pickle_not_allowed")
        one.path.unlink()
        one.launch["allow_pickle"] = True
    one.start()
    assert one.file().state == "ready"
    assert 'runtime="onnxruntime"' in fetch(one, "/metrics")[1] or kind != "onnx"


async def test_a_gateway_may_ping_an_idle_stream_as_often_as_it_likes(replica):
    one = replica().start()
    # A server of gRPC's defaults ends such a connection at its third ping.
    options = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0)]
    async with grpc.aio.insecure_channel(one.file().address, options=options) as channel:
        stream = Gateway(stubs.ModelServerServiceStub(channel).Frames())
        await stream.open(one)
        idle = asyncio.create_task(stream.read())
        done, _ = await asyncio.wait([idle], timeout=6)
        assert not done, idle.result()
        await stream.send(request(ROW))
        assert len((await idle).frame.responses) == 1
        stream.cancel()
