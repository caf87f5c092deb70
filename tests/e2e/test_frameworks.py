"""Each framework's file, from registration to the same answer through every door."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xgboost

from harness import models, oip
from harness.models import Kind
from phantom_ml_studio import InferenceClient

if TYPE_CHECKING:
    from conftest import Studio
    from harness.stack import Stack

ROWS = [(0.1, 0.3), (0.9, 0.7), (0.45, 0.2)]


@pytest.mark.parametrize("kind", models.KINDS, ids=[kind.ending for kind in models.KINDS])
def test_a_registered_file_answers_alike_through_grpc_stream_and_rest(
    kind: Kind, studio: Studio, door: oip.Door, stack: Stack, run_id: str
) -> None:
    name = f"kind-{kind.ending}-{run_id}"
    path = kind.write(studio.file(f"{name}.{kind.ending}"))
    made = studio.serve(name, path)
    assert studio.registry.get_version(name).framework == kind.framework
    columns = {"amount": [row[0] for row in ROWS], "hour": [row[1] for row in ROWS]}

    unary = door.infer(oip.request(made.id, columns, id="unary", user_id="u1"))
    labels, scores = unary.texts("label"), unary.floats("score")
    assert labels[:2] == ["low", "high"]
    assert scores[0] < 0.5 < scores[1]
    assert unary.message.id == "unary"
    assert unary.headers["phantom-revision"] == f"{made.id}.1"
    assert unary.headers["phantom-variant"] == "control"

    (streamed,) = door.stream([oip.request(made.id, columns, id="streamed", user_id="u1")])
    assert streamed.error_message == ""
    assert oip.Reply(streamed.infer_response, {}).floats("score") == scores
    assert streamed.infer_response.parameters["phantom_revision"].string_param == f"{made.id}.1"

    matrix = {"name": "features", "shape": [3, 2], "datatype": "FP64", "data": ROWS}
    posted = door.rest.post(f"/v2/models/{made.id}/infer", json={"id": "posted", "inputs": [matrix]})
    assert posted.status_code == 200, posted.text
    found = {output["name"]: output for output in posted.json()["outputs"]}
    assert found["label"]["data"] == labels
    assert found["score"]["data"] == pytest.approx(scores, abs=1e-6)
    assert posted.headers["phantom-revision"] == f"{made.id}.1"

    told = InferenceClient(stack.grpc).predict(made.id, [{"amount": a, "hour": h} for a, h in ROWS])
    assert told.labels == labels
    assert told.scores == scores
    assert [sum(row) for row in told.probabilities] == pytest.approx([1, 1, 1], abs=1e-5)
    studio.deployments.delete(made.id)


def test_a_booster_answers_as_xgboost_itself_does(door: oip.Door, shop: object) -> None:
    rows = models.data(7)[0]
    matrix = xgboost.DMatrix(rows, feature_names=models.FEATURES)
    expected = models.booster(0).predict(matrix)
    message = oip.oip.message("ModelInferRequest")(model_name=shop.id)  # type: ignore[attr-defined]
    message.inputs.add(name="features", datatype="FP32", shape=list(rows.shape))
    message.raw_input_contents.append(rows.tobytes())
    reply = door.infer(message)
    assert np.allclose(struct.unpack("<400f", reply.raw("score")), expected, atol=1e-6)
