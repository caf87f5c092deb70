"""REST bodies to messages and back, by tables and by round trips."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from phantom_inference_gateway import tensors
from phantom_inference_gateway.converters import (
    RestRequest,
    parse_index_request,
    parse_request,
    render_response,
)
from phantom_platform.errors import Invalid, PhantomError, Unsupported

JSON_REPLY = RestRequest(b"", "", {})
BINARY_REPLY = RestRequest(b"", "", {}, is_binary=True)


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2.5]} | more


def parse(document: object, blobs: bytes | None = None, model: str = "m", version: str = "") -> RestRequest:
    text = orjson.dumps(document)
    return parse_request(text + (blobs or b""), len(text) if blobs is not None else None, model, version)


def message(request: RestRequest) -> ModelInferRequest:
    return ModelInferRequest.FromString(request.body)


def texts(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)


def test_a_json_request_becomes_a_raw_one() -> None:
    request = parse(
        {
            "id": "é-1",
            "parameters": {"user": "u1", "n": 5, "big": 2**64 - 1, "yes": True, "share": 0.5, "neg": -3},
            "inputs": [
                tensor(parameters={"content_type": "np"}),
                tensor(name="s", datatype="BYTES", shape=[1, 2], data=["a", "éè"]),
            ],
            "outputs": [{"name": "label", "parameters": {"top": 3}}],
            "model_name": "m",
        },
        version="1.0.0",
    )
    got = message(request)
    assert (got.model_name, got.model_version, got.id) == ("m", "1.0.0", "é-1")
    assert got.parameters["user"].string_param == "u1"
    assert got.parameters["n"].int64_param == 5
    assert got.parameters["neg"].int64_param == -3
    assert got.parameters["big"].uint64_param == 2**64 - 1
    assert got.parameters["yes"].bool_param is True
    assert got.parameters["share"].double_param == 0.5
    assert [(each.name, each.datatype, list(each.shape)) for each in got.inputs] == [
        ("x", "FP32", [2]),
        ("s", "BYTES", [1, 2]),
    ]
    assert got.inputs[0].parameters["content_type"].string_param == "np"
    assert list(got.raw_input_contents) == [struct.pack("<2f", 1, 2.5), texts("a", "éè")]
    assert got.outputs[0].name == "label"
    assert got.outputs[0].parameters["top"].int64_param == 3
    assert not request.wants_binary("label")
    assert [request.unit(name) for name in ("user", "n", "yes", "absent")] == ["u1", "5", "true", None]
    with pytest.raises(Invalid) as refused:
        request.unit("share")
    assert refused.value.code == "invalid_unit"


def test_triton_clients_default_call_is_understood() -> None:
    blob = struct.pack("<2f", 1, 2)
    document = {
        "parameters": {"binary_data_output": True},
        "inputs": [
            {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": len(blob)}},
            {"name": "s", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
            tensor(name="j"),
        ],
    }
    request = parse(document, blob + texts("ab"))
    got = message(request)
    assert list(got.raw_input_contents) == [blob, texts("ab"), struct.pack("<2f", 1, 2.5)]
    assert not got.parameters
    assert not got.inputs[0].parameters
    assert request.wants_binary("anything")


def test_outputs_say_themselves_how_they_are_wanted() -> None:
    outputs = [
        {"name": "a", "parameters": {"binary_data": True}},
        {"name": "b", "parameters": {"binary_data": False}},
        {"name": "c"},
    ]
    request = parse({"inputs": [tensor()], "outputs": outputs})
    assert [request.wants_binary(name) for name in "abc"] == [True, False, False]
    request = parse({"inputs": [tensor()], "outputs": outputs, "parameters": {"binary_data_output": True}})
    assert [request.wants_binary(name) for name in "abc"] == [True, False, True]


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 3], [1, 2, 3, 4, 5, 6]),
        ([2, 3], [[1, 2, 3], [4, 5, 6]]),
        ([1, 2, 3], [[[1, 2, 3], [4, 5, 6]]]),
        ([6, 1], [[1], [2], [3], [4], [5], [6]]),
    ],
)
def test_data_may_be_flat_or_nested_as_the_shape_says(shape: list[int], data: list[Any]) -> None:
    raw = tensors.raw_from_json("x", "INT64", shape, data)
    assert raw == struct.pack("<6q", 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize("data", [[], [[], []], [[]]])
def test_a_tensor_may_be_empty(data: list[Any]) -> None:
    shape = [len(data), 0]
    assert tensors.raw_from_json("x", "FP32", shape, data) == b""


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"data": [1]}, "wrong_shape", ["'x'", "expected 2 values", "got 1"]),
        (
            {"shape": [2, 2], "data": [[1, 2], [3]]},
            "wrong_shape",
            ["arrays of 2", "got 1 at number 1"],
        ),
        ({"shape": [2, 3], "data": [[1, 2], [3, 4], [5, 6]]}, "wrong_shape", ["expected 2 rows", "got 3"]),
        ({"shape": [2, 1], "data": [[[1]], [[2]]]}, "wrong_value", ["numbers", "an array at value 0"]),
        ({"shape": [2, 2], "data": [[1, 2], 3]}, "wrong_shape", ["arrays of 2", "got 3 at number 1"]),
        ({"shape": [-1]}, "wrong_shape", ["inputs[0].shape", "-1"]),
        ({"shape": [2.0]}, "wrong_shape", ["2.0"]),
        ({"shape": "2"}, "wrong_shape", ["inputs[0].shape"]),
        ({"shape": [1 << 40, 1 << 40]}, "wrong_shape", ["at most"]),
        ({"shape": [1] * 65}, "wrong_shape", ["at most 64"]),
        ({"data": ["1", "2"]}, "wrong_value", ["numbers", "FP32", "a string at value 0"]),
        ({"data": [1, True]}, "wrong_value", ["true at value 1"]),
        ({"data": [1, {}]}, "wrong_value", ["an object at value 1"]),
        ({"data": 5}, "wrong_value", ["an array", "got 5"]),
        ({"data": None}, "wrong_value", ["null"]),
        ({"data": [1, 1e39]}, "wrong_value", ["FP32 can hold", "1e+39 at value 1"]),
        ({"datatype": "INT8", "data": [1, 128]}, "wrong_value", ["-128 to 127", "got 128 at value 1"]),
        ({"datatype": "INT8", "data": [1, -129]}, "wrong_value", ["got -129 at value 1"]),
        ({"datatype": "UINT64", "data": [1, -1]}, "wrong_value", ["0 to 18446744073709551615", "-1"]),
        ({"datatype": "INT64", "data": [1, 2**63]}, "wrong_value", ["got 9223372036854775808"]),
        ({"datatype": "INT32", "data": [1, 1.0]}, "wrong_value", ["integers", "1.0 at value 1"]),
        ({"datatype": "INT32", "data": [1, None]}, "wrong_value", ["null at value 1"]),
        ({"datatype": "BOOL", "data": [True, 1]}, "wrong_value", ["true or false", "1 at value 1"]),
        ({"datatype": "BYTES", "data": ["a", 1]}, "wrong_value", ["strings", "1 at value 1"]),
        ({"datatype": "FP16"}, "wrong_datatype", ["FP16", "binary data"]),
        ({"datatype": "BF16"}, "wrong_datatype", ["BF16", "binary data"]),
        ({"datatype": "STRING"}, "wrong_datatype", ["inputs[0].datatype", "BYTES", "'STRING'"]),
        ({"datatype": None}, "wrong_datatype", ["inputs[0].datatype"]),
        ({"name": ""}, "invalid_request", ["inputs[0].name"]),
        ({"name": 5}, "invalid_request", ["inputs[0].name"]),
        ({"parameters": {"a": None}}, "invalid_request", ["inputs[0].parameters.a"]),
        ({"parameters": {"a": [1]}}, "invalid_request", ["inputs[0].parameters.a"]),
        ({"parameters": 1}, "invalid_request", ["inputs[0].parameters"]),
        ({"parameters": {"binary_data_size": 8}}, "invalid_request", ["either data or"]),
        ({"dtype": "FP32"}, "invalid_request", ["inputs[0].dtype", "datatype"]),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(change: dict[str, Any], code: str, words: list[str]) -> None:
    with pytest.raises(Invalid) as refused:
        parse({"inputs": [tensor(**change)]})
    assert refused.value.code == code
    for word in words:
        assert word in refused.value.message


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {}}, "inputs"),
        ({"inputs": [1]}, "inputs[0]"),
        ({"inputs": [tensor()], "outputs": [{}]}, "outputs[0].name"),
        ({"inputs": [tensor()], "outputs": {}}, "outputs"),
        ({"inputs": [tensor()], "outputs": [{"name": "a", "parameters": {"binary_data": 1}}]}, "binary_data"),
        ({"inputs": [tensor()], "parameters": {"binary_data_output": "yes"}}, "binary_data_output"),
        ({"inputs": [tensor()], "id": 7}, "id"),
        ({"inputs": [tensor()], "model_name": "other"}, "model_name"),
        ({"inputs": [tensor()], "instances": []}, "instances"),
    ],
)
def test_a_wrong_body_is_refused_by_field(document: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(document)
    assert words in refused.value.message


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"NaN", b'{"inputs": [NaN]}', b'{"id": "\xff"}', b'{"id": "\\ud800"}']
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        parse_request(body, None, "m", "")
    assert refused.value.code == "invalid_json"


def binary_input(size: object, shape: list[int], datatype: str = "FP32") -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "parameters": parameters}]}


@pytest.mark.parametrize(
    ("document", "blobs", "words"),
    [
        (binary_input(8, [2]), None, "Inference-Header-Content-Length"),
        (binary_input(8, [2]), bytes(7), "7 are left"),
        (binary_input(8, [2]), bytes(9), "1 bytes follow"),
        (binary_input(8, [3]), bytes(8), "expected 12 bytes for FP32 [3], got 8"),
        (binary_input(8, [3], "BYTES"), bytes(8), "expected at least 12 bytes"),
        (binary_input(-1, [2]), b"", "binary_data_size"),
        (binary_input("8", [2]), bytes(8), "binary_data_size"),
        (binary_input(True, [2]), bytes(8), "binary_data_size"),
    ],
)
def test_wrong_binary_data_is_refused(document: dict[str, Any], blobs: bytes | None, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(document, blobs)
    assert words in refused.value.message


def test_a_json_length_beyond_the_body_is_refused() -> None:
    with pytest.raises(Invalid) as refused:
        parse_request(b"{}", 3, "m", "")
    assert refused.value.code == "invalid_header"


def test_half_precision_comes_and_goes_as_binary_data() -> None:
    raw = np.array([1.5, -2], "<f2").tobytes()
    for datatype in ("FP16", "BF16"):
        assert list(message(parse(binary_input(4, [2], datatype), raw)).raw_input_contents) == [raw]


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": [tensor(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8})]},
        {
            "inputs": [tensor()],
            "outputs": [{"name": "a", "parameters": {"shared_memory_region": "r"}}],
        },
        {"inputs": [tensor()], "outputs": [{"name": "a", "parameters": {"classification": 3}}]},
    ],
)
def test_extensions_that_are_not_offered_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as refused:
        parse(document)
    assert refused.value.code == "unsupported_extension"


def test_null_is_a_missing_number_both_ways() -> None:
    raw = tensors.raw_from_json("x", "FP64", [2], [None, 1])
    assert np.isnan(np.frombuffer(raw)[0])
    text, _ = render_response(answer(("x", "FP64", [2], raw)), JSON_REPLY)
    assert orjson.loads(text)["outputs"][0]["data"] == [None, 1.0]


def answer(*outputs: tuple[str, str, list[int], bytes], **more: Any) -> bytes:
    response = ModelInferResponse(model_name="m", model_version="1.0.0", **more)
    for name, datatype, shape, raw in outputs:
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(raw)
    return response.SerializeToString()


def test_an_answer_becomes_json() -> None:
    body = answer(
        ("label", "BYTES", [2], texts("late", "für")),
        ("p", "FP32", [2, 2], struct.pack("<4f", 0.1, 0.5, 0.25, 0.75)),
        id="id-1",
    )
    response = ModelInferResponse.FromString(body)
    response.parameters["n"].uint64_param = 2**64 - 1
    response.outputs[0].parameters["content_type"].string_param = "str"
    text, json_length = render_response(response.SerializeToString(), JSON_REPLY)
    assert json_length is None
    assert orjson.loads(text) == {
        "model_name": "m",
        "model_version": "1.0.0",
        "id": "id-1",
        "parameters": {"n": 2**64 - 1},
        "outputs": [
            {
                "name": "label",
                "datatype": "BYTES",
                "shape": [2],
                "data": ["late", "für"],
                "parameters": {"content_type": "str"},
            },
            {
                "name": "p",
                "datatype": "FP32",
                "shape": [2, 2],
                "data": [float(np.float32(0.1)), 0.5, 0.25, 0.75],
            },
        ],
    }


def test_an_answer_becomes_binary_where_that_was_asked_for() -> None:
    p = struct.pack("<2f", float("inf"), 0.9)
    body = answer(("label", "BYTES", [1], texts("late")), ("p", "FP32", [2], p))
    for request, expected in (
        (BINARY_REPLY, texts("late") + p),
        (RestRequest(b"", "", {}, {"p": True}), p),
    ):
        rendered, json_length = render_response(body, request)
        assert json_length is not None
        document = orjson.loads(rendered[:json_length])
        assert rendered[json_length:] == expected
        by_name = {each["name"]: each for each in document["outputs"]}
        assert by_name["p"]["parameters"] == {"binary_data_size": 8}
        assert "data" not in by_name["p"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (("p", "FP32", [1], struct.pack("<f", float("-inf"))), "infinite"),
        (("p", "BYTES", [1], b"\x01\x00\x00\x00\xff"), "UTF-8"),
        (("p", "BF16", [1], b"\x00\x00"), "BF16"),
    ],
)
def test_what_json_cannot_express_is_refused_with_the_way_out(output: tuple[Any, ...], words: str) -> None:
    with pytest.raises(Unsupported) as refused:
        render_response(answer(output), JSON_REPLY)
    assert refused.value.code == "not_json"
    assert words in refused.value.message
    assert "binary_data" in refused.value.message
    render_response(answer(output), BINARY_REPLY)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        answer(("p", "FP32", [2], bytes(4))),
        answer(("p", "BYTES", [1], b"\x09\x00\x00\x00a")),
        answer(("p", "BYTES", [1], b"\x00\x00\x00\x00\x00")),
        ModelInferResponse(outputs=[{"name": "p", "datatype": "FP16", "shape": [1]}]).SerializeToString(),
        ModelInferResponse(outputs=[{"name": "p"}], raw_output_contents=[b"", b""]).SerializeToString(),
    ],
)
def test_an_answer_that_makes_no_sense_is_the_servers_fault(body: bytes) -> None:
    with pytest.raises(PhantomError) as failed:
        render_response(body, JSON_REPLY)
    assert failed.value.code == "bad_answer"


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-1, 7]),
        ("INT64", "int64_contents", [-(2**63), 1]),
        ("UINT16", "uint_contents", [65535, 0]),
        ("UINT64", "uint64_contents", [2**64 - 1, 0]),
        ("FP32", "fp32_contents", [0.5, 1.5]),
        ("FP64", "fp64_contents", [0.1, 1.5]),
        ("BYTES", "bytes_contents", [b"a", b"bc"]),
    ],
)
def test_typed_answers_of_other_servers_are_rendered_both_ways(
    datatype: str, field: str, values: list[Any]
) -> None:
    response = ModelInferResponse(model_name="m")
    output = response.outputs.add(name="o", datatype=datatype, shape=[2])
    getattr(output.contents, field).extend(values)
    text, _ = render_response(response.SerializeToString(), JSON_REPLY)
    plain = [each.decode() if isinstance(each, bytes) else each for each in values]
    assert orjson.loads(text)["outputs"][0]["data"] == plain
    rendered, json_length = render_response(response.SerializeToString(), BINARY_REPLY)
    assert rendered[json_length:] == tensors.raw_from_json("o", datatype, [2], plain)


@pytest.mark.parametrize(
    ("body", "only_ready"), [(b"", False), (b" ", False), (b"{}", False), (b'{"ready":true}', True)]
)
def test_an_index_request_is_often_empty(body: bytes, only_ready: bool) -> None:
    assert parse_index_request(body) is only_ready


@pytest.mark.parametrize("body", [b"[]", b"x", b'{"ready": 1}'])
def test_a_wrong_index_request_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        parse_index_request(body)


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "BOOL": st.booleans(),
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FP64": st.floats(allow_nan=False, allow_infinity=False),
    "BYTES": st.text(st.characters(exclude_categories=["Cs"])),
    **{
        datatype: st.integers(*tensors.integer_range(datatype))
        for datatype in tensors.WIDTHS
        if "INT" in datatype
    },
}


def test_floats_are_answered_as_the_numbers_that_they_are() -> None:
    for datatype, values in (
        (
            "FP32",
            [46213432.0, 0.10000000149011612, 1.401298464324817e-45, 3.4028234663852886e38, 16777216.0],
        ),
        ("FP16", [0.0999755859375, 65504.0, 5.960464477539063e-08]),
        ("FP64", [0.1, 5e-324, 1.7976931348623157e308]),
    ):
        raw = np.array(values, tensors._NUMPY[datatype]).tobytes()
        text, _ = render_response(answer(("x", datatype, [len(values)], raw)), JSON_REPLY)
        assert orjson.loads(text)["outputs"][0]["data"] == values


@given(st.data())
def test_whatever_goes_in_as_json_comes_out_as_it_was(data: st.DataObject) -> None:
    datatype = data.draw(st.sampled_from(sorted(_VALUES)))
    rows, columns = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 3))
    values = data.draw(st.lists(_VALUES[datatype], min_size=rows * columns, max_size=rows * columns))
    nested = [values[at : at + columns] for at in range(0, len(values), columns)]
    given_data = data.draw(st.sampled_from([values, nested]))
    item = {"name": "x", "datatype": datatype, "shape": [rows, columns], "data": given_data}
    (raw,) = message(parse({"inputs": [item]})).raw_input_contents
    body = answer(("x", datatype, [rows, columns], raw))
    text, _ = render_response(body, JSON_REPLY)
    assert orjson.loads(text)["outputs"][0]["data"] == values
    rendered, json_length = render_response(body, BINARY_REPLY)
    assert rendered[json_length:] == raw


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_read_or_refused(data: object) -> None:
    try:
        text = orjson.dumps({"inputs": [tensor(data=data)], "parameters": {"p": data}})
    except (TypeError, orjson.JSONEncodeError):  # integers beyond 64 bits, surrogates
        return
    with contextlib.suppress(Invalid):
        parse_request(text, None, "m", "")
