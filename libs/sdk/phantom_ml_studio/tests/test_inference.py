"""Rows to tensors and back."""

from __future__ import annotations

import math
import struct
import time
from typing import Any

import grpc
import pytest

from phantom_ml_studio import InferenceClient, credentials, oip
from phantom_ml_studio.errors import Invalid, NotFound
from phantom_ml_studio.inference import Value
from phantom_ml_studio.tests.fake_platform import FakePlatform, Refusal
from phantom_ml_studio.tests.test_cli_calls import run
from phantom_ml_studio.tracing import trace


def reply(scores: list[float], labels: list[str] | None = None) -> Any:
    message = oip.message("ModelInferResponse")(model_name="e")
    if labels is not None:
        message.outputs.add(name="label", datatype="BYTES", shape=[len(labels)])
        raw = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in labels)
        message.raw_output_contents.append(raw)
        message.outputs.add(name="probabilities", datatype="FP32", shape=[len(labels), 2])
        message.raw_output_contents.append(struct.pack(f"<{2 * len(labels)}f", *([0.25, 0.75] * len(labels))))
    message.outputs.add(name="score", datatype="FP32", shape=[len(scores)])
    message.raw_output_contents.append(struct.pack(f"<{len(scores)}f", *scores))
    return message


class Recorder:
    """Keeps the request that came."""

    def __init__(self, platform: FakePlatform, answer: Any) -> None:
        self.request: Any = None
        platform.methods["ModelInfer"] = self._infer
        self._answer = answer

    def _infer(self, body: bytes) -> Any:
        self.request = oip.message("ModelInferRequest").FromString(body)
        return self._answer

    def column(self, name: str) -> tuple[str, list[int], bytes]:
        """Datatype, shape and bytes of an input."""
        at = [each.name for each in self.request.inputs].index(name)
        each = self.request.inputs[at]
        return each.datatype, list(each.shape), self.request.raw_input_contents[at]


def test_rows_become_one_tensor_a_feature_and_answers_become_lists(platform: FakePlatform) -> None:
    seen = Recorder(platform, reply([0.5, 0.75], ["no", "yés"]))
    described = oip.message("ModelMetadataResponse")(name="e")
    described.parameters["hash_field"].string_param = "customer"
    platform.answer("ModelMetadata", described)
    rows: list[dict[str, Value]] = [
        {"amount": 1.5, "count": 3, "flag": True, "city": "Zürich"},
        {"amount": None, "count": -4, "flag": False},
    ]
    with InferenceClient(platform.address) as client:
        answer = client.predict("e", rows, unit="u-1", request_id="r-1", version="1.0.0")
        client.predict("e", rows, unit="u-1", request_id="r-1", version="1.0.0")
    assert [name for name, _ in platform.seen].count("ModelMetadata") == 1
    assert (seen.request.model_name, seen.request.model_version, seen.request.id) == ("e", "1.0.0", "r-1")
    assert dict(seen.request.parameters)["customer"].string_param == "u-1"
    datatype, shape, raw = seen.column("amount")
    first, second = struct.unpack("<2d", raw)
    assert (datatype, shape, first, math.isnan(second)) == ("FP64", [2, 1], 1.5, True)
    assert seen.column("count") == ("INT64", [2, 1], struct.pack("<2q", 3, -4))
    assert seen.column("flag") == ("BOOL", [2, 1], b"\x01\x00")
    assert seen.column("city") == ("BYTES", [2, 1], b"\x07\x00\x00\x00Z\xc3\xbcrich\x00\x00\x00\x00")
    assert answer.labels == ["no", "yés"]
    assert answer.scores == [0.5, 0.75]
    assert answer.probabilities == [[0.25, 0.75], [0.25, 0.75]]


def test_whole_numbers_are_sent_exactly_and_those_beyond_64_bits_as_floating_point(
    platform: FakePlatform,
) -> None:
    seen = Recorder(platform, reply([0.0]))
    with InferenceClient(platform.address) as client:
        client.predict("e", [{"exact": 2**53 + 1, "large": 2**70, "partly": 1}])
        assert seen.column("exact") == ("INT64", [1, 1], struct.pack("<q", 2**53 + 1))
        assert seen.column("large") == ("FP64", [1, 1], struct.pack("<d", 2.0**70))


def test_a_regression_has_scores_and_neither_labels_nor_probabilities(platform: FakePlatform) -> None:
    Recorder(platform, reply([2.5]))
    with InferenceClient(platform.address) as client:
        answer = client.predict("e", [{"a": 1.0}])
    assert (answer.labels, answer.scores, answer.probabilities) == ([], [2.5], [])


@pytest.mark.parametrize(
    ("rows", "code"),
    [([], "no_rows"), ([{"a": "x"}, {"a": 1}], "mixed_types"), ([{"a": [1]}], "bad_value")],
)
def test_rows_that_cannot_be_tensors_are_refused_before_sending(
    rows: list[dict[str, Any]], code: str, platform: FakePlatform
) -> None:
    with InferenceClient(platform.address) as client, pytest.raises(Invalid) as caught:
        client.predict("e", rows)
    assert caught.value.code == code
    assert platform.seen == []


def test_a_refused_prediction_has_its_class_its_code_and_inside_a_trace_its_id(
    platform: FakePlatform,
) -> None:
    platform.answer("ModelInfer", Refusal(grpc.StatusCode.NOT_FOUND, "no such", "endpoint_not_found"))
    with InferenceClient(platform.address) as client:
        with pytest.raises(NotFound) as caught:
            client.predict("e", [{"a": 1.0}])
        assert (caught.value.code, caught.value.trace_id) == ("endpoint_not_found", "")
        with trace() as trace_id, pytest.raises(NotFound) as traced:
            client.predict("e", [{"a": 1.0}])
        assert traced.value.trace_id == trace_id
    untraced, followed = (metadata for _, metadata in platform.seen)
    assert "traceparent" not in untraced
    assert trace_id in followed["traceparent"]


def test_the_command_sends_the_logins_token_only_to_a_gateway_that_asks_for_one(
    platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHANTOM_GATEWAY", platform.address)
    platform.answer(
        "ModelInfer",
        Refusal(grpc.StatusCode.UNAUTHENTICATED, "a token, please", "token_missing"),
        reply([0.5], ["no"]),
    )
    refused = run("predict", "e", "--json", "-", stdin='{"a": 1}')
    assert refused.exit_code == 4
    assert "not_logged_in" in refused.stderr
    credentials.save(credentials.Login("127.0.0.1:1", "ada", "of-ada", time.time() + 60))
    platform.answer(
        "ModelInfer",
        Refusal(grpc.StatusCode.UNAUTHENTICATED, "a token, please", "token_missing"),
        reply([0.5], ["no"]),
    )
    done = run("predict", "e", "--json", "-", stdin='{"a": 1}')
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:3] == ["0", "no", "0.5"]
    tokens = [metadata.get("authorization") for name, metadata in platform.seen if name == "ModelInfer"]
    assert tokens == [None, None, "Bearer of-ada"]
