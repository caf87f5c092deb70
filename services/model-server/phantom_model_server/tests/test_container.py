"""A model server by itself, as an image starts it: one file, no deployer, REST and gRPC on fixed ports."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest

from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc as oip_stubs
from phantom_contracts.container import ContainerFile
from phantom_contracts.launch import EXIT_FAILED

ROW = [0.5, 13, 1, 2.0]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def content(artifacts):
    """content(name, **changes) → what the image's file holds."""
    _, models = artifacts

    def make(name="numeric", **changes):
        schema, path, sha256 = models[name]
        return {
            "model_id": "flights",
            "model_version": "2.1.0",
            "artifact": {"digest": f"sha256:{sha256}", "file_name": "model", "framework": "xgboost"},
            "artifact_path": str(path),
            "model_schema": schema.model_dump(mode="json"),
            "host": "127.0.0.1",
            "http_port": free_port(),
            "grpc_port": free_port(),
            **changes,
        }

    return make


def spawn(folder, document):
    path = folder / "serve.json"
    path.write_text(json.dumps(document))
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "phantom_model_server", "--container", str(path)], stdout=log, stderr=log
        )


@pytest.fixture(scope="module")
def server(content, tmp_path_factory):
    folder, document = tmp_path_factory.mktemp("container"), content()
    process = spawn(folder, document)
    until = time.monotonic() + 60
    try:
        while True:
            try:
                if ask(document, "/health")[0] == 200:
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.05)
        yield document
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def ask(document, path, body=None, headers=None):
    request = urllib.request.Request(
        f"http://127.0.0.1:{document['http_port']}{path}",
        data=None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode(),
        headers=headers or {},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def features(rows=(ROW,), **changes):
    tensor = {"name": "features", "datatype": "FP64", "shape": [len(rows), 4], "data": list(rows), **changes}
    return {"id": "r1", "inputs": [tensor]}


def test_health_and_readiness_are_answered(server):
    assert ask(server, "/health") == (200, {"live": True})
    assert ask(server, "/ready")[0] == 200
    assert ask(server, "/v2/health/live") == (200, {"live": True})
    assert ask(server, "/v2/health/ready") == (200, {"ready": True})
    assert ask(server, "/v2/models/flights/ready") == (200, {"ready": True})
    assert ask(server, "/v2")[1]["name"] == "phantom-model-server"


def test_metadata_names_the_inputs_and_outputs(server):
    status, found = ask(server, "/v2/models/flights/versions/2.1.0")
    assert (status, found["versions"]) == (200, ["2.1.0"])
    assert found["inputs"] == [{"name": "features", "datatype": "FP64", "shape": [-1, 4]}]
    assert {each["name"] for each in found["outputs"]} == {"label", "probabilities", "score"}


def test_rows_are_answered_over_rest_as_over_grpc(server):
    status, found = ask(server, "/v2/models/flights/infer", features([ROW, ROW]))
    assert (status, found["id"], found["model_version"]) == (200, "r1", "2.1.0")
    by_rest = {each["name"]: each for each in found["outputs"]}
    assert by_rest["probabilities"]["shape"] == [2, 2]
    request = oip.ModelInferRequest(model_name="flights")
    request.inputs.add(name="features", datatype="FP64", shape=[1, 4])
    request.raw_input_contents.append(np.array(ROW).tobytes())
    with grpc.insecure_channel(f"127.0.0.1:{server['grpc_port']}") as channel:
        answer = oip_stubs.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    outputs = dict(zip([each.name for each in answer.outputs], answer.raw_output_contents, strict=True))
    probabilities = np.frombuffer(outputs["probabilities"], np.float32)
    assert by_rest["probabilities"]["data"][:2] == pytest.approx(probabilities.tolist())


def test_a_missing_number_is_null_and_wanted_outputs_can_be_chosen(server):
    body = features([[None, 13, 1, 2.0]])
    body["outputs"] = [{"name": "score"}]
    status, found = ask(server, "/v2/models/flights/infer", body)
    assert (status, [each["name"] for each in found["outputs"]]) == (200, ["score"])


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v2/models/other/infer", features(), 404, "not served here"),
        ("/v2/models/flights/versions/9/infer", features(), 404, "not served here"),
        ("/v2/models/flights/infer", b"{", 400, "not valid JSON"),
        ("/v2/models/flights/infer", {"inputs": 3}, 400, "array of inputs"),
        ("/v2/models/flights/infer", features(datatype="FP8"), 400, "inputs[0].datatype"),
        ("/v2/models/flights/infer", features(shape="x"), 400, "inputs[0].shape"),
        ("/v2/models/flights/infer", features(data=[["a", 1, 1, 1]]), 400, "inputs[0].data"),
        ("/v2/models/flights/infer", features(shape=[2, 4]), 400, "features"),
        ("/v2/models/flights/infer", features(name="strange"), 400, "strange"),
    ],
)
def test_a_bad_call_is_refused_by_name(path, body, status, says, server):
    found = ask(server, path, body)
    assert found[0] == status
    assert says in found[1]["error"]
    assert found[1]["code"]


def test_binary_tensors_are_refused_over_rest(server):
    headers = {"Inference-Header-Content-Length": "10"}
    status, found = ask(server, "/v2/models/flights/infer", features(), headers)
    assert (status, found["code"]) == (501, "unsupported_extension")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_id": ""}, "model_id"),
        ({"surprise": 1}, "surprise"),
        ({"artifact_path": "models/nothing"}, "is not in the image"),
        ({"artifact": {"digest": "sha256:" + "0" * 64, "file_name": "m", "framework": "xgboost"}}, "digest"),
    ],
)
def test_a_file_that_cannot_be_served_ends_the_process_and_says_why(changes, says, content, tmp_path):
    process = spawn(tmp_path, content(**changes))
    assert process.wait(60) == EXIT_FAILED
    assert says in (tmp_path / "log").read_text()


def test_the_files_defaults_are_the_images_ports(content):
    document = content()
    for key in ("host", "http_port", "grpc_port"):
        del document[key]
    file = ContainerFile.model_validate(document)
    assert (file.host, file.http_port, file.grpc_port) == ("0.0.0.0", 8080, 8081)
