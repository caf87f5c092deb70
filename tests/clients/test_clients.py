"""Clients that no one here wrote, each in its own environment (`tools/clients.sh`), against the gateway."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import models
from harness.stack import ROOT
from phantom_ml_studio import Deployments, InferenceClient, ModelRegistry

if TYPE_CHECKING:
    from harness.people import People
    from harness.stack import Stack

pytestmark = pytest.mark.clients
HERE = Path(__file__).parent
ENVIRONMENTS = Path(os.environ.get("PHANTOM_CACHE_DIR") or ROOT / ".cache") / "clients"
ROWS = [{"amount": 0.1, "hour": 0.3}, {"amount": 0.9, "hour": 0.7}]
TEXTS = [{"amount": 0.1, "channel": "web"}, {"amount": 0.9, "channel": "shop"}]


@pytest.fixture(scope="module")
def endpoints(
    stack: Stack, people: People, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
    """(names of a numeric and a mixed endpoint, what our own client gets from each)"""
    folder, client = tmp_path_factory.mktemp("clients"), people.engineer.client
    suffix, made = people.engineer.name[-6:], []
    for name, path, schema in (
        (f"numeric-{suffix}", models.xgboost_file(folder / "numeric.ubj"), models.SCHEMA),
        (f"mixed-clients-{suffix}", models.mixed_file(folder / "mixed.ubj"), models.MIXED_SCHEMA),
    ):
        ModelRegistry(client).register_model(name, path, schema=schema)
        made.append(Deployments(client).deploy(name).id)
    for each in made:
        Deployments(client).wait_ready(each)
    return made, expected(stack, made[0], ROWS), expected(stack, made[1], TEXTS)


def expected(stack: Stack, endpoint: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    with InferenceClient(stack.grpc) as client:
        own = client.predict(endpoint, rows)
    return {
        "labels": own.labels,
        "scores": [pytest.approx(score, abs=1e-5) for score in own.scores],
        "probabilities": [2, 2],
    }


def run(environment: str, script: str, stack: Stack, names: list[str]) -> dict[str, Any]:
    """A script in a client's environment; what it printed."""
    python = ENVIRONMENTS / environment / "bin" / "python"
    assert python.exists(), f"{python} is missing: run tools/clients.sh"
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), str(HERE / script), stack.grpc, stack.http, *names],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=inherited,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_tritonclient_gets_health_metadata_answers_and_streams(
    stack: Stack, endpoints: tuple[list[str], dict[str, Any], dict[str, Any]]
) -> None:
    names, rows, texts = endpoints
    found = run("triton", "check_triton.py", stack, names)
    for door in ("grpc", "http"):
        told = found[door]
        assert told["live"] is told["ready"] is told["model_ready"] is told["version_ready"] is True
        assert told["nothing_ready"] is False
        assert told["server"] == "phantom-inference-gateway"
        assert told["inputs"] == [["features", "FP64", [-1, 2]]]
        assert "no endpoint 'nothing'" in told["unknown"][1]
        assert told["texts"] == texts
    by_grpc, by_http = found["grpc"], found["http"]
    assert by_grpc["unknown"][0] == "StatusCode.NOT_FOUND"
    assert by_http["unknown"][0] == "404"
    assert [by_grpc[how] for how in ("raw", "fp32", "pinned")] == [rows] * 3
    assert [by_http[how] for how in ("binary", "json", "compressed")] == [rows] * 3
    assert by_http["parallel"] == [rows] * 4
    assert by_grpc["one_output"] == ["score"]
    assert "binary_tensor_data" in by_http["extensions"]
    stream = by_grpc["stream"]
    assert stream["ids"] == [str(n) for n in range(10) if n != 4]
    assert stream["answers"] == rows
    assert stream["final"] is True
    assert len(stream["errors"]) == 1
    assert "no endpoint 'nothing'" in stream["errors"][0]


def test_kserves_clients_get_health_and_answers_typed_raw_json_and_binary(
    stack: Stack, endpoints: tuple[list[str], dict[str, Any], dict[str, Any]]
) -> None:
    names, rows, texts = endpoints
    found = run("kserve", "check_kserve.py", stack, names)
    for door in ("grpc", "rest"):
        told = found[door]
        assert told["live"] is told["ready"] is told["model_ready"] is True
        assert told["texts"] == texts
    assert found["grpc"]["nothing_ready"] is False
    assert [found["grpc"][how] for how in ("raw", "typed")] == [rows] * 2
    assert [found["rest"][how] for how in ("binary", "json")] == [rows] * 2
    assert found["grpc"]["unknown"] == "NOT_FOUND"
    assert found["rest"]["unknown"] == 404
